// Saved sets: name them, look at them, take them away.

import { api } from "./api.js";
import { busy, dialog, element, problem, replace, say } from "./dom.js";
import { picture } from "./pictures.js";
import { go, link } from "./state.js";
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

export async function setsPage(main, state) {
  replace(main, busy("Reading the sets…"));
  try {
    if (state.set) await oneSet(main, state.set);
    else await allSets(main);
  } catch (error) { replace(main, problem(error, () => go({}, { replaces: true }))); }
}

async function allSets(main) {
  const { sets } = await api.sets();
  replace(main, element("div", { class: "title" }, element("h1", { tabindex: "-1" }, "Saved sets")),
    sets.length ? element("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Saved sets" }, element("table", {},
      element("thead", {}, element("tr", {}, ["Name", "Scenes", "Saved", "By", "Note"].map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, sets.map((set) => element("tr", {},
        element("td", {}, element("a", { href: link({ view: "sets", set: set.set_id }), "data-go": true }, set.name)),
        element("td", {}, String(set.num_scenes)), element("td", {}, moment(set.created_ns)),
        element("td", {}, set.created_by), element("td", {}, set.note))))))
      : element("p", { class: "empty" }, "No set is saved yet. Search, choose scenes (x), and save them (e)."));
  main.querySelector("h1").focus();
}

async function oneSet(main, id) {
  const set = await api.set(id);
  const format = element("select", { id: "format", "aria-label": "Format" },
    Object.entries(FORMATS).map(([value, label]) => element("option", { value }, label)));
  const shown = set.scene_ids.slice(0, SHOWN);
  replace(main,
    element("div", { class: "title" }, element("h1", { tabindex: "-1" }, set.name),
      element("span", { class: "soft" }, `${count(set.num_scenes, "scene")} · ${set.created_by} · ${moment(set.created_ns)}`),
      element("span", { class: "grow" }), format,
      element("button", { type: "button", class: "primary", id: "export", onclick: (event) => take(event.target, set, format.value) }, "Export"),
      element("button", { type: "button", onclick: () => remove(set) }, "Remove")),
    set.note && element("p", {}, set.note),
    element("ul", { class: "grid" }, shown.map((scene) => {
      const image = picture(`/v1/scenes/${scene}/cover`, "", true);
      return element("li", { class: "card", "data-scene": scene },
        element("a", { class: "cover", href: link({ view: "scene", id: scene }), "data-go": true, "aria-label": `Open scene ${scene}` }, image),
        element("div", { class: "about mono" }, scene));
    })),
    set.num_scenes > SHOWN && element("p", { class: "soft" }, `The first ${SHOWN} are shown; an export holds all.`));
  main.querySelector("h1").focus();
}

async function take(button, set, format) {
  button.disabled = true;
  try {
    const { blob, name } = await api.exportSet(set.set_id, format);
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    say(`${name}: ${(blob.size / 1024).toFixed(0)} kB`);
  } catch (error) { say(error.detail); }
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
