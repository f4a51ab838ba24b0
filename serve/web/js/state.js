// What is shown is what stands in the URL, so that every state can be sent to somebody else.

const LISTS = ["tag", "not", "log", "detected"];
const NUMBERS = ["min_risk", "max_risk", "hw"];
const TEXTS = ["view", "q", "like", "id", "set", "from", "to", "as_of"];

export function read(search = location.search) {
  const given = new URLSearchParams(search);
  const state = { view: "search" };
  for (const key of LISTS) state[key] = given.getAll(key);
  for (const key of NUMBERS) {
    const value = given.get(key);
    state[key] = value !== null && value !== "" && Number.isFinite(Number(value)) ? Number(value) : null;
  }
  for (const key of TEXTS) if (given.get(key)) state[key] = given.get(key);
  return state;
}

export function toSearch(state) {
  const made = new URLSearchParams();
  for (const key of TEXTS) if (state[key] && !(key === "view" && state[key] === "search")) made.set(key, state[key]);
  for (const key of LISTS) for (const value of state[key] ?? []) made.append(key, value);
  for (const key of NUMBERS) if (state[key] !== null && state[key] !== undefined) made.set(key, state[key]);
  const text = made.toString();
  return text ? `?${text}` : "?";
}

const nanoseconds = (text) => {
  const ms = Date.parse(`${text}Z`);
  return Number.isFinite(ms) ? ms * 1e6 : null;
};

/** UTC to the second, as a URL and an input of a time have it. */
export const secondOf = (ns, { rounds = Math.floor } = {}) =>
  new Date(rounds(ns / 1e9) * 1000).toISOString().slice(0, 19);

/** What a detector found, of `CLASS:SCORE:COUNT`, which is how a URL has it, here and in the API. */
export function objectOf(form) {
  const [label, score, least] = form.split(":");
  return { label, min_score: Number(score || 0.5), count: Number(least || 1) };
}

/** A score to six decimals, which is what the API takes in a URL. */
export const formOf = ({ label, min_score: score, count = 1 }) =>
  `${label}:${Number(score.toFixed(6))}${count > 1 ? `:${count}` : ""}`;

export function filters(state) {
  const where = { tags: state.tag, without_tags: state.not, logs: state.log, detected: state.detected.map(objectOf) };
  if (state.min_risk !== null) where.min_risk = state.min_risk;
  if (state.max_risk !== null) where.max_risk = state.max_risk;
  if (state.from && nanoseconds(state.from) !== null) where.from_ns = nanoseconds(state.from);
  if (state.to && nanoseconds(state.to) !== null) where.to_ns = nanoseconds(state.to);
  return where;
}

export function filtersInUrl(state) {
  const made = new URLSearchParams();
  const names = { tags: "tag", without_tags: "without_tag", logs: "log" };
  for (const [key, value] of Object.entries({ ...filters(state), detected: state.detected })) {
    for (const each of [value].flat()) made.append(names[key] ?? key, each);
  }
  if (state.as_of) made.set("as_of", state.as_of);
  return made;
}

export function request(state, top, cursor) {
  const asked = { where: filters(state), top };
  const share = state.hw ?? 0.3;
  if (state.like) asked.query = { kind: "scene", scene_id: state.like };
  else if (state.q) asked.query = { kind: "text", text: state.q };
  asked.weights = asked.query ? { similarity: 1 - share, hardness: share } : { similarity: 0, hardness: 1 };
  if (cursor) asked.cursor = cursor;
  if (state.as_of) asked.as_of = state.as_of;
  return asked;
}

/** What a request that was kept with a set asked for, as a state of the search page. */
export function stateOf(asked) {
  const { where = {}, query } = asked;
  return {
    q: query?.text, like: query?.scene_id, tag: where.tags ?? [], not: where.without_tags ?? [], log: where.logs ?? [],
    detected: (where.detected ?? []).map(formOf), min_risk: where.min_risk, max_risk: where.max_risk, from: where.from_ns && secondOf(where.from_ns),
    to: where.to_ns && secondOf(where.to_ns), hw: query ? asked.weights?.hardness : null, as_of: asked.as_of,
  };
}

// Other modules move by this event; main.js draws what is asked for.
export function go(changes, { replaces = false } = {}) {
  goTo(toSearch({ ...read(), ...changes }), { replaces });
}

export function goTo(search, { replaces = false, returns = false } = {}) {
  history[replaces ? "replaceState" : "pushState"]({}, "", search);
  document.dispatchEvent(new CustomEvent("moved", { detail: { returns } }));
}

export function link(changes) {
  return toSearch({ view: "search", tag: [], not: [], log: [], detected: [], ...changes });
}

/** A scene, of the same version of the store as what is shown now. */
export const sceneLink = (id) => link({ view: "scene", id, as_of: read().as_of });

// The list that a scene was opened from: Escape goes there.
let list = "?";
export const rememberList = () => { list = location.search || "?"; };
export const lastList = () => list;
