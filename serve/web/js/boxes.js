// What a detector found: boxes over a picture, and the same as a list.

import { element } from "./dom.js";
import { count, number } from "./words.js";

const COLOURS = ["#ffd166", "#5ee0c8", "#ff8fa3", "#9fb7ff", "#c7f464", "#ffb37b"];
const MOST_LISTED = 12;

const colour = (label, classes) => COLOURS[Math.max(0, classes.indexOf(label)) % COLOURS.length];

export function drawBoxes(canvas, image, boxes, classes) {
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, canvas.width / 400);
  pen.lineWidth = 1.6 * unit;
  pen.font = `${11 * unit}px sans-serif`;
  // The surest last, so that its name is on top.
  for (const { box, score, label } of [...boxes].reverse()) {
    const [left, top, right, bottom] = box;
    pen.strokeStyle = colour(label, classes);
    pen.strokeRect(left, top, right - left, bottom - top);
    const text = `${label} ${number(score)}`;
    const width = pen.measureText(text).width + 4 * unit;
    const x = Math.max(0, Math.min(left, canvas.width - width));
    const y = Math.max(12 * unit, top);
    pen.fillStyle = "rgb(8 12 16 / 80%)";
    pen.fillRect(x, y - 12 * unit, width, 12 * unit);
    pen.fillStyle = pen.strokeStyle;
    pen.fillText(text, x + 2 * unit, y - 3 * unit);
  }
}

export function boxList(boxes, classes) {
  const rows = boxes.slice(0, MOST_LISTED).map(({ box, score, label }) => element("tr", {},
    element("td", {}, swatch(label, classes), label), element("td", {}, number(score)),
    element("td", { class: "mono soft" }, box.map(Math.round).join(", "))));
  return element("div", {}, element("table", { class: "small" },
    element("thead", {}, element("tr", {}, ["What", "Score", "Left, top, right, bottom (px)"].map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, rows)),
  boxes.length > MOST_LISTED && element("p", { class: "small soft" }, `and ${count(boxes.length - MOST_LISTED, "more box", "more boxes")}`));
}

function swatch(label, classes) {
  const made = element("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = colour(label, classes);
  return made;
}
