// Can the record be trusted: its head, a check of all of it, its events, the proof of one.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { call, get } from "../api.js";
import { clock } from "../format.js";
import { place, refine } from "../router.js";
import { useAnswer } from "../parts/asked.js";
import { Rows } from "../parts/rows.js";
import { Act, Ago, Badge, Empty, Facts, Panel, Problem } from "../parts/shown.js";
import { Pages } from "./tasks.js";

const PAGE = 50;
const TYPES = ["job_queued", "job_started", "job_completed", "file_access", "auth_attempt", "plugin_configured", "scheduler_drain", "audit_verified"];

export const Audit = () =>
  html`<div class="page">
    <h1>Audit</h1>
    <div class="grid"><${Chain} /><${Events} /></div>
  </div>`;

function Chain() {
  const { value, error, again } = useAnswer(() => get("/v1/audit/chain-root"), [], 5);
  const verdict = useSignal(null);
  const verify = async () => {
    verdict.value = await call("POST", "/v1/audit/verify");
    again();
  };
  const found = verdict.value;
  return html`<${Panel} title="The chain" wide>
    <${Problem} error=${error} />
    ${value &&
    html`<${Facts} facts=${[
      ["newest event's hash", html`<code class="long">${value.root_hash}</code>`],
      ["events", value.total_events],
      ["recorded", html`<${Ago} at=${value.timestamp} />`],
      ["vouched for outside", html`<${Badge} kind=${value.anchored ? "healthy" : "unhealthy"}>${value.anchored ? "yes" : "no"}<//> ${!value.anchored && html`<span class="quiet">whoever holds this disk could cut or rewrite it unseen; set audit_sinks</span>`}`],
      ["signed up to", value.checkpoint_size ? `event ${value.checkpoint_size - 1}` : ""],
      ["trouble", value.problem],
    ]} />`}
    <p class="bar">
      <${Act} act=${verify} kind="main">Verify now<//>
      <a href="/v1/audit/checkpoint" download="checkpoint.txt">download the checkpoint</a>
    </p>
    ${found &&
    html`<p role="status" class=${found.valid ? "fine" : "problem"}>
      ${found.valid
        ? `Valid: all ${found.total_events} events, and the index agrees.`
        : `Not valid: the first bad event is ${found.first_tampered ?? found.index_first_bad}. ${found.problem ?? ""}`}
    </p>`}
  <//>`;
}

function Events() {
  const { query } = place.value;
  const offset = Number(query.offset) || 0;
  const ask = () => get("/v1/audit/events", { event_type: query.event_type, user_id: query.user_id, limit: PAGE, offset });
  const { value, error } = useAnswer(ask, [JSON.stringify(query)], offset ? 0 : 10);
  const chosen = useSignal(null);
  const set = (name) => (event) => refine({ [name]: event.target.value.trim(), offset: "" });
  const columns = [
    { name: "Number", kind: "number", of: (event) => event.sequence_num },
    { name: "When", of: (event) => html`<time title=${event.timestamp}>${clock(event.timestamp)}</time>` },
    { name: "Action", of: (event) => event.action },
    { name: "Of", kind: "mono", of: (event) => event.resource },
    { name: "By", of: (event) => event.user_id },
    { name: "From", kind: "mono", of: (event) => event.ip_address },
    { name: "Outcome", of: (event) => (event.success ? "done" : html`<${Badge} kind="failed">refused<//>`) },
  ];
  return html`<${Panel} title="Events" wide>
    <form class="filters" aria-label="Filters" onSubmit=${(e) => e.preventDefault()}>
      <label>Kind
        <select value=${query.event_type ?? ""} onChange=${set("event_type")}>
          <option value="">any</option>
          ${TYPES.map((type) => html`<option value=${type}>${type}</option>`)}
        </select></label>
      <label>By <input value=${query.user_id ?? ""} onChange=${set("user_id")} /></label>
      <${Pages} offset=${offset} total=${value?.total ?? 0} size=${PAGE} />
    </form>
    <${Problem} error=${error} />
    ${value && !value.events.length && html`<${Empty}>No event is like that.<//>`}
    ${chosen.value && html`<${Proof} event=${chosen.value} close=${() => (chosen.value = null)} />`}
    ${value?.events.length > 0 && html`<${Rows} label="Events" columns=${columns} rows=${value.events} keyOf=${(event) => event.sequence_num} open=${(event) => (chosen.value = event)} keys />`}
  <//>`;
}

function Proof({ event, close }) {
  const { value, error } = useAnswer(() => get("/v1/audit/proof", { seq: event.sequence_num }), [event.sequence_num]);
  const download = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(value)], { type: "application/json" }));
    link.download = `proof-${event.sequence_num}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`<div class="detail" role="region" aria-label=${`Event ${event.sequence_num}`}>
    <h3>Event ${event.sequence_num}: ${event.action}</h3>
    <${Facts} facts=${[
      ["hash", html`<code class="long">${event.event_hash}</code>`],
      ["hash before it", html`<code class="long">${event.prev_hash}</code>`],
      ["error", event.error],
      ["metadata", html`<pre class="small">${JSON.stringify(event.metadata, null, 1)}</pre>`],
      ["proof", value && `${value.proof.length} hashes, in the tree of the first ${value.tree_size} events`],
    ]} />
    <${Problem} error=${error} />
    <p class="bar">
      <button type="button" disabled=${!value} onClick=${download}>download the proof</button>
      <span class="quiet">check it with <code>fetchmld audit check</code>, on any machine</span>
      <button type="button" class="plain" onClick=${close}>close</button>
    </p>
  </div>`;
}
