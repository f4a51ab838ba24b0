// All cameras of a scene at one moment, played by keyframes.

import { api } from "./api.js";
import { element, replace } from "./dom.js";
import { load, picture } from "./pictures.js";
import { moment } from "./words.js";

const STEP_MS = 500;

export function player(id, thumbnails, signal) {
  const place = element("div", { class: "cameras" });
  const bar = element("div", { class: "play" });
  const root = element("div", {}, place, bar);
  show(place, bar, thumbnails, signal);
  // Originals are finer and there are more of them; the small ones stay where the log is out of reach.
  api.frames(id, "original").then((found) => {
    if (!signal.aborted && found.frames.length) show(place, bar, found.frames, signal);
    else if (!signal.aborted) bar.append(element("span", { class: "small soft" }, found.notes.join("; ")));
  }, () => {});
  return root;
}

function show(place, bar, frames, signal) {
  const cameras = Map.groupBy ? Map.groupBy(frames, (frame) => frame.camera) : group(frames);
  if (!cameras.size) {
    replace(place, element("p", { class: "empty" }, "This scene has no pictures."));
    replace(bar);
    return;
  }
  const times = [...new Set(frames.map((frame) => frame.t_ns))].sort((a, b) => a - b);
  const shots = [...cameras].map(([camera, of]) => {
    const image = picture(of[0].url, `${camera}`, false);
    const figure = element("figure", { class: `shot${cameras.size === 1 ? " one" : ""}` }, image, element("figcaption", {}, camera));
    return { of: of.toSorted((a, b) => a.t_ns - b.t_ns), image, figure };
  });
  replace(place, shots.map((shot) => shot.figure));
  const clock = element("output", { class: "small mono" });
  const slider = element("input", { type: "range", min: "0", max: String(times.length - 1), step: "1", value: "0", "aria-label": "Moment" });
  let timer = 0;
  const move = (k) => {
    slider.value = String(k);
    const now = times[k];
    clock.textContent = `${moment(now)} (+${((now - times[0]) / 1e9).toFixed(1)} s)`;
    for (const shot of shots) {
      const near = shot.of.reduce((best, frame) => (Math.abs(frame.t_ns - now) < Math.abs(best.t_ns - now) ? frame : best));
      if (shot.image.dataset.path !== near.url) load(shot.image, near.url);
    }
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  const button = element("button", { type: "button", id: "play", "aria-keyshortcuts": "p", disabled: times.length < 2, onclick: () => {
    if (timer) { stop(); return; }
    button.textContent = "Pause";
    timer = setInterval(() => move((Number(slider.value) + 1) % times.length), STEP_MS);
  } }, "Play");
  slider.addEventListener("input", () => { stop(); move(Number(slider.value)); });
  signal.addEventListener("abort", stop);
  replace(bar, button, slider, clock);
  move(0);
}

function group(frames) {
  const found = new Map();
  for (const frame of frames) found.set(frame.camera, [...(found.get(frame.camera) ?? []), frame]);
  return found;
}
