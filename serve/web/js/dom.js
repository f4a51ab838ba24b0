// Elements without strings of HTML: what a log or a person wrote is always text.

export function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

let timer = 0;

export function say(text, ms = 5000) {
  const place = document.getElementById("status");
  place.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => { place.textContent = ""; }, ms);
}

/** An error that has no place of its own on the page, long enough to note its request. */
export function sayProblem(error) {
  const request = error.requestId ? ` (request ${error.requestId})` : "";
  say(`${error.title ?? "Something went wrong."} ${error.detail ?? String(error)}${request}`, 20000);
}

/** What has the focus, by a name that lasts when the page is drawn again. */
export const focusName = () => document.activeElement?.dataset.focus;

export function focusOn(name) {
  if (name) document.querySelector(`[data-focus="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
}

export function busy(text) {
  return element("p", { class: "busy", role: "status" }, text);
}

export function problem(error, retry) {
  return element("div", { class: "problem", role: "alert" },
    element("p", {}, element("strong", {}, error.title ?? "Something went wrong"), " ", error.detail ?? String(error)),
    error.requestId && element("p", { class: "small soft" }, `Request ${error.requestId}`),
    retry && element("button", { type: "button", onclick: retry }, "Try again"));
}

export function dialog(title, ...content) {
  const label = `dialog-${Math.random().toString(36).slice(2)}`;
  const made = element("dialog", { "aria-labelledby": label },
    element("div", { class: "stack" }, element("h2", { id: label }, title), ...content));
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return made;
}
