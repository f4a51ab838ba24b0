// Pictures need the token, so they are fetched and shown as blobs: when they come into view, each once, a few at a time.

import { api } from "./api.js";
import { element } from "./dom.js";

const KEPT = 400;
const MOST_AT_A_TIME = 6;
const known = new Map();
const waiting = [];
let running = 0;

async function turn() {
  if (running < MOST_AT_A_TIME) running += 1;
  else await new Promise((mine) => waiting.push(mine));
}

function next() {
  if (waiting.length) waiting.shift()();
  else running -= 1;
}

async function fetched(path, isWanted) {
  await turn();
  try {
    if (!isWanted()) throw new DOMException("nobody looks at it any more", "AbortError");
    return URL.createObjectURL(await api.picture(path));
  } finally { next(); }
}

function blobUrl(path, isWanted) {
  const held = known.get(path) ?? fetched(path, isWanted);
  known.delete(path);
  known.set(path, held);
  held.catch(() => { if (known.get(path) === held) known.delete(path); });
  if (known.size > KEPT) {
    const [oldest, url] = known.entries().next().value;
    known.delete(oldest);
    // What still shows it has loaded it already.
    url.then(URL.revokeObjectURL, () => {});
  }
  return held;
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      seen.unobserve(target);
      load(target, target.dataset.path);
    }
  }
}, { rootMargin: "300px" });

export async function load(image, path) {
  image.dataset.path = path;
  const isWanted = () => image.isConnected && image.dataset.path === path;
  try {
    const url = await blobUrl(path, isWanted);
    if (image.dataset.path === path) {
      image.hidden = false;
      image.src = url;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      // Another image that shared the wait may still want it.
      if (isWanted()) load(image, path);
      return;
    }
    if (!isWanted()) return;
    image.hidden = true;
    image.dispatchEvent(new CustomEvent("missing", { detail: error, bubbles: true }));
  }
}

/** Have it at hand before it is shown. */
export const fetchAhead = (path, isWanted) => { blobUrl(path, isWanted).catch(() => {}); };

/** An image, and in its place a word where there is no picture. */
export function picture(path, alt, { isLazy = true } = {}) {
  const image = element("img", { alt, decoding: "async", "data-path": path });
  const frame = element("span", { class: "picture" }, image);
  image.addEventListener("missing", ({ detail }) => {
    frame.querySelector(".nothing")?.remove();
    frame.append(noPicture(detail.status === 404 ? "no picture" : "picture cannot be shown"));
  });
  image.addEventListener("load", () => frame.querySelector(".nothing")?.remove());
  if (isLazy) seen.observe(image);
  else queueMicrotask(() => load(image, path));
  return { frame, image };
}

export const noPicture = (text = "no picture") => element("span", { class: "nothing" }, text);
