// All cameras of a scene at one moment, played by keyframes. A camera can be made large.

import { api, asOfPath } from "./api.js";
import { inOrder } from "./cameras.js";
import { element, replace } from "./dom.js";
import { fetchAhead, load, picture } from "./pictures.js";
import { moment } from "./words.js";

const STEP_MS = 500;

/** shownAt(t_ns): called with each moment that is shown. */
export function player(scene, thumbnails, asOf, signal, shownAt) {
  const cameras = element("div", { class: "cameras" });
  const clock = element("output", { class: "small mono clock" });
  const note = element("span", { class: "small soft" });
  const slider = element("input", { type: "range", min: "0", step: "1", "aria-label": "Moment" });
  const button = element("button", { type: "button", id: "play", "aria-keyshortcuts": "p" }, "Play");
  const bar = element("div", { class: "play" }, button, slider, clock, note);
  let shots = [];
  let times = [];
  let timer = 0;

  const move = (k) => {
    const now = times[k];
    if (now === undefined) return;
    slider.value = String(k);
    const since = `+${((now - scene.t_start_ns) / 1e9).toFixed(1)} s`;
    slider.setAttribute("aria-valuetext", since);
    clock.textContent = `${moment(now)}  ${since}`;
    for (const shot of shots) {
      const path = nearest(shot.frames, now);
      if (shot.image.dataset.path !== path) load(shot.image, path);
    }
    shownAt(now);
  };
  const ahead = (k) => shots.forEach((shot) => fetchAhead(nearest(shot.frames, times[k]), () => Boolean(timer)));
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  const tick = () => {
    const k = (Number(slider.value) + 1) % times.length;
    move(k);
    ahead((k + 1) % times.length);
  };
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    button.textContent = "Pause";
    timer = setInterval(tick, STEP_MS);
    tick();
  });
  slider.addEventListener("input", () => { stop(); move(Number(slider.value)); });
  signal.addEventListener("abort", stop);

  const show = (frames) => {
    const now = times[Number(slider.value)] ?? frames[0]?.t_ns;
    const byCamera = Object.groupBy ? Object.groupBy(frames, (frame) => frame.camera) : grouped(frames);
    const large = shots.find((shot) => shot.isLarge())?.camera;
    shots = inOrder(Object.keys(byCamera)).map((camera) => shotOf(camera, byCamera[camera], now, asOf));
    times = [...new Set(frames.map((frame) => frame.t_ns))].sort((a, b) => a - b);
    bar.hidden = !shots.length;
    replace(cameras, shots.length ? shots.map((shot) => shot.root) : element("p", { class: "empty" }, "This scene has no pictures."));
    shots.find((shot) => shot.camera === large)?.enlarge();
    slider.max = String(Math.max(0, times.length - 1));
    slider.disabled = button.disabled = times.length < 2;
    const at = times.findIndex((t_ns) => t_ns >= now);
    move(at < 0 ? times.length - 1 : at);
  };
  show(thumbnails);
  // Originals are finer and there are more of them; the small ones stay where the log is out of reach.
  api.frames(scene.scene_id, "original", asOf, signal).then((found) => {
    if (signal.aborted) return;
    if (found.frames.length) show(found.frames);
    else note.textContent = found.notes.join("; ");
  }, () => {});
  return element("div", {}, cameras, bar);
}

function shotOf(camera, ofCamera, now, asOf) {
  const frames = ofCamera.map(({ t_ns, url }) => ({ t_ns, path: asOfPath(url, asOf) })).sort((a, b) => a.t_ns - b.t_ns);
  const { frame, image } = picture(nearest(frames, now), "", { isLazy: false });
  const root = element("button", { type: "button", class: "shot", "aria-pressed": "false", "aria-label": `${camera}: enlarge`,
    title: "Enlarge", onclick: () => enlarge() }, frame, element("span", { class: "name" }, camera));
  const isLarge = () => root.getAttribute("aria-pressed") === "true";
  const enlarge = () => {
    root.setAttribute("aria-pressed", String(!isLarge()));
    root.scrollIntoView({ block: "nearest" });
  };
  return { camera, frames, image, root, isLarge, enlarge };
}

function nearest(frames, now) {
  return frames.reduce((best, frame) => (Math.abs(frame.t_ns - now) < Math.abs(best.t_ns - now) ? frame : best)).path;
}

function grouped(frames) {
  const found = {};
  for (const frame of frames) (found[frame.camera] ??= []).push(frame);
  return found;
}
