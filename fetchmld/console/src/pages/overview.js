// At a glance: is it busy, what waits and why, which GPU is idle.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "../api.js";
import { ago, duration, ran, since, wanted } from "../format.js";
import { ended, now, readReservations, reservations, running, tasks, totals, waiting, workers } from "../live.js";
import { go } from "../router.js";
import { Axis } from "../parts/axis.js";
import { Gpus, Share } from "../parts/gpus.js";
import { Rows } from "../parts/rows.js";
import { Ago, Empty, Panel, State, TaskLink } from "../parts/shown.js";

const SHOWN = 25;
const PLANNED = 8; // of those that wait, whose plan is asked for
const PLANS_EVERY_MS = 5000;

export function Overview() {
  useEffect(() => {
    readReservations();
    const timer = setInterval(readReservations, 30_000);
    return () => clearInterval(timer);
  }, []);
  return html`<div class="page">
    <h1 class="visually-hidden">Overview</h1>
    <${Numbers} />
    <div class="grid">
      <${Waiting} />
      <${Workers} />
      <${Running} />
      <${Ended} />
      ${reservations.value.length > 0 && html`<${Panel} title="Reservations" wide><${Axis} reservations=${reservations.value} /><//>`}
    </div>
  </div>`;
}

function Numbers() {
  const t = totals.value;
  const gpus = workers.value.flatMap((worker) => worker.gpus ?? []);
  const held = gpus.filter((gpu) => gpu.status === "held").length;
  const sick = gpus.filter((gpu) => gpu.status === "quarantined").length;
  const cards = [
    ["running", t.tasks_running, "tasks"],
    ["waiting", (t.batch_queue_depth ?? 0) + (t.service_queue_depth ?? 0), "tasks"],
    ["completed", t.tasks_completed_24h, "in 24 h"],
    ["workers", t.workers_active, `of ${t.workers_total ?? 0} active`],
    gpus.length ? ["GPUs busy", held, `of ${gpus.length}${sick ? `, ${sick} in quarantine` : ""}`] : null,
  ].filter(Boolean);
  return html`<ul class="numbers">
    ${cards.map(([name, count, more]) => html`<li><b>${count ?? "–"}</b> <span>${name}</span> <small>${more}</small></li>`)}
  </ul>`;
}

function Waiting() {
  const plans = usePlans(waiting.value.slice(0, PLANNED));
  const columns = [
    { name: "Task", of: (task) => html`<${TaskLink} id=${task.id}>${task.job_name}<//>` },
    { name: "Priority", kind: "number", of: (task) => html`<span title=${`asked for ${task.priority}; waiting raises it`}>${task.priority_aged.toFixed(1)}</span>` },
    { name: "Asks for", of: wanted },
    { name: "Waits", kind: "number", of: (task) => duration(since(task.created_at, now.value)) },
    { name: "Why", kind: "why", of: (task) => task.wait_reason || "its turn is next" },
    { name: "Starts", of: (task) => planned(plans.get(task.id)) },
  ];
  const rows = waiting.value.slice(0, SHOWN);
  return html`<${Panel} wide title="Waiting" more=${html`<a href="#/tasks?status=queued">all</a>`}>
    ${rows.length
      ? html`<${Rows} label="Waiting tasks" columns=${columns} rows=${rows} keyOf=${(task) => task.id} open=${(task) => go(["tasks", task.id])} keys />`
      : html`<${Empty}>Nothing waits.<//>`}
  <//>`;
}

function planned(found) {
  if (!found) return "";
  if (found.planned?.at) return html`<span title=${found.planned.basis ?? ""}>${ago(found.planned.at, now.value)}</span>`;
  return html`<span class="quiet">${found.estimate || "no estimate"}</span>`;
}

/** Explanations of the first that wait, asked for now and then. */
function usePlans(first) {
  const plans = useSignal(new Map());
  const ids = first.map((task) => task.id).join();
  useEffect(() => {
    let over = false;
    const read = async () => {
      if (document.hidden) return;
      const found = await Promise.all(ids.split(",").filter(Boolean).map((id) => get(`/v1/tasks/${id}/explain`).catch(() => null)));
      if (!over) plans.value = new Map(found.filter(Boolean).map((one) => [one.task_id, one]));
    };
    read();
    const timer = setInterval(read, PLANS_EVERY_MS);
    return () => {
      over = true;
      clearInterval(timer);
    };
  }, [ids]);
  return plans.value;
}

const Workers = () =>
  html`<${Panel} title="Workers" more=${html`<a href="#/workers">all</a>`}>
    ${workers.value.length === 0 && html`<${Empty}>No worker is connected.<//>`}
    <ul class="workers">
      ${workers.value.slice(0, SHOWN).map((worker) => {
        const { capabilities: has, free } = worker;
        return html`<li key=${worker.id}>
          <span class=${`dot ${worker.suspect ? "suspect" : worker.status}`} title=${worker.suspect ? "silent" : worker.status}></span>
          <b>${worker.hostname}</b> <${Share} used=${has.cpu_cores - free.cpu_cores} total=${has.cpu_cores} unit="cores" />
          ${worker.gpus && html`<${Gpus} gpus=${worker.gpus} />`}
        </li>`;
      })}
    </ul>
  <//>`;

const Running = () =>
  html`<${Panel} title="Running" more=${html`<a href="#/tasks?status=running">all</a>`}>
    ${running.value.length === 0 && html`<${Empty}>${tasks.value.size ? "Nothing runs." : "Nothing runs yet. Submit a task, and watch it here."}<//>`}
    <ul class="lines">
      ${running.value.slice(0, SHOWN).map(
        (task) => html`<li key=${task.id}>
          <${TaskLink} id=${task.id}>${task.job_name}<//> <${State} task=${task} /> <span class="quiet">${task.user_id}</span>
          <span class="end">${duration(ran(task, now.value))}</span>
        </li>`,
      )}
    </ul>
  <//>`;

const Ended = () =>
  html`<${Panel} title="Ended lately" more=${html`<a href="#/tasks">all</a>`}>
    ${ended.value.length === 0 && html`<${Empty}>Nothing has ended yet.<//>`}
    <ul class="lines">
      ${ended.value.slice(0, 12).map(
        (task) => html`<li key=${task.id} title=${task.error ?? ""}>
          <${TaskLink} id=${task.id}>${task.job_name}<//> <${State} task=${task} /> <span class="quiet">after ${duration(ran(task)) || "no run"}</span>
          <span class="end"><${Ago} at=${task.ended_at} /></span>
        </li>`,
      )}
    </ul>
  <//>`;
