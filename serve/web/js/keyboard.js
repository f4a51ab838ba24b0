// Everything can be done with keys; ? lists them.

import { dialog, element } from "./dom.js";
import { choose } from "./card.js";
import { chooseShown } from "./search.js";
import { go, goTo, lastList, link, read } from "./state.js";

const OFF = "nightminer-keys-off";
const KEYS = [
  ["/", "to the search box"], ["j k", "next, previous result; arrows go in all directions"], ["Enter", "open the result"],
  ["x a", "choose the result, all that are shown"], ["s", "more like it"],
  ["e", "save the chosen, or those shown, as a set; in a set: export it"], ["p", "play or pause a scene"],
  ["[ ]", "earlier, later scene of the drive"], ["+ -", "nearer, farther in the view from above"], ["Esc", "back to the list"],
  ["1 2 3 4", "scenes, infrared, sets, runs"], ["?", "this list"],
];

export function help() {
  const isOn = element("input", { type: "checkbox", checked: !localStorage.getItem(OFF), onchange: () => {
    if (isOn.checked) localStorage.removeItem(OFF); else localStorage.setItem(OFF, "1");
  } });
  const made = dialog("Keys", element("table", {}, element("tbody", {}, KEYS.map(([keys, what]) => element("tr", {},
    element("th", { scope: "row" }, keys.split(" ").map((key) => [element("kbd", {}, key), " "])),
    element("td", {}, what))))),
  // Who speaks to the computer may press letters without meaning to.
  element("label", { class: "row" }, isOn, "Single letters act"),
  element("button", { type: "button", onclick: () => made.close() }, "Close"));
}

function step(by) {
  const links = [...document.querySelectorAll(".grid a.cover")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement?.closest("li")?.querySelector("a.cover"));
  // Past the end there may be more.
  if (by > 0 && at === links.length - 1) { press("more"); return; }
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
    const typed = event.target.matches("input:not([type=checkbox], [type=range], [type=file]), textarea, select");
    if (event.key === "Escape") {
      if (typed) { event.target.blur(); return; }
      if (read().view === "scene") { event.preventDefault(); goTo(lastList(), { returns: true }); }
      return;
    }
    if (typed || localStorage.getItem(OFF)) return;
    const item = document.activeElement?.closest(".grid > li");
    const inGrid = Boolean(document.querySelector(".grid"));
    const acts = {
      "/": () => {
        if (!document.getElementById("query")) go(viewOnly("search"));
        document.getElementById("query")?.select();
      },
      "?": help, j: () => step(1), k: () => step(-1), p: () => press("play"), "[": () => press("earlier"), "]": () => press("later"),
      e: () => press(document.getElementById("export") ? "export" : "save"), a: chooseShown,
      "+": () => press("nearer"), "-": () => press("farther"),
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
