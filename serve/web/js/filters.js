// The column beside the results: tags, what a detector found, risk, time, logs, and how much hardness counts.

import { api } from "./api.js";
import { element, replace } from "./dom.js";
import { logPicker } from "./logs.js";
import { bounds, histogram } from "./sliders.js";
import { filtersInUrl, formOf, go, objectOf, secondOf } from "./state.js";
import { count, hasClock, moment, number, words } from "./words.js";

const MOST_TAGS = 60;
const MOST_DETECTED = 8; // of one request
const LEAST_SPAN_NS = 2e9;
const STEPS = 200;
const narrow = matchMedia("(max-width: 860px)");
const CLEAR = { tag: [], not: [], log: [], detected: [], min_risk: null, max_risk: null, from: "", to: "", hw: null, as_of: "" };
let isOpen = false; // on a phone, where the column folds

/** The whole column, when the counts are there. */
export async function filterColumn(state, overview, signal) {
  const query = filtersInUrl(state);
  const others = new URLSearchParams(query);
  others.delete("log");
  const [tagList, logList] = await Promise.allSettled([api.tags(query, signal), api.logs(others, signal)]);
  const hasTimes = overview.from_ns !== null && overview.to_ns - overview.from_ns >= LEAST_SPAN_NS;
  const fold = element("details", { class: "fold", open: isOpen || !narrow.matches, ontoggle: () => { if (narrow.matches) isOpen = fold.open; } },
    element("summary", {}, "Filters"),
    element("div", { class: "stack panel" },
      tags(state, tagList), detections(state, overview), risk(state, overview), hasTimes && times(state, overview), logPicker(state, logList),
      (state.q || state.like) && hardness(state),
      element("button", { type: "button", "data-focus": "clear", onclick: () => go(CLEAR) }, "Clear filters")));
  narrow.addEventListener("change", () => { fold.open = isOpen || !narrow.matches; }, { signal });
  return element("form", { class: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() }, fold);
}

function tags(state, tagList) {
  const chips = element("div", { class: "chips" });
  if (tagList.status === "fulfilled") {
    const chosen = (name) => state.tag.includes(name) || state.not.includes(name);
    const shown = tagList.value.tags.filter((tag) => tag.count > 0 || chosen(tag.name));
    shown.sort((a, b) => chosen(b.name) - chosen(a.name) || b.count - a.count || a.name.localeCompare(b.name));
    replace(chips, shown.slice(0, MOST_TAGS).map((tag) => chip(state, tag)));
    if (!shown.length) chips.append(element("span", { class: "small soft" }, "No scene that passes has a tag."));
  } else chips.append(element("span", { class: "small" }, "Tags cannot be counted just now."));
  return element("fieldset", {}, element("legend", {}, "Tags"),
    element("p", { class: "small soft" }, "Press once: with it. Twice: without."), chips);
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
  return element("button", { type: "button", class: "chip", "data-state": is, "data-tag": tag.name, "data-focus": `tag ${tag.name}`,
    "aria-pressed": is === "off" ? "false" : "true", "aria-label": `${words(tag.name)}, ${count(tag.count, "scene")}: ${told}`,
    onclick: next }, words(tag.name), element("span", { class: "count" }, String(tag.count)));
}

/** Classes of the newest detector, and of each that is chosen the least score. Nothing where no detector has looked. */
function detections(state, overview) {
  const chosen = state.detected.map(objectOf);
  const set = (objects) => go({ detected: objects.map(formOf) });
  const known = overview.detected_classes.filter((label) => !label.includes(":"));
  const labels = [...new Set([...chosen.map((object) => object.label), ...known])];
  if (!labels.length) return null;
  const chips = labels.slice(0, MOST_TAGS).map((label) => {
    const isOn = chosen.some((object) => object.label === label);
    return element("button", { type: "button", class: "chip", "data-state": isOn ? "with" : "off", "data-detected": label,
      disabled: !isOn && chosen.length >= MOST_DETECTED, "data-focus": `detected ${label}`, "aria-pressed": String(isOn),
      "aria-label": `${words(label)}: ${isOn ? "found" : "any"}`,
      onclick: () => set(isOn ? chosen.filter((object) => object.label !== label) : [...chosen, { label, min_score: 0.5 }]) }, words(label));
  });
  return element("fieldset", {}, element("legend", {}, "A detector found"), element("div", { class: "chips" }, chips),
    chosen.map((object) => leastScore(object, (score) => set(chosen.map((each) => (each === object ? { ...each, min_score: score } : each))))));
}

function leastScore({ label, min_score: score, count: least }, change) {
  const output = element("output", {}, number(score));
  return element("label", { class: "small" }, `${least > 1 ? `${least} × ` : ""}${words(label)}, score at least `, output,
    element("input", { type: "range", min: "0", max: "0.95", step: "0.05", value: score, "data-focus": `score ${label}`,
      "data-score": label, oninput: (event) => { output.textContent = number(Number(event.target.value)); },
      onchange: (event) => change(Number(event.target.value)) }));
}

function risk(state, overview) {
  const [from, to] = [state.min_risk ?? 0, state.max_risk ?? 1];
  const without = overview.num_without_risk;
  return element("fieldset", {}, element("legend", {}, "Risk"), histogram(overview.risk_histogram, from, to),
    bounds({ keys: ["min_risk", "max_risk"], labels: ["at least", "at most"], values: [from, to], max: 1, step: 0.05, told: number,
      chosen: (least, most) => go({ min_risk: least === 0 ? null : least, max_risk: most === 1 ? null : most }) }),
    without > 0 && element("p", { class: "small soft" }, `${count(without, "scene")} without a risk: they pass no bound.`));
}

function times(state, overview) {
  const { from_ns: first, to_ns: last } = overview;
  const step = (last - first) / STEPS;
  const at = (text, fallback) => (text ? Math.round((Date.parse(`${text}Z`) * 1e6 - first) / step) : fallback);
  const told = (k) => moment(first + k * step);
  const [from, to] = [at(state.from, 0), at(state.to, STEPS)].map((k) => Math.min(STEPS, Math.max(0, k)));
  const exact = (key, label, ns, rounds) => element("label", { class: "small" }, label,
    element("input", { type: "datetime-local", step: "1", "data-focus": key, value: state[key] ?? secondOf(ns, { rounds }),
      min: secondOf(first), max: secondOf(last, { rounds: Math.ceil }), onchange: (event) => go({ [key]: event.target.value }) }));
  return element("fieldset", {}, element("legend", {}, hasClock(first) ? "Time (UTC)" : "Time in the log"),
    bounds({ keys: ["from", "to"], labels: ["from", "to"], values: [from, to], max: STEPS, step: 1, told,
      chosen: (least, most) => go({ from: least === 0 ? "" : secondOf(first + least * step),
        to: most === STEPS ? "" : secondOf(first + most * step, { rounds: Math.ceil }) }) }),
    hasClock(first) && element("details", { class: "exact" }, element("summary", { class: "small" }, "Exactly"),
      exact("from", "from", first, Math.floor), exact("to", "to", last, Math.ceil)));
}

function hardness(state) {
  const percent = (share) => `${Math.round(share * 100)} %`;
  const output = element("output", {}, percent(state.hw ?? 0.3));
  return element("fieldset", {}, element("legend", {}, "Order"),
    element("label", { class: "small" }, "share of hardness in the score ", output,
      element("input", { type: "range", min: "0", max: "1", step: "0.1", value: state.hw ?? 0.3, "data-focus": "hw",
        oninput: (event) => { output.textContent = percent(event.target.value); },
        onchange: (event) => go({ hw: Number(event.target.value) }) })));
}
