// Pictures need the token, so they are fetched and shown as blobs: when they come into view, each once.

import { api } from "./api.js";
import { element } from "./dom.js";

const KEPT = 400;
const known = new Map();

async function blobUrl(path) {
  if (!known.has(path)) {
    known.set(path, api.picture(path).then((blob) => URL.createObjectURL(blob)));
    known.get(path).catch(() => known.delete(path));
    if (known.size > KEPT) {
      const [oldest, url] = known.entries().next().value;
      known.delete(oldest);
      // What still shows it has loaded it already.
      url.then(URL.revokeObjectURL, () => {});
    }
  }
  return known.get(path);
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
  try {
    const url = await blobUrl(path);
    if (image.dataset.path === path) image.src = url;
  } catch (error) {
    if (error.name !== "AbortError") image.alt = `${image.alt}: the picture cannot be shown`;
  }
}

export function picture(path, alt, isLazy = true) {
  const image = element("img", { alt, decoding: "async" });
  image.dataset.path = path;
  if (isLazy) seen.observe(image);
  else load(image, path);
  return image;
}
