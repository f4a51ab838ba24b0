// Risk over a drive, a bar a scene; each bar leads to its scene.

import { element } from "./dom.js";
import { link } from "./state.js";
import { moment, number } from "./words.js";

const WIDTH = 640;
const HEIGHT = 96;

export function timeline(drive, current) {
  const moments = drive.moments;
  const width = WIDTH / Math.max(1, moments.length);
  const svg = element("svg:svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT + 16}`, "aria-label": "Risk over the drive" });
  moments.forEach((each, k) => {
    const height = Math.max(3, (each.risk ?? 0) * HEIGHT);
    const isHere = each.scene_id === current;
    const bar = element("svg:a", { href: link({ view: "scene", id: each.scene_id }), "data-go": "1",
      "aria-label": `${moment(each.t_start_ns)}, risk ${number(each.risk)}`, "aria-current": isHere ? "true" : null },
      element("svg:rect", { class: isHere ? "bar-here" : "bar-risk", x: k * width + width * 0.08, y: HEIGHT - height,
        width: Math.max(1, width * 0.84), height }));
    bar.append(element("svg:title", {}, `${moment(each.t_start_ns)}: risk ${number(each.risk)}`));
    svg.append(bar);
  });
  svg.append(element("svg:line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    element("svg:text", { x: 0, y: HEIGHT + 13 }, moment(moments[0]?.t_start_ns ?? 0)),
    element("svg:text", { x: WIDTH, y: HEIGHT + 13, "text-anchor": "end" }, moment(moments.at(-1)?.t_end_ns ?? 0)));
  return svg;
}

export function neighbours(drive, current) {
  const k = drive.moments.findIndex((each) => each.scene_id === current);
  return { before: drive.moments[k - 1], after: drive.moments[k + 1] };
}
