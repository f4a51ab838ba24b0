// Everything can be done with keys; ? lists them.

import { dialog, element } from "./dom.js";
import { choose } from "./search.js";
import { go, link, read } from "./state.js";

const KEYS = [
  ["/", "to the search box"], ["j k or arrows", "next, previous result"], ["Enter", "open the result"],
  ["x", "choose the result"], ["s", "more like it"], ["e", "save the chosen, or all that are shown, as a set"],
  ["p", "play or pause a scene"], ["[ ]", "earlier, later scene of the drive"], ["Esc", "back to the results"],
  ["1 2 3 4", "scenes, infrared, sets, runs"], ["?", "this list"],
];

export function help() {
  const made = dialog("Keys", element("table", {}, element("tbody", {}, KEYS.map(([keys, what]) => element("tr", {},
    element("th", { scope: "row" }, keys.split(" ").map((key) => (key.length > 5 || ["or"].includes(key) ? ` ${key} ` : [element("kbd", {}, key), " "]))),
    element("td", {}, what))))), element("button", { type: "button", onclick: () => made.close() }, "Close"));
}

function step(by) {
  const links = [...document.querySelectorAll(".grid a.cover")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement?.closest("li")?.querySelector("a.cover"));
  const next = links[Math.min(links.length - 1, Math.max(0, at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function columns() {
  const cards = [...document.querySelectorAll(".grid > li")];
  return cards.filter((card) => card.offsetTop === cards[0].offsetTop).length || 1;
}

const press = (id) => document.getElementById(id)?.click();

export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typed = event.target.matches("input:not([type=checkbox]), textarea, select");
    if (event.key === "Escape") {
      if (typed) { event.target.blur(); return; }
      if (read().view === "scene") { event.preventDefault(); history.length > 1 ? history.back() : go({ view: "search", id: "" }); }
      return;
    }
    if (typed) return;
    const item = document.activeElement?.closest(".grid > li");
    const inGrid = Boolean(document.querySelector(".grid"));
    const acts = {
      "/": () => (document.getElementById("query") ?? (go({ view: "search", id: "" }), null))?.focus(),
      "?": help, j: () => step(1), k: () => step(-1), p: () => press("play"), "[": () => press("earlier"), "]": () => press("later"),
      e: () => press("save"),
      x: () => item?.querySelector(".pick") && choose(item, !item.classList.contains("chosen")),
      s: () => (item ? go({ view: "search", like: item.dataset.scene, q: "", id: "" }) : press("similar")),
      1: () => go(viewOnly("search")), 2: () => go(viewOnly("infrared")), 3: () => go(viewOnly("sets")), 4: () => go(viewOnly("runs")),
    };
    if (item && inGrid) {
      Object.assign(acts, { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()) });
    }
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });
}

const viewOnly = (view) => ({ ...read(link({ view })), view, id: "", set: "", q: "", like: "", from: "", to: "", as_of: "" });
