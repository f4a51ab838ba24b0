// Signs in, draws the page that the URL names, and goes from one to the next without loading anew.

import { api, token } from "./api.js";
import { element, problem, replace } from "./dom.js";
import { infraredPage } from "./infrared.js";
import { help, listen } from "./keyboard.js";
import { runsPage } from "./runs.js";
import { leaveScene, scenePage } from "./scene.js";
import { searchPage } from "./search.js";
import { setsPage } from "./sets.js";
import { read } from "./state.js";

const PAGES = { search: searchPage, scene: scenePage, infrared: infraredPage, sets: setsPage, runs: runsPage };
const TITLES = { search: "Scenes", scene: "Scene", infrared: "Infrared", sets: "Sets", runs: "Runs" };
const main = document.getElementById("main");

function draw() {
  if (!token.get()) { signIn(); return; }
  const state = read();
  const view = PAGES[state.view] ? state.view : "search";
  if (view !== "scene") leaveScene();
  document.title = `${TITLES[view]}${state.q ? `: ${state.q}` : ""} – Nightminer`;
  document.getElementById("leave").hidden = false;
  for (const anchor of document.querySelectorAll(".bar nav a")) {
    const isHere = anchor.dataset.view === (view === "scene" ? "search" : view);
    if (isHere) anchor.setAttribute("aria-current", "page"); else anchor.removeAttribute("aria-current");
  }
  PAGES[view](main, state);
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

function theme() {
  const button = document.getElementById("theme");
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
  };
  set(localStorage.getItem("nightminer-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("nightminer-theme", name);
    set(name);
  });
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[data-go], .bar nav a");
  if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState({}, "", anchor.getAttribute("href"));
  window.scrollTo(0, 0);
  draw();
});
document.addEventListener("moved", draw);
window.addEventListener("popstate", draw);
document.addEventListener("unauthorised", () => {
  if (!token.get()) return;
  token.forget();
  signIn({ title: "This token is not valid, or no longer.", detail: "Ask for another one." });
});
document.getElementById("help").addEventListener("click", help);
document.getElementById("leave").addEventListener("click", () => { token.forget(); signIn(); });

theme();
takeToken();
listen();
draw();
