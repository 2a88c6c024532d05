// Who is logged in. The key itself is sent once and kept nowhere in the page; a cookie that scripts cannot read stands for it.
import { signal } from "@preact/signals";
import { call, get, onLoggedOut } from "./api.js";

/** undefined: not known yet; null: nobody; else {user_id, role}. */
export const me = signal(undefined);

onLoggedOut(() => {
  me.value = null;
});

export async function findOut() {
  me.value = await get("/v1/sessions");
}

export async function logIn(key) {
  me.value = await call("POST", "/v1/sessions", { key });
}

export async function logOut() {
  await call("DELETE", "/v1/sessions");
  me.value = null;
}

const ROLES_OF = {
  change: ["user", "operator", "admin"],
  steer: ["operator", "admin"],
  audit: ["auditor", "admin"],
  administer: ["admin"],
};

/** May whoever is logged in do this: change (own things), steer (workers), audit, administer? */
export const may = (what) => ROLES_OF[what].includes(me.value?.role);
