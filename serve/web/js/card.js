// A scene in a list, and which scenes are chosen.

import { asOfPath } from "./api.js";
import { element } from "./dom.js";
import { noPicture, picture } from "./pictures.js";
import { go, read, sceneLink } from "./state.js";
import { moment, number, riskClass, seconds, words } from "./words.js";

const MOST_TAGS = 4;
export const chosen = new Set();
let chosenAsOf;

/** isSmall: without what a search knows of it. */
export function card(hit, { isSmall = false, hasQuery = false } = {}) {
  const { scene, score } = hit;
  const name = `${scene.log_id}, ${moment(scene.t_start_ns)}`;
  const pick = element("input", { type: "checkbox", checked: chosen.has(scene.scene_id), "aria-label": `Choose ${name}`,
    onchange: () => choose(item, pick.checked) });
  const item = element("li", { class: `card${chosen.has(scene.scene_id) ? " chosen" : ""}`, "data-scene": scene.scene_id },
    element("a", { class: "cover", href: sceneLink(scene.scene_id), "data-go": true, "aria-label": `Open ${name}` },
      scene.cover ? picture(asOfPath(scene.cover, read().as_of), "").frame : noPicture()),
    !isSmall && element("label", { class: "pick" }, pick),
    element("div", { class: "about" },
      element("div", { class: "numbers" },
        element("span", { class: riskClass(scene.risk), title: riskWords(scene) }, "risk ", element("b", {}, number(scene.risk))),
        element("span", { title: "hardness: risk, ambiguity and rarity as ranks" }, "hard ", element("b", {}, number(scene.hardness))),
        hasQuery && element("span", { class: "soft", title: scoreWords(score) }, "score ", number(score.total)),
        !isSmall && scene.num_pictures > 0 && element("button", { type: "button", class: "like", onclick: () => go({ like: scene.scene_id, q: "" }),
          "aria-label": `More like ${name}`, title: "More like this" }, "Similar")),
      element("div", { class: "where small" }, element("b", {}, scene.log_id), " ",
        element("span", { class: "soft", title: seconds(scene.t_start_ns, scene.t_end_ns) }, moment(scene.t_start_ns))),
      !isSmall && element("div", { class: "why" }, score.why),
      !isSmall && scene.tags.length > 0 && element("div", { class: "tags" }, tags(scene.tags))));
  return item;
}

function tags(names) {
  const shown = names.slice(0, names.length === MOST_TAGS + 1 ? MOST_TAGS + 1 : MOST_TAGS);
  const others = names.slice(shown.length);
  return [...shown.map((tag) => element("span", { class: "tag" }, words(tag))),
    others.length > 0 && element("span", { class: "tag", title: others.map(words).join(", ") }, `+${others.length}`)];
}

const riskWords = ({ risk, risk_source: source }) => (risk === null ? "risk is not known" : `risk by ${source ?? "unknown"}`);

export function choose(item, isOn) {
  const id = item.dataset.scene;
  if (isOn) chosen.add(id); else chosen.delete(id);
  item.classList.toggle("chosen", isOn);
  const box = item.querySelector(".pick input");
  if (box) box.checked = isOn;
  document.dispatchEvent(new CustomEvent("chosen"));
}

export function chooseNone() {
  chosen.clear();
  for (const item of document.querySelectorAll(".grid > li.chosen")) choose(item, false);
  document.dispatchEvent(new CustomEvent("chosen"));
}

/** Scenes of one version need not be in another. */
export function chooseAsOf(asOf) {
  if (asOf !== chosenAsOf) chooseNone();
  chosenAsOf = asOf;
}

export const scoreWords = (score) => score.parts
  .map((part) => `${part.name} ${number(part.value)} × ${number(part.weight)}`).join(" + ");
