// Signs in, draws the page that the URL names, and goes from one to the next without loading anew.

import { api, token } from "./api.js";
import { element, problem, replace } from "./dom.js";
import { infraredPage } from "./infrared.js";
import { help, listen } from "./keyboard.js";
import { runsPage } from "./runs.js";
import { scenePage } from "./scene.js";
import { searchPage } from "./search.js";
import { setsPage } from "./sets.js";
import { read, rememberList } from "./state.js";
import { theme } from "./theme.js";

const PAGES = { search: searchPage, scene: scenePage, infrared: infraredPage, sets: setsPage, runs: runsPage };
const TITLES = { search: "Scenes", scene: "Scene", infrared: "Infrared", sets: "Sets", runs: "Runs" };
const main = document.getElementById("main");
let underWay = new AbortController();

/** returns: somebody comes back to a list, and wants it as it was left. */
function draw({ returns = false } = {}) {
  underWay.abort();
  if (!token.get()) { signIn(); return; }
  underWay = new AbortController();
  const state = read();
  const view = PAGES[state.view] ? state.view : "search";
  if (view !== "scene") rememberList();
  document.title = `${TITLES[view]}${state.q ? `: ${state.q}` : ""} – Nightminer`;
  document.getElementById("leave").hidden = false;
  for (const anchor of document.querySelectorAll(".bar nav a")) {
    const isHere = anchor.dataset.view === (view === "scene" ? "search" : view);
    if (isHere) anchor.setAttribute("aria-current", "page"); else anchor.removeAttribute("aria-current");
  }
  PAGES[view](main, state, underWay.signal, { returns });
}

function signIn(error) {
  document.getElementById("leave").hidden = true;
  const input = element("input", { type: "password", id: "token", required: true, autocomplete: "off", spellcheck: "false" });
  replace(main, element("div", { class: "panel narrow stack" }, element("h1", {}, "Sign in"),
    element("p", { class: "soft" }, "With the token that the server printed, or that its operator gave you. It stays in this tab."),
    error && problem(error),
    element("form", { class: "stack", onsubmit: async (event) => {
      event.preventDefault();
      token.set(input.value.trim());
      try { await api.me(); draw(); } catch (refused) { token.forget(); signIn(refused); }
    } }, element("label", { for: "token" }, "Token", input), element("button", { class: "primary" }, "Sign in"))));
  input.focus();
}

// A link that the server printed brings the token behind #, which browsers do not send.
function takeToken() {
  const given = /^#token=(.+)$/.exec(location.hash);
  if (!given) return;
  token.set(decodeURIComponent(given[1]));
  history.replaceState({}, "", location.pathname + location.search);
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[data-go], .bar nav a");
  if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const returns = "returns" in anchor.dataset;
  history.pushState({}, "", anchor.getAttribute("href"));
  if (!returns) window.scrollTo(0, 0);
  draw({ returns });
});
document.addEventListener("moved", (event) => draw(event.detail));
window.addEventListener("popstate", () => draw({ returns: true }));
document.addEventListener("unauthorised", () => {
  if (!token.get()) return;
  token.forget();
  signIn({ title: "This token is not valid, or no longer.", detail: "Ask for another one." });
});
document.getElementById("help").addEventListener("click", help);
document.getElementById("leave").addEventListener("click", () => { underWay.abort(); token.forget(); signIn(); });

theme();
takeToken();
listen();
draw();
