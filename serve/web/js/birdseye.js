// The scene from above: the ego drives up, its own first place is the middle. Metres.

import { element } from "./dom.js";
import { words } from "./words.js";

const SIZE = 420;
const LEAST_REACH_M = 20;
const FARTHEST_M = 120;

export function birdsEye(plot) {
  const tracks = [...plot.agents, plot.ego];
  const all = tracks.flatMap((track) => track.steps);
  const nearby = all.filter(([x, y]) => Math.hypot(x, y) <= FARTHEST_M);
  const reach = Math.min(FARTHEST_M, Math.max(LEAST_REACH_M, ...nearby.map(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) + 4)));
  const scale = SIZE / 2 / reach;
  const place = ([x, y]) => [SIZE / 2 - y * scale, SIZE / 2 - x * scale];
  const worst = plot.agents.filter((agent) => agent.is_worst);
  const told = `${plot.agents.length} road users within ${Math.round(reach)} m; ` +
    (worst.length ? `the most dangerous is a ${words(worst[0].kind)}, drawn in red` : "none is marked as dangerous");
  const svg = element("svg:svg", { class: "plot", viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": told });
  const ring = reach > 60 ? 25 : 10;
  for (let metres = ring; metres <= reach; metres += ring) {
    svg.append(element("svg:circle", { class: "axis", cx: SIZE / 2, cy: SIZE / 2, r: metres * scale }),
      element("svg:text", { x: SIZE / 2 + 3, y: SIZE / 2 - metres * scale + 11 }, `${metres} m`));
  }
  for (const track of tracks) {
    const kind = track === plot.ego ? "ego" : track.is_worst ? "worst" : "agent";
    svg.append(path(track, kind, place), box(track, kind, place, scale));
  }
  return element("figure", { class: "stack", "data-plot": "birds-eye" }, svg,
    element("figcaption", { class: "small soft" }, `${told}. Boxes stand where each was last seen.`));
}

function path(track, kind, place) {
  const points = track.steps.map((step) => place(step).map((value) => value.toFixed(1)).join(",")).join(" ");
  return element("svg:polyline", { class: kind, points });
}

function box(track, kind, place, scale) {
  const [x, y] = place(track.steps.at(-1));
  const yaw = -(track.steps.at(-1)[2] * 180) / Math.PI;
  const [long, wide] = [track.length_m * scale, track.width_m * scale];
  const shape = element("svg:rect", { class: `${kind}-box`, x: x - wide / 2, y: y - long / 2, width: wide, height: long, rx: 1,
    transform: `rotate(${yaw.toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)})` });
  shape.append(element("svg:title", {}, kind === "ego" ? "this car" : words(track.kind)));
  return shape;
}
