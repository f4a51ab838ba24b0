// One scene: cameras, the bird's-eye plot, why it ranks where it does, its drive, and scenes like it.

import { api } from "./api.js";
import { birdsEye } from "./birdseye.js";
import { busy, element, problem, replace, say } from "./dom.js";
import { player } from "./player.js";
import { card, scoreWords } from "./card.js";
import { saveDialog } from "./sets.js";
import { go, lastList, link } from "./state.js";
import { neighbours, timeline } from "./timeline.js";
import { moment, number, riskClass, seconds, words } from "./words.js";

export async function scenePage(main, state, signal) {
  // From one scene of a drive to the next, the page stays until the other is there.
  if (main.querySelector(".scene")) main.setAttribute("aria-busy", "true");
  else replace(main, busy("Opening the scene…"));
  try {
    const detail = await api.scene(state.id, state.as_of, signal);
    if (!signal.aborted) show(main, detail, state.as_of, signal);
  } catch (error) {
    if (!signal.aborted) replace(main, backLink(), problem(error, () => go({}, { replaces: true })));
  }
  main.removeAttribute("aria-busy");
}

const backLink = () => element("a", { class: "back", href: lastList(), "data-go": true, "data-returns": true, id: "back",
  "aria-keyshortcuts": "Escape" }, "‹ Back");

function show(main, detail, asOf, signal) {
  const { scene } = detail;
  document.title = `${scene.log_id}, ${moment(scene.t_start_ns)} – Nightminer`;
  const eye = detail.birds_eye && birdsEye(detail.birds_eye);
  const shownAt = (t_ns) => eye?.at((t_ns - scene.t_start_ns) / Math.max(1, scene.t_end_ns - scene.t_start_ns));
  const drive = element("section", { class: "panel" }, element("h2", {}, "Risk over the drive"), busy("Reading the drive…"));
  const like = element("section", { class: "panel like-it" }, element("h2", {}, "Scenes like it"), busy("Searching…"));
  replace(main,
    element("div", { class: "title" }, backLink(),
      element("h1", { tabindex: "-1" }, scene.log_id),
      element("span", { class: "soft" }, `${scene.source} · ${moment(scene.t_start_ns)} · ${seconds(scene.t_start_ns, scene.t_end_ns)}`),
      element("span", { class: "grow" }),
      element("button", { type: "button", id: "similar", "aria-keyshortcuts": "s", disabled: !detail.has_embedding,
        onclick: () => go({ view: "search", like: scene.scene_id, q: "", id: "" }) }, "More like this"),
      element("button", { type: "button", id: "save", "aria-keyshortcuts": "e",
        onclick: () => saveDialog([scene.scene_id], asOf ? { as_of: asOf } : undefined) }, "Save to a set"),
      element("button", { type: "button", onclick: () => copyLink() }, "Copy link")),
    element("div", { class: "scene" },
      element("div", {},
        element("section", { class: "panel pictures", "aria-label": "Pictures" }, player(scene, detail.frames, asOf, signal, shownAt)),
        drive, like),
      element("div", {},
        why(detail),
        element("section", { class: "panel" }, element("h2", {}, "From above"),
          eye ? eye.root : element("p", { class: "soft" }, "The log knows no motion to draw.")),
        agents(detail), tags(scene), facts(detail))));
  main.querySelector("h1").focus();
  fill(drive, () => api.timeline(scene.scene_id, asOf, signal), (found) => {
    const { before, after } = neighbours(found, scene.scene_id);
    const step = (at, label, key) => element("button", { type: "button", disabled: !at, id: label, "aria-keyshortcuts": key,
      onclick: () => go({ id: at.scene_id }) }, label === "earlier" ? "‹ Earlier" : "Later ›");
    return [timeline(found, scene.scene_id), element("div", { class: "row" }, step(before, "earlier", "["), step(after, "later", "]"))];
  }, signal);
  if (detail.has_embedding) {
    fill(like, () => api.similar(scene.scene_id, asOf, signal), (found) => [element("ul", { class: "grid" },
      found.hits.map((hit) => card(hit, { isSmall: true })))], signal);
  } else replace(like, element("h2", {}, "Scenes like it"), element("p", { class: "soft" }, "A scene without pictures has nothing to compare."));
}

async function fill(panel, ask, make, signal) {
  const title = panel.firstChild;
  try {
    const found = await ask();
    if (!signal.aborted) replace(panel, title, ...make(found));
  } catch (error) {
    if (!signal.aborted) replace(panel, title, problem(error));
  }
}

function why(detail) {
  const { score, scene } = detail;
  const meter = (name, share, value) => element("div", { class: "meter" }, element("span", {}, name),
    element("span", { class: "track", "aria-hidden": "true" }, bar(share ?? 0)), element("span", { class: "value" }, value));
  const units = { risk: "", ambiguity: " m", rarity: "" };
  return element("section", { class: "panel" }, element("h2", {}, "Why it ranks here"),
    element("p", {}, score.why),
    meter("hardness", scene.hardness, number(scene.hardness)),
    score.hardness_parts.map((part) => meter(part.name, part.rank,
      part.rank === null ? "unknown" : `${Math.round(part.rank * 100)} %`)),
    element("p", { class: "small soft" }, `Bars are ranks among ${score.ranked_among?.toLocaleString("en") ?? "no"} scenes; measured: ` +
      score.hardness_parts.map((part) => `${part.name} ${number(part.value)}${units[part.name]}`).join(", ") + "."),
    element("p", { class: "small soft" }, `Score: ${scoreWords(score)}.`));
}

function bar(share) {
  const made = element("i");
  made.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`;
  return made;
}

function tags(scene) {
  const sorted = Object.entries(scene.tag_probabilities).sort((a, b) => b[1] - a[1]).slice(0, 8);
  return element("section", { class: "panel" }, element("h2", {}, "Tags"),
    element("div", { class: "chips" }, scene.tags.map((tag) => element("a", { class: "chip button", "data-go": true,
      href: link({ tag: [tag] }) }, words(tag)))),
    !scene.tags.length && element("p", { class: "soft" }, "None counts as present."),
    scene.truth_tags.length > 0 && element("p", { class: "small" }, `By the log: ${scene.truth_tags.map(words).join(", ")}`),
    scene.description && element("p", { class: "small" }, scene.description),
    sorted.length > 0 && element("details", {}, element("summary", {}, "The model's probabilities"),
      sorted.map(([tag, value]) => element("div", { class: "meter" }, element("span", {}, words(tag)),
        element("span", { class: "track" }, bar(value)), element("span", { class: "value" }, number(value))))));
}

function agents(detail) {
  if (!detail.agents.length) return null;
  return element("section", { class: "panel" }, element("h2", {}, "Most dangerous road users"),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Most dangerous road users" }, element("table", {},
      element("thead", {}, element("tr", {}, ["What", "Hazard", "TTC (s)", "Closest (m)", "When"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, detail.agents.map((agent) => element("tr", {},
        element("td", {}, words(agent.category).replaceAll(".", " ")), element("td", {}, number(agent.hazard)),
        element("td", {}, number(agent.min_ttc_s, 1)), element("td", {}, number(agent.min_dce_m, 1)),
        element("td", {}, `+${((agent.t_ns - detail.scene.t_start_ns) / 1e9).toFixed(1)} s`)))))));
}

function facts(detail) {
  const { scene } = detail;
  const rows = [
    ["Risk", element("span", { class: riskClass(scene.risk) }, `${number(scene.risk)} (${scene.risk_source ?? "unknown"})`)],
    ["By physics", `${number(detail.physics_risk)}${detail.physics_source ? ` (${detail.physics_source})` : ""}`],
    ["Least time to collision", scene.min_ttc_s === null ? "–" : `${number(scene.min_ttc_s, 1)} s`],
    ["Hardest braking", detail.max_braking_mps2 === null ? "–" : `${number(detail.max_braking_mps2, 1)} m/s²`],
    ["Cameras", scene.cameras.join(", ") || "none"],
    ["Lacks", scene.flags.map(words).join(", ") || "nothing"],
    ["Scene", element("span", { class: "mono" }, scene.scene_id)],
    ["Run", element("span", { class: "mono" }, detail.run_id)],
  ];
  return element("section", { class: "panel" }, element("h2", {}, "Facts"), element("table", {}, element("tbody", {},
    rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))))));
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link to this scene is copied.");
  } catch {
    say(location.href, 15000);
  }
}
