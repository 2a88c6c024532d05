// Notebook servers: start one, open it, stop it.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { call, get, intentKey } from "../api.js";
import { may } from "../session.js";
import { useAnswer } from "../parts/asked.js";
import { Rows } from "../parts/rows.js";
import { Act, Ago, Badge, Empty, Problem } from "../parts/shown.js";

export function Jupyter() {
  const { value, error, again } = useAnswer(() => get("/v1/jupyter/services"), [], 2);
  const stop = (one) => async () => {
    await call("DELETE", `/v1/jupyter/services/${one.id}`);
    again();
  };
  const columns = [
    { name: "Name", of: (one) => (one.url && one.status === "running" ? html`<a href=${one.url} target="_blank" rel="noopener">${one.name}</a>` : one.name) },
    { name: "Id", kind: "mono quiet", of: (one) => one.id },
    { name: "Status", of: (one) => html`<${Badge} kind=${one.status} />` },
    { name: "Started", of: (one) => html`<${Ago} at=${one.created_at} />` },
    { name: "Remark", kind: "why", of: (one) => one.reason ?? one.wait_reason ?? one.error ?? one.detail ?? "" },
    { name: "Stop", of: (one) => may("change") && ["starting", "running"].includes(one.status) && html`<${Act} act=${stop(one)} kind="danger" ask="Yes, stop it">stop<//>` },
  ];
  return html`<div class="page">
    <h1>Jupyter</h1>
    ${may("change") && html`<${Start} again=${again} />`}
    <${Problem} error=${error} />
    ${value?.length === 0 && html`<${Empty}>No notebook server runs.<//>`}
    ${value?.length > 0 && html`<${Rows} label="Jupyter services" columns=${columns} rows=${value} keyOf=${(one) => one.id} keys />`}
  </div>`;
}

function Start({ again }) {
  const name = useSignal("");
  const workspace = useSignal("");
  const intent = useSignal(intentKey());
  const start = async () => {
    const body = { name: name.value.trim(), ...(workspace.value.trim() ? { workspace: workspace.value.trim() } : {}) };
    await call("POST", "/v1/jupyter/services", body, { "Idempotency-Key": intent.value });
    name.value = "";
    intent.value = intentKey();
    again();
  };
  return html`<form class="filters" onSubmit=${(e) => e.preventDefault()}>
    <label>Name <input value=${name.value} onInput=${(e) => (name.value = e.target.value)} /></label>
    <label>Workspace <input placeholder="its name" value=${workspace.value} onInput=${(e) => (workspace.value = e.target.value)} /></label>
    <${Act} act=${start} kind="main" disabled=${!name.value.trim()}>start JupyterLab<//>
  </form>`;
}
