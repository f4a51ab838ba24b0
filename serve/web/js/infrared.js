// Drop infrared pictures, see what the detector finds in them. They are looked at and not kept.

import { api } from "./api.js";
import { boxList, drawBoxes } from "./boxes.js";
import { busy, element, problem, replace } from "./dom.js";
import { count } from "./words.js";

const AT_A_TIME = 8;
const MOST_BYTES = 60e6; // of one call; servers take 64 MiB unless told otherwise
const OF_PICTURES = new Set([400, 413, 415, 422]);
const LEAST_SCORE = 0.05;

export async function infraredPage(main, state, signal) {
  replace(main, busy("Asking for the detector…"));
  let detector;
  try { detector = await api.detector(); } catch (error) {
    if (signal.aborted) return;
    replace(main, element("h1", { tabindex: "-1" }, "Infrared detection"), error.status === 404
      ? element("p", { class: "empty" }, "This server has no detector. Start it with DETECTOR=… of a folder that train_detector made.")
      : problem(error));
    return;
  }
  if (signal.aborted) return;
  const found = element("div", { class: "found" });
  const told = element("p", { class: "soft", role: "status" });
  const score = element("input", { type: "range", min: String(LEAST_SCORE), max: "0.95", step: "0.05", value: "0.3", id: "score" });
  const output = element("output", { for: "score" }, "0.30");
  let shown = [];
  let sending = new AbortController();

  // All boxes come at once, so that the slider asks nobody.
  const draw = () => {
    const least = Number(score.value) - 1e-6;
    output.textContent = Number(score.value).toFixed(2);
    const boxes = shown.map((each) => each.draw(least)).reduce((a, b) => a + b, 0);
    if (shown.length) told.textContent = `${count(boxes, "box", "boxes")} in ${count(shown.length, "picture")}.`;
  };
  const look = async (files) => {
    sending.abort();
    sending = new AbortController();
    const mine = AbortSignal.any([sending.signal, signal]);
    shown = [];
    replace(found);
    let done = 0;
    const progress = () => { told.textContent = `Looking at ${count(files.length, "picture")}… ${done} done.`; };
    progress();
    try {
      for await (const pictures of looked(files, mine)) {
        if (mine.aborted) return;
        for (const picture of pictures) {
          const made = figure(picture, detector.classes);
          found.append(made.root);
          if (made.draw) shown.push(made);
        }
        done += pictures.length;
        draw();
        if (done < files.length) progress();
      }
    } catch (error) {
      if (mine.aborted) return;
      told.textContent = "";
      found.append(problem(error, () => look(files)));
      return;
    }
    if (!shown.length) told.textContent = files.length ? "No picture could be looked at." : "";
  };

  score.addEventListener("input", draw);
  const input = element("input", { type: "file", id: "files", multiple: true, accept: "image/*,.tif,.tiff,.ppm,.pgm",
    onchange: (event) => look([...event.target.files]) });
  const drop = element("div", { class: "drop" },
    element("p", {}, element("label", { for: "files" }, "Drop infrared pictures here, or choose them: "), input),
    element("p", { class: "small soft" }, "JPEG, PNG or TIFF of 8 or 16 bits. They are looked at and not kept."));
  // Anywhere on the page: a picture that misses the field must not take the browser away from here.
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) look([...event.dataTransfer.files]);
    }, { signal });
  }
  replace(main,
    element("div", { class: "title" }, element("h1", { tabindex: "-1" }, "Infrared detection"),
      element("span", { class: "soft" }, `detector ${detector.detector_id}: ${detector.classes.join(", ")}`)),
    drop,
    element("div", { class: "row score" }, element("label", { for: "score" }, "Least score ", output), score, told), found);
  main.querySelector("h1").focus();
}

/** Files in calls of as many as one may hold; one that is too large for any is by itself. */
function calls(files) {
  const made = [];
  let bytes = 0;
  for (const file of files) {
    if (!made.length || made.at(-1).length === AT_A_TIME || bytes + file.size > MOST_BYTES) {
      made.push([]);
      bytes = 0;
    }
    made.at(-1).push(file);
    bytes += file.size;
  }
  return made;
}

/** What was found, some pictures at a time, in their order. Where a call is refused for its pictures, each is asked for alone. */
async function* looked(files, signal) {
  for (const part of calls(files)) {
    const [{ name, size }] = part;
    if (size > MOST_BYTES) {
      yield [{ name, problem: { detail: `It has ${Math.round(size / 1e6)} MB; a call holds at most ${MOST_BYTES / 1e6} MB.` } }];
      continue;
    }
    try {
      yield (await api.detect(part, LEAST_SCORE, signal)).pictures;
    } catch (error) {
      if (!OF_PICTURES.has(error.status)) throw error;
      if (part.length === 1) yield [{ name, problem: error }];
      else for (const file of part) yield* looked([file], signal);
    }
  }
}

/** {root, draw(least score): number of boxes}; without draw for a picture that was not looked at. */
function figure(picture, classes) {
  const title = element("h2", {}, picture.name);
  if (picture.problem) {
    return { root: element("figure", { class: "panel" }, title, problem({ title: "Not looked at.", detail: picture.problem.detail })) };
  }
  const canvas = element("canvas", { width: picture.width, height: picture.height, role: "img" });
  const image = new Image();
  const list = element("div");
  let boxes = [];
  const paint = () => { if (image.complete) drawBoxes(canvas, image, boxes, classes); };
  image.onload = paint;
  image.src = `data:image/jpeg;base64,${picture.preview_jpeg}`;
  const draw = (least) => {
    boxes = picture.detections.filter((each) => each.score >= least).sort((a, b) => b.score - a.score);
    canvas.setAttribute("aria-label", `${picture.name} with ${count(boxes.length, "box", "boxes")}`);
    list.replaceChildren(boxes.length ? boxList(boxes, classes) : element("p", { class: "soft small" }, "Nothing above this score."));
    paint();
    return boxes.length;
  };
  const root = element("figure", { class: "panel stack" }, canvas, element("figcaption", {}, title,
    element("p", { class: "small soft" }, `${picture.width} × ${picture.height}, ${picture.bits} bits`),
    picture.notes.map((note) => element("p", { class: "small" }, note)), list));
  return { root, draw };
}
