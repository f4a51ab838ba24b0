// Saved sets: name them, look at them, take them away.

import { api, asOfPath } from "./api.js";
import { card, chooseNone } from "./card.js";
import { busy, dialog, element, problem, replace, say, sayProblem } from "./dom.js";
import { picture } from "./pictures.js";
import { go, link, stateOf } from "./state.js";
import { count, moment } from "./words.js";

const FORMATS = { parquet: "Parquet", csv: "CSV", coco: "COCO (zip)", fiftyone: "FiftyOne (zip)", nuscenes: "nuScenes tokens" };
const SHOWN = 60;

export function saveDialog(ids, search) {
  if (!ids.length) { say("There is no scene to save."); return; }
  const name = element("input", { type: "text", required: true, maxlength: "100", id: "set-name" });
  const note = element("textarea", { rows: "3", maxlength: "2000", id: "set-note" });
  const place = element("div");
  const form = element("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      const saved = await api.saveSet({ name: name.value.trim(), note: note.value, scene_ids: ids, ...(search ? { search } : {}) });
      made.close();
      chooseNone();
      say(`“${saved.name}” holds ${count(saved.num_scenes, "scene")}.`);
      go({ view: "sets", set: saved.set_id, id: "" });
    } catch (error) { replace(place, problem(error)); }
  } },
  element("label", { for: "set-name" }, "Name", name), element("label", { for: "set-note" }, "Note", note), place,
  element("div", { class: "row" }, element("button", { class: "primary" }, "Save"),
    element("button", { type: "button", onclick: () => made.close() }, "Cancel")));
  const made = dialog(`Save ${count(ids.length, "scene")}`, form);
  name.focus();
}

export async function setsPage(main, state, signal) {
  replace(main, busy("Reading the sets…"));
  try {
    const found = await (state.set ? api.set(state.set) : api.sets());
    if (signal.aborted) return;
    if (state.set) oneSet(main, found, signal);
    else allSets(main, found.sets);
    main.querySelector("h1").focus();
  } catch (error) { if (!signal.aborted) replace(main, problem(error, () => go({}, { replaces: true }))); }
}

function allSets(main, sets) {
  replace(main, element("div", { class: "title" }, element("h1", { tabindex: "-1" }, "Saved sets")),
    sets.length ? element("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Saved sets" }, element("table", {},
      element("thead", {}, element("tr", {}, ["Name", "Scenes", "Saved", "By", "Note"].map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, sets.map((set) => element("tr", {},
        element("td", {}, element("a", { href: link({ view: "sets", set: set.set_id }), "data-go": true }, set.name)),
        element("td", {}, String(set.num_scenes)), element("td", {}, moment(set.created_ns)),
        element("td", {}, set.created_by), element("td", {}, set.note))))))
      : element("p", { class: "empty" }, "No set is saved yet. Search, choose scenes (x), and save them (e)."));
}

function oneSet(main, set, signal) {
  const format = element("select", { id: "format", "aria-label": "Format" },
    Object.entries(FORMATS).map(([value, label]) => element("option", { value }, label)));
  const shown = set.scene_ids.slice(0, SHOWN);
  replace(main,
    element("div", { class: "title" }, element("a", { class: "back", href: link({ view: "sets" }), "data-go": true }, "‹ Sets"),
      element("h1", { tabindex: "-1" }, set.name),
      element("span", { class: "soft" }, `${count(set.num_scenes, "scene")} · ${set.created_by} · ${moment(set.created_ns)}`),
      element("span", { class: "grow" }), format,
      element("button", { type: "button", class: "primary", id: "export", onclick: (event) => take(event.target, set, format.value) }, "Export"),
      element("button", { type: "button", onclick: () => remove(set) }, "Remove")),
    set.note && element("p", {}, set.note),
    set.search && element("p", {}, element("a", { href: link(stateOf(set.search)), "data-go": true }, "The search that it was saved from")),
    element("ul", { class: "grid" }, shown.map((id) => member(id, set.as_of, signal))),
    set.num_scenes > SHOWN && element("p", { class: "soft" }, `The first ${SHOWN} are shown; an export holds all.`));
}

/** A scene of a set, as of the version that it was saved from. What it is comes when it is looked at. */
function member(id, asOf, signal) {
  const item = element("li", { class: "card", "data-scene": id },
    element("a", { class: "cover", href: link({ view: "scene", id, as_of: asOf }), "data-go": true, "aria-label": `Open scene ${id}` },
      picture(asOfPath(`/v1/scenes/${id}/cover`, asOf), "").frame),
    element("div", { class: "about small soft" }, "…"));
  const seen = new IntersectionObserver(async ([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    seen.disconnect();
    try {
      const known = card(await api.scene(id, asOf, signal), { isSmall: true });
      item.querySelector("a").setAttribute("aria-label", known.querySelector("a").getAttribute("aria-label"));
      item.lastChild.replaceWith(known.querySelector(".about"));
    } catch (error) {
      if (!signal.aborted) item.lastChild.replaceChildren(element("span", { class: "mono" }, id), ` ${error.detail}`);
    }
  });
  signal.addEventListener("abort", () => seen.disconnect());
  seen.observe(item);
  return item;
}

async function take(button, set, format) {
  button.disabled = true;
  try {
    const { blob, name } = await api.exportSet(set.set_id, format);
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    say(`${name}: ${(blob.size / 1024).toFixed(0)} kB`);
  } catch (error) { sayProblem(error); }
  button.disabled = false;
}

function remove(set) {
  const place = element("div");
  const made = dialog(`Remove “${set.name}”?`, element("p", {}, "The scenes stay in the store."), place,
    element("div", { class: "row" },
      element("button", { type: "button", class: "primary", onclick: async () => {
        try { await api.removeSet(set.set_id); made.close(); say(`“${set.name}” is removed.`); go({ set: "" }); }
        catch (error) { replace(place, problem(error)); }
      } }, "Remove"),
      element("button", { type: "button", onclick: () => made.close() }, "Keep")));
}
