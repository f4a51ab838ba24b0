// The search page: a sentence, filters, and what was found, page by page.

import { api } from "./api.js";
import { busy, element, problem, replace, say } from "./dom.js";
import { filterColumn } from "./filters.js";
import { picture } from "./pictures.js";
import { saveDialog } from "./sets.js";
import { go, link, request } from "./state.js";
import { count, moment, number, riskClass, seconds, words } from "./words.js";

const TOP = 24;
export const chosen = new Set();
let underWay = null;

export async function searchPage(main, state) {
  underWay?.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  const input = element("input", { type: "search", name: "q", id: "query", value: state.q ?? "", "aria-label": "Search in words",
    placeholder: "Describe what you look for: pedestrian crossing at night in rain", maxlength: "500",
    "aria-keyshortcuts": "/", autocomplete: "off" });
  const form = element("form", { class: "ask", role: "search",
    onsubmit: (event) => { event.preventDefault(); go({ q: input.value.trim(), like: "" }); } },
    input, element("button", { class: "primary" }, "Search"));
  const results = element("section", { "aria-label": "Results" }, busy("Searching…"));
  const column = element("div");
  replace(main, element("h1", { class: "skip" }, "Scenes"), element("div", { class: "search" }, column,
    element("div", {}, form, results)));
  try {
    const overview = await api.overview(state.as_of);
    replace(column, filterColumn(state, overview));
    const page = await api.search(request(state, TOP), signal);
    show(results, state, overview, page, signal);
  } catch (error) {
    if (error.name !== "AbortError") replace(results, problem(error, () => go({}, { replaces: true })));
  }
}

function show(results, state, overview, page, signal) {
  const grid = element("ul", { class: "grid" }, page.hits.map((hit) => card(hit)));
  const told = state.like ? "Most like the chosen scene" : state.q ? `“${state.q}”` : "Hardest first";
  const save = element("button", { type: "button", "aria-keyshortcuts": "e", id: "save",
    onclick: () => saveDialog(chosen.size ? [...chosen] : shownIds(grid), request(state, TOP)) }, saveLabel());
  document.addEventListener("chosen", () => { save.textContent = saveLabel(); }, { signal });
  replace(results,
    element("div", { class: "told" },
      element("strong", {}, told),
      element("span", { class: "soft", role: "status" }, `${count(page.total, "scene")} of ${overview.num_scenes.toLocaleString("en")}`),
      state.like && element("button", { type: "button", class: "quiet", onclick: () => go({ like: "" }) }, "Not like a scene"),
      state.as_of && element("span", { class: "tag" }, `as of ${state.as_of}`),
      element("span", { class: "grow" }), save),
    page.notes.map((note) => element("p", { class: "small soft" }, note)),
    page.hits.length ? grid : element("p", { class: "empty" }, overview.num_scenes
      ? "No scene passes these filters. Take one away, or clear them."
      : "This store holds no scene yet. Mine some: python jobs/mine_fleet.py"));
  if (page.next_cursor) results.append(more(grid, state, page.next_cursor, signal));
}

function more(grid, state, cursor, signal) {
  const button = element("button", { type: "button", class: "more" }, "Show more");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const page = await api.search(request(state, TOP, cursor), signal);
      const cards = page.hits.map((hit) => card(hit));
      grid.append(...cards);
      cards[0]?.querySelector("a.cover")?.focus();
      if (page.next_cursor) button.replaceWith(more(grid, state, page.next_cursor, signal));
      else button.remove();
    } catch (error) {
      button.disabled = false;
      if (error.code === "stale_cursor") say("The store was compacted meanwhile; search again.");
      else if (error.name !== "AbortError") say(error.detail);
    }
  });
  return button;
}

const saveLabel = () => (chosen.size ? `Save ${count(chosen.size, "chosen scene")}` : "Save these as a set");
const shownIds = (grid) => [...grid.querySelectorAll("li")].map((item) => item.dataset.scene);

export function card(hit, { isSmall = false } = {}) {
  const { scene, score } = hit;
  const name = `${scene.log_id}, ${moment(scene.t_start_ns)}`;
  const pick = element("input", { type: "checkbox", checked: chosen.has(scene.scene_id), "aria-label": `Choose ${name}`,
    onchange: () => choose(item, pick.checked) });
  const item = element("li", { class: `card${chosen.has(scene.scene_id) ? " chosen" : ""}`, "data-scene": scene.scene_id },
    element("a", { class: "cover", href: link({ view: "scene", id: scene.scene_id }), "data-go": true, "aria-label": `Open ${name}` },
      scene.cover ? picture(scene.cover, "") : element("span", { class: "nothing" }, "no picture")),
    !isSmall && element("span", { class: "pick" }, pick),
    element("div", { class: "about" },
      element("div", { class: "numbers" },
        element("span", { class: riskClass(scene.risk) }, "risk ", element("b", {}, number(scene.risk))),
        element("span", {}, "hard ", element("b", {}, number(scene.hardness))),
        !isSmall && element("span", { class: "soft", title: scoreWords(score) }, "score ", number(score.total))),
      element("div", { class: "small mono" }, scene.log_id),
      element("div", { class: "small soft" }, `${moment(scene.t_start_ns)} · ${seconds(scene.t_start_ns, scene.t_end_ns)}`),
      !isSmall && element("div", { class: "why" }, score.why),
      !isSmall && element("div", { class: "tags" }, scene.tags.slice(0, 5).map((tag) => element("span", { class: "tag" }, words(tag)))),
      !isSmall && element("div", { class: "foot" },
        element("button", { type: "button", onclick: () => go({ like: scene.scene_id, q: "" }), "aria-label": `More like ${name}` }, "More like this"))));
  return item;
}

export function choose(item, isOn) {
  const id = item.dataset.scene;
  if (isOn) chosen.add(id); else chosen.delete(id);
  item.classList.toggle("chosen", isOn);
  const box = item.querySelector(".pick input");
  if (box) box.checked = isOn;
  document.dispatchEvent(new CustomEvent("chosen"));
}

export const scoreWords = (score) => score.parts
  .map((part) => `${part.name} ${number(part.value)} × ${number(part.weight)}`).join(" + ");
