// The column beside the results: tags, risk, time, logs, and how much hardness counts.

import { api } from "./api.js";
import { element, replace } from "./dom.js";
import { filtersInUrl, go } from "./state.js";
import { count, forInput, words } from "./words.js";

const MOST_TAGS = 60;
const MOST_LOGS = 200;

export function filterColumn(state, overview) {
  const tags = element("div", { class: "chips" });
  const logs = element("div", { class: "logs" });
  const column = element("form", { class: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    element("details", { class: "fold", open: window.innerWidth > 860 },
      element("summary", {}, "Filters"),
      element("div", { class: "stack panel" },
        element("fieldset", {}, element("legend", {}, "Tags"),
          element("p", { class: "small soft" }, "Once: with it. Twice: without."), tags),
        range(state),
        overview.from_ns !== null && times(state, overview),
        element("fieldset", {}, element("legend", {}, "Logs"), logs),
        (state.q || state.like) && hardness(state),
        element("button", { type: "button", onclick: () => go({ tag: [], not: [], log: [], min_risk: null, max_risk: null,
          from: "", to: "", hw: null, as_of: "" }) }, "Clear filters"))));
  fill(state, tags, logs);
  return column;
}

async function fill(state, tags, logs) {
  const query = filtersInUrl(state);
  const others = new URLSearchParams(query);
  others.delete("log");
  const [tagList, logList] = await Promise.allSettled([api.tags(query), api.logs(others)]);
  if (tagList.status === "fulfilled") {
    const chosen = (name) => state.tag.includes(name) || state.not.includes(name);
    const shown = tagList.value.tags.filter((tag) => tag.count > 0 || chosen(tag.name));
    shown.sort((a, b) => chosen(b.name) - chosen(a.name) || b.count - a.count || a.name.localeCompare(b.name));
    replace(tags, shown.slice(0, MOST_TAGS).map((tag) => chip(state, tag)));
    if (!shown.length) tags.append(element("span", { class: "small soft" }, "No scene that passes has a tag."));
  } else tags.append(element("span", { class: "small" }, "Tags cannot be counted just now."));
  if (logList.status === "fulfilled") {
    replace(logs, logList.value.logs.slice(0, MOST_LOGS).map((log) => logChoice(state, log)));
    if (!logList.value.logs.length) logs.append(element("span", { class: "small soft" }, "No log passes."));
    if (logList.value.is_cut || logList.value.logs.length > MOST_LOGS) {
      logs.append(element("span", { class: "small soft" }, "More logs than are listed: narrow by tag or time."));
    }
  } else logs.append(element("span", { class: "small" }, "Logs cannot be counted just now."));
}

function chip(state, tag) {
  const is = state.tag.includes(tag.name) ? "with" : state.not.includes(tag.name) ? "without" : "off";
  const told = { with: "with", without: "without", off: "any" }[is];
  const next = () => {
    const without = (list) => list.filter((name) => name !== tag.name);
    if (is === "off") go({ tag: [...state.tag, tag.name] });
    else if (is === "with") go({ tag: without(state.tag), not: [...state.not, tag.name] });
    else go({ not: without(state.not) });
  };
  return element("button", { type: "button", class: "chip", "data-state": is, "data-tag": tag.name,
    "aria-pressed": is === "off" ? "false" : "true", "aria-label": `${words(tag.name)}, ${count(tag.count, "scene")}: ${told}`,
    onclick: next }, words(tag.name), element("span", { class: "count" }, String(tag.count)));
}

function range(state) {
  const bound = (key, label, fallback) => {
    const output = element("output", {}, (state[key] ?? fallback).toFixed(2));
    return element("label", { class: "small" }, `${label} `, output,
      element("input", { type: "range", min: "0", max: "1", step: "0.05", value: state[key] ?? fallback,
        "data-key": key,
        oninput: (event) => { output.textContent = Number(event.target.value).toFixed(2); },
        onchange: (event) => {
          const value = Number(event.target.value);
          const changes = { [key]: value === fallback ? null : value };
          if (key === "min_risk" && state.max_risk !== null && value > state.max_risk) changes.max_risk = value;
          if (key === "max_risk" && state.min_risk !== null && value < state.min_risk) changes.min_risk = value;
          go(changes);
        } }));
  };
  return element("fieldset", {}, element("legend", {}, "Risk"),
    element("div", { class: "two" }, bound("min_risk", "at least", 0), bound("max_risk", "at most", 1)));
}

function times(state, overview) {
  const from = forInput(overview.from_ns);
  const to = forInput(overview.to_ns + 60e9);
  const bound = (key, label, shown) => element("label", { class: "small" }, label,
    element("input", { type: "datetime-local", value: state[key] ?? shown, min: from, max: to,
      onchange: (event) => go({ [key]: event.target.value === shown ? "" : event.target.value }) }));
  return element("fieldset", {}, element("legend", {}, "Time (UTC)"), bound("from", "from", from), bound("to", "to", to));
}

function logChoice(state, log) {
  const change = (event) => go({ log: event.target.checked
    ? [...state.log, log.log_id] : state.log.filter((id) => id !== log.log_id) });
  return element("label", {},
    element("input", { type: "checkbox", checked: state.log.includes(log.log_id), onchange: change }),
    element("span", {}, log.log_id, " ", element("span", { class: "soft" }, `${log.count}`)));
}

function hardness(state) {
  const output = element("output", {}, `${Math.round((state.hw ?? 0.3) * 100)} %`);
  return element("fieldset", {}, element("legend", {}, "Order"),
    element("label", { class: "small" }, "share of hardness in the score ", output,
      element("input", { type: "range", min: "0", max: "1", step: "0.1", value: state.hw ?? 0.3,
        oninput: (event) => { output.textContent = `${Math.round(event.target.value * 100)} %`; },
        onchange: (event) => go({ hw: Number(event.target.value) }) })));
}
