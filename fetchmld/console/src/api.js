// Calls of our own API. Every failure is an ApiError that can be shown as it is.

export class ApiError extends Error {
  constructor(status, code, message, traceId) {
    super(message);
    Object.assign(this, { status, code, traceId });
  }
}

const listeners = new Set();

/** Calls `listener` whenever an answer says that nobody is logged in. */
export const onLoggedOut = (listener) => listeners.add(listener);

/** The answer's JSON, or null for none. `body` is sent as JSON. Throws ApiError. */
export async function call(method, path, body, headers = {}) {
  const answer = await send(method, path, body, headers);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path, query) => call("GET", path + queryString(query));

/** The answer itself, read by the caller. Throws ApiError. */
export async function send(method, path, body, headers = {}) {
  const given = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers } };
  let answer;
  try {
    answer = await fetch(path, { method, credentials: "same-origin", cache: "no-store", headers, ...given });
  } catch {
    throw new ApiError(0, "UNREACHABLE", "The daemon does not answer. Is it running?", "");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) listeners.forEach((listener) => listener());
  throw new ApiError(answer.status, said.code ?? "", said.error ?? said.message ?? `The daemon answered ${answer.status}.`, said.trace_id ?? "");
}

/** "?a=1&b=2" of what has a value, or "". */
export function queryString(query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? "?" + new URLSearchParams(given) : "";
}

/** A key for one intent, so that a repeated click makes one thing. */
export const intentKey = () => crypto.randomUUID?.() ?? String(Math.random()).slice(2) + Date.now();
