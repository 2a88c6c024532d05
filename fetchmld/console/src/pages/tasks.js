// All tasks, filtered as the address says, a page at a time; several can be marked and cancelled.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { call, get } from "../api.js";
import { duration, ENDED, ran, wanted } from "../format.js";
import { now, tasks as live } from "../live.js";
import { go, place, refine } from "../router.js";
import { may } from "../session.js";
import { useAnswer } from "../parts/asked.js";
import { Rows } from "../parts/rows.js";
import { Act, Ago, Empty, Problem, State, TaskLink } from "../parts/shown.js";

const PAGE = 50;
const AT_ONCE = 8;
const STATUSES = ["queued", "preparing", "running", "collecting", "completed", "failed"];
const FILTERS = ["status", "user_id", "experiment_id", "reservation_id", "array_id", "node_count", "plugin_configs"];

export function Tasks() {
  const { query } = place.value;
  const offset = Number(query.offset) || 0;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query[name]]));
  const { value, error, again } = useAnswer(() => get("/v1/tasks", { ...filters, limit: PAGE, offset }), [JSON.stringify(query)], 5);
  const marked = useSignal(new Set());
  const rows = (value?.tasks ?? []).map((task) => live.value.get(task.id) ?? task);
  const chosen = rows.filter((task) => marked.value.has(task.id) && !ENDED.includes(task.status));
  const cancel = async () => {
    for (let at = 0; at < chosen.length; at += AT_ONCE) {
      await Promise.all(chosen.slice(at, at + AT_ONCE).map((task) => call("DELETE", `/v1/tasks/${task.id}`)));
    }
    marked.value = new Set();
    again();
  };
  const columns = [
    { name: "Task", of: (task) => html`<${TaskLink} id=${task.id}>${task.job_name}<//>` },
    { name: "Id", kind: "mono quiet", of: (task) => task.id },
    { name: "Status", of: (task) => html`<${State} task=${task} />` },
    { name: "User", of: (task) => task.user_id },
    { name: "Priority", kind: "number", of: (task) => task.priority_aged.toFixed(1) },
    { name: "Asks for", of: wanted },
    { name: "Created", of: (task) => html`<${Ago} at=${task.created_at} />` },
    { name: "Ran", kind: "number", of: (task) => duration(ran(task, now.value)) },
    { name: "Remark", kind: "why", of: (task) => task.error || task.wait_reason || elements(task) },
  ];
  return html`<div class="page">
    <h1>Tasks</h1>
    <${Filters} query=${query} />
    <div class="bar">
      <span class="quiet" role="status">${value ? `${value.total} found` : "Looking…"}</span>
      ${may("change") && html`<${Act} act=${cancel} kind="danger" ask=${`Yes, cancel ${chosen.length}`} disabled=${!chosen.length}>Cancel ${chosen.length || ""} marked<//>`}
      <${Pages} offset=${offset} total=${value?.total ?? 0} />
    </div>
    <${Problem} error=${error} />
    ${value && !rows.length && html`<${Empty}>No task is like that. <a href="#/tasks">Show all</a><//>`}
    ${rows.length > 0 &&
    html`<${Rows} label="Tasks" columns=${columns} rows=${rows} keyOf=${(task) => task.id} open=${(task) => go(["tasks", task.id])} marked=${may("change") ? marked : undefined} keys />`}
  </div>`;
}

const elements = (task) => (task.array ? `${task.array.completed + task.array.failed + task.array.cancelled} of ${task.array.size} ended` : "");

function Filters({ query }) {
  const set = (name) => (event) => refine({ [name]: event.target.value.trim(), offset: "" });
  const plugin = () => {
    try {
      return Object.keys(JSON.parse(query.plugin_configs ?? "{}")).join();
    } catch {
      return "";
    }
  };
  const setPlugin = (event) => {
    const name = event.target.value.trim();
    refine({ plugin_configs: name && JSON.stringify({ [name]: {} }), offset: "" });
  };
  return html`<form class="filters" aria-label="Filters" onSubmit=${(e) => e.preventDefault()}>
    <label>Status
      <select value=${query.status ?? ""} onChange=${set("status")}>
        <option value="">any</option>
        ${STATUSES.map((status) => html`<option value=${status}>${status}</option>`)}
      </select></label>
    <label>User <input value=${query.user_id ?? ""} onChange=${set("user_id")} /></label>
    <label>Experiment <input class="mono" value=${query.experiment_id ?? ""} onChange=${set("experiment_id")} /></label>
    <label>Reservation <input class="mono" value=${query.reservation_id ?? ""} onChange=${set("reservation_id")} /></label>
    <label>Nodes <input type="number" min="1" value=${query.node_count ?? ""} onChange=${set("node_count")} /></label>
    <label>Plugin <input value=${plugin()} onChange=${setPlugin} /></label>
    ${query.array_id && html`<span>elements of <${TaskLink} id=${query.array_id} /></span>`}
    <a href="#/tasks">clear</a>
  </form>`;
}

export function Pages({ offset, total, size = PAGE }) {
  if (total <= size) return null;
  const last = Math.floor((total - 1) / size) * size;
  const move = (to) => () => refine({ offset: to || "" });
  return html`<nav class="pages" aria-label="Pages of the list">
    <button type="button" disabled=${offset === 0} onClick=${move(0)}>first</button>
    <button type="button" disabled=${offset === 0} onClick=${move(Math.max(0, offset - size))}>newer</button>
    <span>${offset + 1} to ${Math.min(total, offset + size)}</span>
    <button type="button" disabled=${offset >= last} onClick=${move(offset + size)}>older</button>
    <button type="button" disabled=${offset >= last} onClick=${move(last)}>last</button>
  </nav>`;
}
