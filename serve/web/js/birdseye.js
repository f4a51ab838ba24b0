// The scene from above: the ego drives up. Metres. Rings are around the ego's first place.

import { element } from "./dom.js";
import { words } from "./words.js";

const WIDTH = 460;
const HEIGHT = 400;
const REACHES_M = [15, 25, 40, 60, 90, 120];
const LEAST_BOX = 4; // pixels: a pedestrian is half a metre wide and must be seen

/** {root, at}: at(share) marks where the ego was at a share of the scene's time, which is known of the ego alone. */
export function birdsEye(plot) {
  const worst = plot.agents.find((agent) => agent.is_worst);
  const middle = (Math.min(...plot.ego.steps.map(([x]) => x)) + Math.max(...plot.ego.steps.map(([x]) => x))) / 2;
  const needed = Math.max(20, ...[plot.ego, worst].filter(Boolean).flatMap((track) => track.steps)
    .map(([x, y]) => Math.max(Math.abs(x - middle), Math.abs(y)) + 6));
  let zoom = REACHES_M.findIndex((reach) => reach >= needed);
  if (zoom < 0) zoom = REACHES_M.length - 1;
  let share = 0;
  const place = element("div");
  const told = element("p", { class: "small soft" });
  const draw = () => {
    const reach = REACHES_M[zoom];
    const near = plot.agents.filter((agent) => agent.steps.some(([x, y]) => Math.abs(x - middle) <= reach && Math.abs(y) <= reach));
    told.textContent = `${near.length} of ${plot.agents.length} road users are within ${reach} m. ` +
      (worst ? `The most dangerous is a ${words(worst.kind)}, drawn in red. ` : "None is marked as dangerous. ") +
      "Boxes stand where each was last seen, lines show how they came there.";
    place.replaceChildren(drawn(plot, reach, middle, share));
    [nearer.disabled, farther.disabled] = [zoom === 0, zoom === REACHES_M.length - 1];
  };
  const step = (by) => () => { zoom += by; draw(); };
  const nearer = element("button", { type: "button", "aria-label": "Nearer", id: "nearer", "aria-keyshortcuts": "+", onclick: step(-1) }, "+");
  const farther = element("button", { type: "button", "aria-label": "Farther", id: "farther", "aria-keyshortcuts": "-", onclick: step(1) }, "−");
  draw();
  const at = (moment) => { share = Math.min(1, Math.max(0, moment)); draw(); };
  const root = element("div", { class: "birds-eye", "data-plot": "birds-eye" }, place, element("div", { class: "zoom" }, nearer, farther), told);
  return { root, at };
}

function drawn(plot, reach, middle, share) {
  const scale = Math.min(WIDTH, HEIGHT) / 2 / reach;
  const place = ([x, y]) => [WIDTH / 2 - y * scale, HEIGHT / 2 - (x - middle) * scale];
  const svg = element("svg:svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "The scene from above" });
  const [x0, y0] = place([0, 0]);
  const ring = reach > 60 ? 25 : reach > 25 ? 10 : 5;
  for (let metres = ring; metres <= reach * 1.5; metres += ring) {
    svg.append(element("svg:circle", { class: "axis", cx: x0, cy: y0, r: metres * scale }));
  }
  const tracks = [...plot.agents.filter((agent) => !agent.is_worst), plot.ego, ...plot.agents.filter((agent) => agent.is_worst)];
  for (const track of tracks) {
    const kind = track === plot.ego ? "ego" : track.is_worst ? "worst" : "agent";
    svg.append(path(track, kind, place), box(track, kind, place, scale));
    if (kind === "worst") svg.append(...marked(track, place));
  }
  const [x, y] = place(between(plot.ego.steps, share));
  svg.append(element("svg:circle", { class: "ego-now", cx: x, cy: y, r: 4.5 }));
  for (let metres = ring; metres <= reach; metres += ring) {
    svg.append(element("svg:text", { x: x0 + 4, y: y0 - metres * scale - 3 }, `${metres} m`));
  }
  return svg;
}

function between(steps, share) {
  const at = share * (steps.length - 1);
  const [from, to] = [steps[Math.floor(at)], steps[Math.ceil(at)]];
  return from.map((value, k) => value + (to[k] - value) * (at % 1));
}

function path(track, kind, place) {
  const points = track.steps.map((step) => place(step).map((value) => value.toFixed(1)).join(",")).join(" ");
  return element("svg:polyline", { class: kind, points });
}

function box(track, kind, place, scale) {
  const [x, y] = place(track.steps.at(-1));
  const yaw = -(track.steps.at(-1)[2] * 180) / Math.PI;
  const [long, wide] = [track.length_m, track.width_m].map((metres) => Math.max(LEAST_BOX, metres * scale));
  const shape = element("svg:rect", { class: `${kind}-box`, x: x - wide / 2, y: y - long / 2, width: wide, height: long, rx: 1,
    transform: `rotate(${yaw.toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)})` });
  shape.append(element("svg:title", {}, kind === "ego" ? "this car" : words(track.kind)));
  return shape;
}

function marked(track, place) {
  const [x, y] = place(track.steps.at(-1));
  // Beside it, away from the ego's path.
  const isLeft = x > WIDTH * 0.7 || (x < WIDTH / 2 && x > WIDTH * 0.3);
  return [element("svg:circle", { class: "worst-ring", cx: x, cy: y, r: 12 }),
    element("svg:text", { class: "worst-name", x: x + (isLeft ? -17 : 17), y: y + 4, "text-anchor": isLeft ? "end" : "start" }, words(track.kind))];
}
