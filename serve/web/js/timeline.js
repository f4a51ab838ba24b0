// Risk over a drive, a bar a scene; each bar leads to its scene, and so do the keys [ and ].

import { element } from "./dom.js";
import { sceneLink } from "./state.js";
import { moment, number, riskClass } from "./words.js";

const HEIGHT = 100;

export function timeline(drive, current) {
  const { moments } = drive;
  const svg = element("svg:svg", { viewBox: `0 0 ${moments.length} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0, HEIGHT / 2]) svg.append(element("svg:line", { class: "axis", x1: 0, x2: moments.length, y1: y, y2: y }));
  moments.forEach((each, k) => {
    const isHere = each.scene_id === current;
    const told = `${moment(each.t_start_ns)}: risk ${each.risk === null ? "unknown" : number(each.risk)}`;
    // By mouse; with keys there are [ and ], which do not make somebody tab through a thousand bars.
    const bar = element("svg:a", { href: sceneLink(each.scene_id), "data-go": "1", tabindex: "-1" },
      element("svg:rect", { class: isHere ? "slot here" : "slot", x: k, y: 0, width: 1, height: HEIGHT }),
      each.risk === null
        ? element("svg:line", { class: "unknown", x1: k + 0.2, x2: k + 0.8, y1: HEIGHT - 2, y2: HEIGHT - 2 })
        : element("svg:rect", { class: `bar-${riskClass(each.risk)}`, x: k + 0.1, width: 0.8,
          y: HEIGHT * (1 - each.risk) - 2, height: HEIGHT * each.risk + 2 }),
      element("svg:title", {}, told));
    svg.append(bar);
  });
  const k = moments.findIndex((each) => each.scene_id === current);
  const known = moments.filter((each) => each.risk !== null);
  const worst = known.reduce((best, each) => (each.risk > best.risk ? each : best), known[0]);
  return element("figure", { class: "timeline" },
    element("div", { class: "scale small soft", "aria-hidden": "true" }, ["1", "0.5", "0"].map((text) => element("span", {}, text))),
    svg,
    element("div", { class: "ends small soft" }, element("span", {}, moment(moments[0]?.t_start_ns ?? 0)),
      element("span", {}, moment(moments.at(-1)?.t_end_ns ?? 0))),
    element("figcaption", { class: "small soft" }, `Scene ${k + 1} of ${moments.length}. ` +
      (worst ? `The highest risk of the drive is ${number(worst.risk)}, at ${moment(worst.t_start_ns)}.` : "No risk is known.") +
      (known.length < moments.length ? ` Dashes: ${moments.length - known.length} without a risk.` : "")));
}

export function neighbours(drive, current) {
  const k = drive.moments.findIndex((each) => each.scene_id === current);
  return { before: drive.moments[k - 1], after: drive.moments[k + 1] };
}
