// The HTTP API. The token stays in this tab's memory of the session; it is never part of a URL that is sent.

const KEY = "nightminer-token";

export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail ?? `status ${status}`);
    this.status = status;
    this.title = body.title ?? "The server did not answer as expected";
    this.detail = body.detail ?? "";
    this.code = body.code ?? "";
    this.requestId = body.request_id ?? "";
    this.retryAfter = retryAfter;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

// 429 and 503 say when to come again; a person would press the button, so the page does it twice. What saves something
// is not sent again: the answer that was lost may have been a yes.
const COMES_AGAIN = new Set([429, 503]);
const REPEATABLE = /^\/v1\/(search|ir\/detect)/;

async function send(path, options = {}, patience = 2) {
  const headers = { ...options.headers, Authorization: `Bearer ${token.get() ?? ""}` };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { title: "The server cannot be reached.", detail: "Is it running, and are you online?" });
  }
  if (answer.ok) return answer;
  const wait = Number(answer.headers.get("Retry-After") ?? 0);
  const isRepeatable = (options.method ?? "GET") === "GET" || REPEATABLE.test(path);
  if (COMES_AGAIN.has(answer.status) && isRepeatable && patience > 0 && wait <= 5) {
    await new Promise((done) => setTimeout(done, Math.max(wait, 0.5) * 1000));
    options.signal?.throwIfAborted();
    return send(path, options, patience - 1);
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("unauthorised"));
  throw new ApiError(answer.status, body, wait);
}

const json = async (path, options) => (await send(path, options)).json();
const post = (path, body, options = {}) => json(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
});

/** The same path, of the store as it was after an earlier run. */
export function asOfPath(path, asOf) {
  return asOf ? `${path}${path.includes("?") ? "&" : "?"}as_of=${encodeURIComponent(asOf)}` : path;
}

export const api = {
  me: () => json("/v1/me"),
  overview: (asOf, signal) => json(asOfPath("/v1/overview", asOf), { signal }),
  search: (request, signal) => post("/v1/search", request, { signal }),
  tags: (query, signal) => json(`/v1/tags?${query}`, { signal }),
  logs: (query, signal) => json(`/v1/logs?${query}`, { signal }),
  runs: () => json("/v1/runs"),
  scene: (id, asOf, signal) => json(asOfPath(`/v1/scenes/${id}`, asOf), { signal }),
  timeline: (id, asOf, signal) => json(asOfPath(`/v1/scenes/${id}/timeline`, asOf), { signal }),
  similar: (id, asOf, signal, top = 8) => json(asOfPath(`/v1/scenes/${id}/similar?top=${top}`, asOf), { signal }),
  frames: (id, kind, asOf, signal) => json(asOfPath(`/v1/scenes/${id}/frames?kind=${kind}`, asOf), { signal }),
  sets: () => json("/v1/sets"),
  set: (id) => json(`/v1/sets/${id}`),
  saveSet: (body) => post("/v1/sets", body),
  removeSet: (id) => send(`/v1/sets/${id}`, { method: "DELETE" }),
  exportSet: async (id, format) => {
    const answer = await send(`/v1/sets/${id}/export?format=${format}`);
    const named = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "");
    return { blob: await answer.blob(), name: named?.[1] ?? `set-${id}-${format}` };
  },
  detector: () => json("/v1/ir/detector"),
  detect: (files, minScore, signal) => {
    const form = new FormData();
    for (const file of files) form.append("pictures", file, file.name);
    return json(`/v1/ir/detect?preview=true&min_score=${minScore}`, { method: "POST", body: form, signal });
  },
  picture: async (path) => (await send(path)).blob(),
};
