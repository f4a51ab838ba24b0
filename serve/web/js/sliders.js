// A least and a most as two sliders that do not cross, and how many scenes there are at each risk.

import { element } from "./dom.js";

const HEIGHT = 32;

export function bounds({ keys, labels, values, max, step, told, chosen }) {
  const inputs = [];
  const made = [0, 1].map((k) => {
    const output = element("output", {}, told(values[k]));
    const input = element("input", { type: "range", min: "0", max: String(max), step: String(step), value: values[k],
      "data-key": keys[k], "data-focus": keys[k], "aria-valuetext": told(values[k]),
      oninput: () => {
        output.textContent = told(Number(input.value));
        input.setAttribute("aria-valuetext", output.textContent);
      },
      onchange: () => {
        const other = Number(inputs[1 - k].value);
        const mine = Number(input.value);
        if (k === 0) chosen(mine, Math.max(mine, other));
        else chosen(Math.min(mine, other), mine);
      } });
    // The step comes before the value, which a range rounds to it.
    input.value = values[k];
    inputs.push(input);
    return element("label", { class: "small" }, `${labels[k]} `, output, input);
  });
  return element("div", { class: "two" }, made);
}

/** Square roots, so that the few dangerous scenes are seen beside the many others. */
export function histogram(bins, from, to) {
  const most = Math.max(1, ...bins);
  const svg = element("svg:svg", { class: "histogram", viewBox: `0 0 ${bins.length} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  bins.forEach((value, k) => {
    const height = value ? Math.max(1.5, Math.sqrt(value / most) * HEIGHT) : 0;
    const isIn = (k + 1) / bins.length > from && k / bins.length < to;
    const bar = element("svg:rect", { class: isIn ? "in" : "out", x: k + 0.08, y: HEIGHT - height, width: 0.84, height });
    bar.append(element("svg:title", {}, `${value} scenes at ${(k / bins.length).toFixed(2)} to ${((k + 1) / bins.length).toFixed(2)}`));
    svg.append(bar);
  });
  return svg;
}
