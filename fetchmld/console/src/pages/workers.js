// Each machine: what it has, what it does, and taking it out of use.
import { html } from "htm/preact";
import { call } from "../api.js";
import { clock } from "../format.js";
import { readWorkers, workers } from "../live.js";
import { may } from "../session.js";
import { Gpus, Share } from "../parts/gpus.js";
import { Act, Ago, Badge, Empty, Facts, TaskLink } from "../parts/shown.js";

export const Workers = () =>
  html`<div class="page">
    <h1>Workers</h1>
    ${workers.value.length === 0 && html`<${Empty}>No worker is connected. <code>fetchmld start --address HOST:PORT</code> joins a machine.<//>`}
    <div class="grid">${workers.value.map((worker) => html`<${One} key=${worker.id} worker=${worker} />`)}</div>
  </div>`;

function One({ worker }) {
  const { capabilities: has, free, slots } = worker;
  const state = worker.suspect ? "suspect" : worker.status;
  const drain = async () => {
    await call("DELETE", `/v1/scheduler/workers/${worker.id}`);
    await readWorkers();
  };
  const undrain = async () => {
    await call("POST", `/v1/scheduler/workers/${worker.id}/undrain`);
    await readWorkers();
  };
  return html`<section class="panel" aria-label=${worker.hostname}>
    <header>
      <h2>${worker.hostname}</h2>
      <${Badge} kind=${state} />
      <span class="end">
        ${may("steer") &&
        (worker.status === "draining"
          ? html`<${Act} act=${undrain}>use again<//>`
          : html`<${Act} act=${drain} ask="Yes, give it nothing new" disabled=${worker.status === "offline"}>drain<//>`)}
      </span>
    </header>
    ${worker.gpus && html`<${Gpus} gpus=${worker.gpus} />`}
    <p class="shares">
      <${Share} used=${has.cpu_cores - free.cpu_cores} total=${has.cpu_cores} unit="cores" />
      <${Share} used=${has.memory_gb - free.memory_gb} total=${has.memory_gb} unit="GB" />
      <${Share} used=${slots.batch_total - slots.batch_available} total=${slots.batch_total} unit="batch slots" />
      <${Share} used=${slots.service_total - slots.service_available} total=${slots.service_total} unit="service slots" />
    </p>
    <${Facts} facts=${[
      ["id", html`<code>${worker.id}</code>`],
      ["heard of", worker.last_heartbeat && html`<${Ago} at=${worker.last_heartbeat} />`],
      ["connected", clock(worker.connected_at)],
      ["isolation", worker.detail?.isolation && said(worker.detail.isolation)],
      ["runs", worker.active_tasks.length ? worker.active_tasks.slice(0, 20).map((id) => html`<div><${TaskLink} id=${id} /></div>`) : ""],
      ["in quarantine", quarantined(worker)],
    ]} />
  </section>`;
}

const said = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function quarantined(worker) {
  const sick = (worker.gpus ?? []).filter((gpu) => gpu.status === "quarantined");
  if (!sick.length) return "";
  const release = (gpu) => async () => {
    await call("POST", `/v1/scheduler/workers/${worker.id}/gpus/${gpu.index}/release`);
    await readWorkers();
  };
  return sick.map((gpu) => html`<div>GPU ${gpu.index}: ${gpu.cause} ${may("steer") && html`<${Act} act=${release(gpu)} ask="Yes, it is well">use again<//>`}</div>`);
}
