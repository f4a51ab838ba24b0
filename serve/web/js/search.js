// The search page: a sentence, filters, and what was found, page by page.

import { api } from "./api.js";
import { card, choose, chooseAsOf, chooseNone, chosen } from "./card.js";
import { busy, element, focusName, focusOn, problem, replace, say, sayProblem } from "./dom.js";
import { filterColumn } from "./filters.js";
import { saveDialog } from "./sets.js";
import { go, request, toSearch } from "./state.js";
import { count } from "./words.js";

const TOP = 24;
// The list that was shown last, with all the pages that were opened of it: whoever comes back finds it as it was.
let held = null;

export async function searchPage(main, state, signal, { returns }) {
  const at = toSearch(state);
  chooseAsOf(state.as_of);
  const frame = frameOf(main, state);
  const back = returns && held?.at === at ? held : null;
  try {
    const overview = back?.overview ?? await api.overview(state.as_of, signal);
    filterColumn(state, overview, signal).then((column) => {
      if (signal.aborted) return;
      const focused = focusName();
      const scrolled = frame.column.querySelector(".filters")?.scrollTop ?? 0;
      replace(frame.column, column);
      column.scrollTop = scrolled;
      focusOn(focused);
    });
    if (!back) {
      const page = await api.search(request(state, TOP), signal);
      held = { at, overview, hits: page.hits, total: page.total, notes: page.notes, cursor: page.next_cursor, opened: null };
    }
    if (signal.aborted) return;
    show(frame.results, state, signal);
    frame.results.removeAttribute("aria-busy");
    if (back?.opened) {
      const link = frame.results.querySelector(`li[data-scene="${back.opened}"] a.cover`);
      link?.focus({ preventScroll: true });
      link?.scrollIntoView({ block: "center" });
    }
  } catch (error) {
    if (signal.aborted) return;
    frame.results.removeAttribute("aria-busy");
    replace(frame.results, problem(error, () => go({}, { replaces: true })));
  }
}

/** The page around results. One that is there already stays, so that nothing jumps while the next answer comes. */
function frameOf(main, state) {
  const there = main.querySelector(".search");
  if (there) {
    const [column, results] = [there.querySelector(".column"), there.querySelector(".results")];
    const input = there.querySelector("#query");
    if (document.activeElement !== input) input.value = state.q ?? "";
    results.setAttribute("aria-busy", "true");
    return { column, results };
  }
  const input = element("input", { type: "search", name: "q", id: "query", value: state.q ?? "", "aria-label": "Search in words",
    placeholder: "Describe what you look for: pedestrian crossing at night in rain", maxlength: "500",
    "aria-keyshortcuts": "/", autocomplete: "off" });
  const form = element("form", { class: "ask", role: "search",
    onsubmit: (event) => { event.preventDefault(); go({ q: input.value.trim(), like: "" }); } },
  input, element("button", { class: "primary" }, "Search"));
  const results = element("section", { class: "results", "aria-label": "Results", "aria-busy": "true" }, busy("Searching…"));
  const column = element("div", { class: "column" });
  replace(main, element("h1", { class: "skip" }, "Scenes"), element("div", { class: "search" }, column,
    element("div", {}, form, results)));
  return { column, results };
}

function show(results, state, signal) {
  const { overview, hits, total, notes } = held;
  const options = { hasQuery: Boolean(state.q || state.like) };
  const grid = element("ul", { class: "grid" }, hits.map((hit) => card(hit, options)));
  grid.addEventListener("click", (event) => {
    if (event.target.closest("a.cover")) held.opened = event.target.closest("li").dataset.scene;
  });
  const told = state.like ? "Most like the chosen scene" : state.q ? `“${state.q}”` : "Hardest first";
  const save = element("button", { type: "button", "aria-keyshortcuts": "e", id: "save",
    onclick: () => saveDialog(chosen.size ? [...chosen] : shownIds(grid), request(state, TOP)) });
  const none = element("button", { type: "button", class: "quiet", onclick: chooseNone }, "Choose none");
  const label = () => {
    save.textContent = chosen.size ? `Save ${count(chosen.size, "chosen scene")}` : `Save the ${grid.children.length} shown`;
    save.disabled = !chosen.size && !grid.children.length;
    none.hidden = !chosen.size;
  };
  document.addEventListener("chosen", label, { signal });
  label();
  replace(results,
    element("div", { class: "told" },
      element("strong", {}, told),
      element("span", { class: "soft", role: "status" }, `${count(total, "scene")} of ${overview.num_scenes.toLocaleString("en")}`),
      state.like && element("button", { type: "button", class: "quiet", onclick: () => go({ like: "" }) }, "Not like a scene"),
      state.as_of && element("span", { class: "tag" }, `as of ${state.as_of}`),
      element("span", { class: "grow" }), none, save),
    notes.map((note) => element("p", { class: "small soft" }, note)),
    hits.length ? grid : element("p", { class: "empty" }, overview.num_scenes
      ? "No scene passes these filters. Take one away, or clear them."
      : "This store holds no scene yet. Mine some: python jobs/mine_fleet.py"));
  results.append(held.cursor ? more(grid, state, options, label, signal) : end());
}

/** What is said below the last result that can be had. */
function end() {
  const { hits, total } = held;
  return element("p", { class: "small soft", id: "end" }, hits.length && hits.length < total
    ? `These are the first ${hits.length.toLocaleString("en")}; narrow the search for others.` : "");
}

function more(grid, state, options, label, signal) {
  const button = element("button", { type: "button", class: "more", id: "more" }, "Show more");
  button.addEventListener("click", async () => {
    if (button.disabled) return;
    button.disabled = true;
    try {
      const page = await api.search(request(state, TOP, held.cursor), signal);
      const cards = page.hits.map((hit) => card(hit, options));
      held.hits.push(...page.hits);
      held.cursor = page.next_cursor;
      grid.append(...cards);
      label();
      cards[0]?.querySelector("a.cover").focus();
      button.disabled = false;
      if (!page.next_cursor) button.replaceWith(end());
    } catch (error) {
      button.disabled = false;
      if (signal.aborted) return;
      if (error.code === "stale_cursor") say("The store was compacted meanwhile; search again.");
      else sayProblem(error);
    }
  });
  return button;
}

export function chooseShown() {
  for (const item of document.querySelectorAll(".results .grid > li")) choose(item, true);
}

const shownIds = (grid) => [...grid.children].map((item) => item.dataset.scene);
