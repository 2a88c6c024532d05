// One task: how it stands, why it waits, what it says, what it left.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, get } from "../api.js";
import { bytes, clock, duration, ENDED, ran, wanted } from "../format.js";
import { now, tasks as live } from "../live.js";
import { to } from "../router.js";
import { may } from "../session.js";
import { useAnswer } from "../parts/asked.js";
import { Log } from "../parts/log.js";
import { Act, Ago, Badge, Empty, Facts, Panel, Problem, State, TaskLink } from "../parts/shown.js";

export function Task({ id }) {
  const heard = live.value.get(id);
  const version = heard ? `${heard.status}/${heard.attempt}/${heard.priority}/${heard.retry_count}` : "";
  const { value: read, error, again } = useAnswer(() => get(`/v1/tasks/${id}`, { output: false }), [id, version], 5);
  if (!read) return error ? html`<div class="page"><${Problem} error=${error} /><a href="#/tasks">All tasks</a></div>` : html`<p class="quiet pad">Loading…</p>`;
  const task = heard ? { ...read, ...heard, env: read.env, array: read.array ?? heard.array, plugin_status: read.plugin_status } : read;
  const over = ENDED.includes(task.status);
  return html`<div class="page">
    <div class="title">
      <h1>${task.job_name}</h1>
      <span role="status"><${State} task=${task} /></span>
      <code class="quiet">${task.id}</code>
      <span class="end">${may("change") && html`<${Actions} task=${task} over=${over} again=${again} />`}</span>
    </div>
    ${task.error && html`<p class=${task.status === "failed" ? "problem" : "quiet"}>${task.error}</p>`}
    <${Timeline} task=${task} />
    <div class="grid">
      ${!over && !task.started_at && html`<${Why} id=${id} />`}
      ${task.array ? html`<${Elements} task=${task} />` : html`<${Panel} title="Log" wide><${Log} key=${`${id}/${task.attempt}`} task=${id} over=${over} /><//>`}
      <${Panel} title="Request"><${Request} task=${task} /><//>
      ${task.plugin_status && html`<${PluginLinks} task=${task} />`}
      <${Left} task=${task} over=${over} />
    </div>
  </div>`;
}

function Actions({ task, over, again }) {
  const priority = useSignal(task.priority);
  const cancel = async () => {
    await call("DELETE", `/v1/tasks/${task.id}`);
    again();
  };
  const raise = async () => {
    await call("PATCH", `/v1/scheduler/jobs/${task.id}/priority`, { priority: Number(priority.value) });
    again();
  };
  if (over) return null;
  return html`<label>priority <input type="number" min="1" max="10" value=${priority.value} onInput=${(e) => (priority.value = e.target.value)} /></label>
    <${Act} act=${raise} disabled=${Number(priority.value) === task.priority}>set<//>
    <${Act} act=${cancel} kind="danger" ask="Yes, cancel it">cancel<//>`;
}

/** Its life as a bar: waiting, running, and what it is now. */
function Timeline({ task }) {
  const start = Date.parse(task.created_at);
  const end = task.ended_at ? Date.parse(task.ended_at) : Math.max(now.value, start + 1);
  const begun = task.started_at ? Date.parse(task.started_at) : end;
  const waited = Math.max(0, Math.min(100, (100 * (begun - start)) / Math.max(1, end - start)));
  return html`<figure class="timeline">
    <div class="track" role="img" aria-label=${`waited ${duration((begun - start) / 1000)}, ran ${duration(ran(task, now.value)) || "not yet"}`}>
      <i class="queued" style=${{ width: `${waited}%` }}></i><i class=${task.status} style=${{ width: `${100 - waited}%` }}></i>
    </div>
    <figcaption>
      <span>created <${Ago} at=${task.created_at} /></span>
      <span>waited ${duration((begun - start) / 1000)}</span>
      ${task.started_at && html`<span>started <time title=${clock(task.started_at)}>${clock(task.started_at)}</time>${task.attempt > 1 ? `, attempt ${task.attempt}` : ""}</span>`}
      ${task.started_at && html`<span>ran ${duration(ran(task, now.value))}</span>`}
      ${task.ended_at && html`<span>ended <${Ago} at=${task.ended_at} /></span>`}
    </figcaption>
  </figure>`;
}

function Why({ id }) {
  const { value, error } = useAnswer(() => get(`/v1/tasks/${id}/explain`), [id], 3);
  if (!value) return html`<${Problem} error=${error} />`;
  const smaller = value.smaller_request && Object.entries(value.smaller_request).map(([name, count]) => `${name} ${count}`).join(", ");
  const holders = value.held_by?.map((one) => html`<li>${one.kind} ${one.id ? (one.kind === "task" ? html`<${TaskLink} id=${one.id} />` : html`<code>${one.id}</code>`) : "of somebody else"}${one.until ? ` until ${clock(one.until)}` : ", no time limit"}</li>`);
  return html`<${Panel} title="Why it waits" wide>
    <p>${value.reason}</p>
    <${Facts} facts=${[
      ["ahead of it", value.position],
      ["priority now", value.priority_aged?.toFixed(2)],
      ["planned start", value.planned?.at ? clock(value.planned.at) : value.estimate],
      ["basis", value.planned?.basis],
      ["would start at once with", smaller],
      ["nobody later passes after", clock(value.no_later_arrival_passes_after)],
      ["held by", holders?.length ? html`<ul class="lines">${holders}</ul>` : ""],
    ]} />
  <//>`;
}

const Elements = ({ task }) =>
  html`<${Panel} title="Elements" wide more=${html`<a href=${to(["tasks"], { array_id: task.id })}>list them</a>`}>
    <${Facts} facts=${["size", "max_parallel", "queued", "running", "completed", "failed", "cancelled"].map((name) => [name.replace("_", " "), String(task.array[name])])} />
  <//>`;

function Request({ task }) {
  const where = task.node_assignments?.map(
    (one) => html`<div>${one.worker_id}${one.gpus?.length ? `, GPU ${one.gpus.join(", ")}` : ""}</div>`,
  );
  const env = Object.entries(task.env ?? {}).map(([name, value]) => html`<div class="mono">${name}=${value}</div>`);
  return html`<${Facts} facts=${[
    ["user", task.user_id],
    ["command", task.entrypoint && html`<code>${task.entrypoint} ${task.args}</code>`],
    ["asks for", wanted(task)],
    ["time limit", task.time_limit_s && duration(task.time_limit_s)],
    ["retries", task.max_retries ? `${task.retry_count} of ${task.max_retries}` : task.retry_count || ""],
    ["runs on", where],
    ["snapshot", task.snapshot_id && html`<code>${task.snapshot_id}</code>`],
    ["experiment", task.experiment_id && html`<a href=${to(["experiments", task.experiment_id])}>${task.experiment_id}</a>`],
    ["image", task.image],
    ["datasets", [...(task.datasets ?? []), ...(task.dataset_specs ?? []).map((spec) => spec.name ?? spec.source)].join(", ")],
    ["element of", task.array_id && html`<${TaskLink} id=${task.array_id} />`],
    ["params", task.params && JSON.stringify(task.params)],
    ["environment", env.length ? env : ""],
    ["exit code", task.exit_code !== undefined ? String(task.exit_code) : ""],
    ["signal", task.signal],
    ["processor time", task.usage && duration(task.usage.user_s + task.usage.system_s)],
    ["memory, at most", task.usage && bytes(task.usage.rss_max_bytes)],
  ]} />`;
}

const PluginLinks = ({ task }) =>
  html`<${Panel} title="Plugins">
    <ul class="lines">
      ${Object.entries(task.plugin_status).map(
        ([name, one]) => html`<li><b>${name}</b> <${Badge} kind=${one.status} /> ${one.url && html`<a href=${one.url} target="_blank" rel="noopener">open</a>`}</li>`,
      )}
    </ul>
  <//>`;

function Left({ task, over }) {
  const files = useSignal(null);
  useEffect(() => {
    if (over && !task.array) get(`/v1/tasks/${task.id}/artifacts`).then((found) => (files.value = found)).catch(() => (files.value = []));
  }, [task.id, over]);
  const href = (file) => `/v1/tasks/${task.id}/artifacts/${file.path.split("/").map(encodeURIComponent).join("/")}`;
  if (task.array) return null;
  return html`<${Panel} title="Artifacts">
    ${!over && html`<${Empty}>Collected when it has ended.<//>`}
    ${over && files.value?.length === 0 && html`<${Empty}>It left nothing in FETCHML_OUTPUT_DIR.<//>`}
    <ul class="lines">
      ${(files.value ?? []).map((file) => html`<li><a href=${href(file)} download>${file.path}</a> <span class="end quiet" title=${file.hash}>${bytes(file.bytes)}</span></li>`)}
    </ul>
  <//>`;
}
