// Where we are: "#/tasks?status=failed" is {path: ["tasks"], query: {status: "failed"}}. Filters live here and nowhere else.
import { signal } from "@preact/signals";
import { queryString } from "./api.js";

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: Object.fromEntries(new URLSearchParams(query)) };
}

export const place = signal(read());
addEventListener("hashchange", () => {
  place.value = read();
});

/** The address of a page of ours. */
export const to = (path, query) => "#/" + path.map(encodeURIComponent).join("/") + queryString(query);

export const go = (path, query) => {
  location.hash = to(path, query);
};

/** The same page with other filters; "" takes one away. */
export const refine = (changes) => go(place.value.path, { ...place.value.query, ...changes });
