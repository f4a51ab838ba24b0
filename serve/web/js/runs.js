// What was mined when, and the store as it was after each run.

import { api } from "./api.js";
import { busy, element, problem, replace } from "./dom.js";
import { go, link } from "./state.js";
import { moment, number } from "./words.js";

const HEADS = ["Run", "Status", "Began", "Found", "Committed", "Already", "Quarantined", "Seconds", "Vector index", ""];

export async function runsPage(main, state, signal) {
  replace(main, busy("Reading the runs…"));
  try {
    const { runs } = await api.runs();
    if (signal.aborted) return;
    replace(main, element("div", { class: "title" }, element("h1", { tabindex: "-1" }, "Runs")),
      runs.length ? element("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, element("table", {},
        element("thead", {}, element("tr", {}, HEADS.map((head) => element("th", { scope: "col" }, head || element("span", { class: "skip" }, "Search"))))),
        element("tbody", {}, runs.map(row))))
        : element("p", { class: "empty" }, "Nothing has been mined into this store yet."));
    main.querySelector("h1").focus();
  } catch (error) { if (!signal.aborted) replace(main, problem(error, () => go({}, { replaces: true }))); }
}

function row(run) {
  const { figures, vector_index: index } = run;
  const told = (name) => (figures[name] ?? "–").toLocaleString("en");
  return element("tr", {}, element("td", { class: "mono" }, run.run_id), element("td", {}, run.status),
    element("td", {}, moment(run.started_ns)),
    ["found", "committed", "already", "quarantined"].map((name) => element("td", {}, told(name))),
    element("td", {}, number(figures.seconds ?? null, 0)),
    element("td", {}, index ? `recall@10 ${number(index.recall_at_10 ?? index.recall ?? null, 3)}` : "exact scan"),
    element("td", {}, run.tag && element("a", { href: link({ as_of: run.tag }), "data-go": true }, "search as of this run")));
}
