// Experiments, and the metrics of one's tasks beside each other.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { call, get, intentKey } from "../api.js";
import { go, to } from "../router.js";
import { may } from "../session.js";
import { useAnswer } from "../parts/asked.js";
import { Chart } from "../parts/chart.js";
import { Rows } from "../parts/rows.js";
import { Act, Ago, Badge, Empty, Panel, Problem, State, TaskLink } from "../parts/shown.js";

export function Experiments() {
  const { value, error, again } = useAnswer(() => get("/v1/experiments"), [], 10);
  const columns = [
    { name: "Name", of: (one) => html`<a href=${to(["experiments", one.id])}>${one.name}</a>` },
    { name: "Status", of: (one) => html`<${Badge} kind=${one.status} />` },
    { name: "By", of: (one) => one.user_id },
    { name: "Created", of: (one) => html`<${Ago} at=${one.created_at} />` },
    { name: "Description", kind: "why", of: (one) => one.description },
  ];
  return html`<div class="page">
    <h1>Experiments</h1>
    ${may("change") && html`<${Create} again=${again} />`}
    <${Problem} error=${error} />
    ${value?.length === 0 && html`<${Empty}>None yet. An experiment puts tasks side by side: <code>fetchmld submit --experiment ID</code>.<//>`}
    ${value?.length > 0 && html`<${Rows} label="Experiments" columns=${columns} rows=${value} keyOf=${(one) => one.id} open=${(one) => go(["experiments", one.id])} keys />`}
  </div>`;
}

function Create({ again }) {
  const name = useSignal("");
  const intent = useSignal(intentKey());
  const create = async () => {
    await call("POST", "/v1/experiments", { name: name.value.trim() }, { "Idempotency-Key": intent.value });
    name.value = "";
    intent.value = intentKey();
    again();
  };
  return html`<form class="filters" onSubmit=${(e) => e.preventDefault()}>
    <label>Name <input value=${name.value} maxlength="128" onInput=${(e) => (name.value = e.target.value)} /></label>
    <${Act} act=${create} disabled=${!name.value.trim()}>create<//>
  </form>`;
}

export function Experiment({ id }) {
  const { value, error, again } = useAnswer(() => get(`/v1/experiments/${id}`), [id]);
  const { value: list } = useAnswer(() => get("/v1/tasks", { experiment_id: id, limit: 200 }), [id], 5);
  const { value: metrics } = useAnswer(() => get(`/v1/experiments/${id}/metrics`), [id], 10);
  if (!value) return html`<div class="page"><${Problem} error=${error} /><a href="#/experiments">All experiments</a></div>`;
  const archive = async () => {
    await call("PATCH", `/v1/experiments/${id}`, { status: value.status === "archived" ? "active" : "archived" });
    again();
  };
  return html`<div class="page">
    <div class="title">
      <h1>${value.name}</h1>
      <${Badge} kind=${value.status} />
      <code class="quiet">${id}</code>
      <span class="end">${may("change") && html`<${Act} act=${archive}>${value.status === "archived" ? "use again" : "archive"}<//>`}</span>
    </div>
    ${value.description && html`<p>${value.description}</p>`}
    <div class="grid"><${Compared} metrics=${metrics} tasks=${list?.tasks ?? []} /></div>
  </div>`;
}

/** A row per task, a column per metric; and a chart of the chosen one. */
function Compared({ metrics, tasks }) {
  const rows = (metrics?.tasks ?? []).map((one) => ({ ...one, numbers: numbersOf(one.metrics) }));
  const measured = new Map(rows.map((one) => [one.task_id ?? one.id, one]));
  const names = [...new Set(rows.flatMap((one) => Object.keys(one.numbers)))].sort();
  const chosen = useSignal("");
  const shown = names.includes(chosen.value) ? chosen.value : names[0];
  const columns = [
    { name: "Task", of: (task) => html`<${TaskLink} id=${task.id}>${task.job_name}<//>` },
    { name: "Status", of: (task) => html`<${State} task=${task} />` },
    { name: "Params", kind: "mono", of: (task) => params(measured.get(task.id)?.params ?? task.params) },
    ...names.map((name) => ({ name, kind: "number", of: (task) => round(measured.get(task.id)?.numbers[name]) })),
  ];
  const all = tasks.length ? [...tasks, ...rows.filter((one) => !tasks.some((task) => task.id === (one.task_id ?? one.id))).map(asTask)] : rows.map(asTask);
  const charted = all.filter((task) => measured.get(task.id)?.numbers[shown] !== undefined).reverse(); // the oldest first
  const called = (task) => params(measured.get(task.id).params ?? task.params) || task.job_name;
  return html`<${Panel} title="Tasks and their metrics" wide more=${html`<span class="quiet">of each task's metrics.json</span>`}>
      ${all.length === 0 ? html`<${Empty}>No task of this experiment yet.<//>` : html`<${Rows} label="Tasks and metrics" columns=${columns} rows=${all} keyOf=${(task) => task.id} open=${(task) => go(["tasks", task.id])} keys />`}
    <//>
    ${shown &&
    html`<${Panel} title="Compared" wide more=${html`<label>metric
        <select value=${shown} onChange=${(e) => (chosen.value = e.target.value)}>${names.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`}>
      <${Chart} values=${charted.map((task) => measured.get(task.id).numbers[shown])} label=${shown} names=${charted.map(called)} />
    <//>`}`;
}

const asTask = (one) => ({ id: one.task_id ?? one.id, job_name: one.job_name ?? one.task_id ?? one.id, status: one.status ?? "completed", params: one.params });
const params = (found) => (found ? Object.entries(found).map(([name, value]) => `${name}=${value}`).join(" ") : "");
const round = (value) => (value === undefined ? "" : Number.isInteger(value) ? value : Number(value.toPrecision(5)));

/** The numbers of a metrics.json, nested ones by their path. */
export function numbersOf(value, before = "") {
  if (typeof value === "number") return before ? { [before]: value } : {};
  if (!value || typeof value !== "object" || Array.isArray(value)) return {};
  return Object.assign({}, ...Object.entries(value).map(([name, one]) => numbersOf(one, before ? `${before}.${name}` : name)));
}
