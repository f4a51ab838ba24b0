// Drop infrared pictures, see what the detector finds in them. They are looked at and not kept.

import { api } from "./api.js";
import { busy, element, problem, replace } from "./dom.js";
import { count, number } from "./words.js";

const COLOURS = ["#ffd166", "#5ee0c8", "#ff8fa3", "#9fb7ff", "#c7f464", "#ffb37b"];

export async function infraredPage(main) {
  replace(main, busy("Asking for the detector…"));
  let detector;
  try { detector = await api.detector(); } catch (error) {
    replace(main, element("h1", { tabindex: "-1" }, "Infrared detection"), problem(error));
    return;
  }
  const found = element("div", { class: "found", "aria-live": "polite" });
  const score = element("input", { type: "range", min: "0.05", max: "0.95", step: "0.05", value: "0.3", id: "score" });
  const told = element("output", { for: "score" }, "0.30");
  let files = [];
  const look = () => files.length && detect(found, files, Number(score.value), detector.classes);
  score.addEventListener("input", () => { told.textContent = Number(score.value).toFixed(2); });
  score.addEventListener("change", look);
  const input = element("input", { type: "file", id: "files", multiple: true, accept: "image/*",
    onchange: (event) => { files = [...event.target.files]; look(); } });
  const drop = element("div", { class: "drop" },
    element("p", {}, element("label", { for: "files" }, "Drop infrared pictures here, or choose them: "), input),
    element("p", { class: "small soft" }, "JPEG, PNG or TIFF of 8 or 16 bits. They are looked at and not kept."));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") { files = [...event.dataTransfer.files]; look(); }
    });
  }
  replace(main,
    element("div", { class: "title" }, element("h1", { tabindex: "-1" }, "Infrared detection"),
      element("span", { class: "soft" }, `detector ${detector.detector_id}: ${detector.classes.join(", ")}`)),
    element("div", { class: "row" }, element("label", { for: "score" }, "Least score ", told), element("div", { class: "grow" }, score)),
    drop, found);
  main.querySelector("h1").focus();
}

async function detect(place, files, minScore, classes) {
  replace(place, busy(`Looking at ${count(files.length, "picture")}…`));
  try {
    const answer = await api.detect(files, minScore);
    replace(place, answer.pictures.map((picture) => shown(picture, classes)));
  } catch (error) { replace(place, problem(error)); }
}

function shown(picture, classes) {
  if (picture.problem) {
    return element("figure", { class: "panel" }, element("h2", {}, picture.name),
      problem({ title: "Not looked at.", detail: picture.problem.detail }));
  }
  const canvas = element("canvas", { width: picture.width, height: picture.height, role: "img",
    "aria-label": `${picture.name} with ${count(picture.detections.length, "box", "boxes")}` });
  const image = new Image();
  image.onload = () => draw(canvas, image, picture, classes);
  image.src = `data:image/jpeg;base64,${picture.preview_jpeg}`;
  return element("figure", { class: "panel stack" }, canvas,
    element("figcaption", {}, element("h2", {}, picture.name),
      element("p", { class: "small soft" }, `${picture.width} × ${picture.height}, ${picture.bits} bits`),
      picture.notes.map((note) => element("p", { class: "small" }, note)),
      picture.detections.length
        ? element("ul", { class: "small" }, picture.detections.map((each) => element("li", {},
          `${each.label} ${number(each.score)} at ${each.box.map(Math.round).join(", ")}`)))
        : element("p", { class: "soft" }, "Nothing above this score.")));
}

function draw(canvas, image, picture, classes) {
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, canvas.width / 400);
  pen.lineWidth = 1.6 * unit;
  pen.font = `${11 * unit}px sans-serif`;
  for (const { box, score, label } of picture.detections) {
    const [left, top, right, bottom] = box;
    pen.strokeStyle = COLOURS[classes.indexOf(label) % COLOURS.length];
    pen.strokeRect(left, top, right - left, bottom - top);
    const text = `${label} ${number(score)}`;
    const width = pen.measureText(text).width + 4 * unit;
    const at = Math.max(12 * unit, top);
    pen.fillStyle = "rgb(8 12 16 / 80%)";
    pen.fillRect(left, at - 12 * unit, width, 12 * unit);
    pen.fillStyle = pen.strokeStyle;
    pen.fillText(text, left + 2 * unit, at - 3 * unit);
  }
}
