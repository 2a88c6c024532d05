// What goes on now: one WebSocket per tab, and the lists it keeps up to date.
//
// The socket says `resync` when it opens and whenever something was missed: then the lists are read anew. Changes are gathered
// and shown at most four times a second, however many come.
import { batch, computed, signal } from "@preact/signals";
import { get } from "./api.js";
import { ENDED } from "./format.js";

const SHOW_EVERY_MS = 250;
const WORKERS_EVERY_MS = 2000; // at most, when something happens there
const WORKERS_LOOK_MS = 10_000; // how busy they are changes without an event
const ENDED_KEPT = 100;
const LISTED_MAX = 500;
const PAUSE_MAX_MS = 10_000;

export const tasks = signal(new Map()); // id -> Task: all that wait or run (up to LISTED_MAX each), and the last that ended
export const totals = signal({}); // SchedulerStatus
export const workers = signal([]);
export const reservations = signal([]);
export const connected = signal(false);
export const now = signal(Date.now());

/** Those that wait, whose turn is next first. */
export const waiting = computed(() =>
  [...tasks.value.values()].filter((task) => task.status === "queued").sort((a, b) => agedNow(b) - agedNow(a) || compare(a, b)),
);
export const running = computed(() =>
  [...tasks.value.values()].filter((task) => !ENDED.includes(task.status) && task.status !== "queued").sort((a, b) => compare(b, a)),
);
export const ended = computed(() =>
  [...tasks.value.values()].filter((task) => ENDED.includes(task.status)).sort((a, b) => (b.ended_at ?? "").localeCompare(a.ended_at ?? "")),
);

/** Milliseconds of waiting that count as one point of priority, as the waiting tasks themselves show it. */
const tau = computed(() => {
  for (const task of tasks.value.values()) {
    const points = task.priority_aged - task.priority;
    if (task.status === "queued" && points > 0.01) return (task.seenAt - Date.parse(task.created_at)) / points;
  }
  return 600_000;
});
// All tasks age at one rate: what was said at different moments is compared after taking the moment away.
const agedNow = (task) => task.priority_aged - task.seenAt / tau.value;
const compare = (a, b) => a.created_at.localeCompare(b.created_at) || a.id.localeCompare(b.id);

let clocks = [];
let socket = null;
let pauseMs = 500;
let wanted = false;
let news = new Map();
let statusNews = null;
let timer = 0;
let workersDue = false;

export function start() {
  if (wanted) return;
  wanted = true;
  connect();
  clocks = [
    setInterval(() => document.hidden || (now.value = Date.now()), 1000),
    setInterval(() => document.hidden || readWorkers(), WORKERS_LOOK_MS),
  ];
}

export function stop() {
  wanted = false;
  clocks.forEach(clearInterval);
  socket?.close();
}

function connect() {
  if (!wanted) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws?workers=true`, "fetchml.v1");
  socket.onopen = () => {
    connected.value = true;
    pauseMs = 500;
  };
  socket.onmessage = (message) => hear(JSON.parse(message.data));
  socket.onclose = () => {
    connected.value = false;
    setTimeout(connect, pauseMs * (0.5 + Math.random() / 2));
    pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
  };
}

function hear(event) {
  if (event.type === "ping") socket.send('{"type":"pong"}');
  else if (event.type === "resync") readAll();
  else if (event.task) {
    news.set(event.task.id, { ...event.task, seenAt: Date.now(), gone: event.action === "task.deleted" });
    workersDue ||= event.task.status !== "queued";
    showSoon();
  } else if (event.type === "worker_update") {
    workersDue = true;
    showSoon();
  } else if (event.type === "queue_update") {
    statusNews = event.queue;
    showSoon();
  }
}

function showSoon() {
  timer ||= setTimeout(show, SHOW_EVERY_MS);
}

function show() {
  timer = 0;
  const changed = news;
  news = new Map();
  batch(() => {
    if (changed.size) tasks.value = merged(tasks.value, changed);
    if (statusNews) totals.value = withQueue(totals.value, statusNews);
    statusNews = null;
  });
  if (workersDue) readWorkersSoon();
}

/** `old` with `changed` in it, and no more ended tasks than are kept. */
export function merged(old, changed) {
  const next = new Map(old);
  for (const [id, task] of changed) {
    if (task.gone || task.array_id) next.delete(id);
    else next.set(id, task);
  }
  const over = [...next.values()].filter((task) => ENDED.includes(task.status)).sort((a, b) => (b.ended_at ?? "").localeCompare(a.ended_at ?? ""));
  for (const task of over.slice(ENDED_KEPT)) next.delete(task.id);
  return next;
}

const withQueue = (old, counts) => ({
  ...old,
  batch_queue_depth: counts.batch_queued,
  service_queue_depth: counts.service_queued,
  tasks_running: counts.running,
  workers_active: counts.workers_active,
  workers_total: counts.workers_total,
});

let workersTimer = 0;
function readWorkersSoon() {
  workersDue = false;
  workersTimer ||= setTimeout(async () => {
    workersTimer = 0;
    await readWorkers();
  }, WORKERS_EVERY_MS);
}

export async function readWorkers() {
  const [found, status] = await Promise.all([quietly("/v1/scheduler/workers"), quietly("/v1/scheduler/status")]);
  batch(() => {
    if (found) workers.value = found;
    if (status) totals.value = status;
  });
}

export async function readReservations() {
  const found = await quietly("/v1/scheduler/reservations");
  if (found) reservations.value = found;
}

async function readAll() {
  const lists = await Promise.all(
    ["queued", "preparing", "running", "collecting", "completed", "failed"].map((status) =>
      quietly("/v1/tasks", { status, limit: ENDED.includes(status) ? ENDED_KEPT / 2 : LISTED_MAX }),
    ),
  );
  if (lists.some((list) => list === null)) return void setTimeout(readAll, 2000);
  const seenAt = Date.now();
  tasks.value = merged(new Map(lists.flatMap((list) => list.tasks).map((task) => [task.id, { ...task, seenAt }])), news);
  news = new Map();
  await Promise.all([readWorkers(), readReservations()]);
}

/** The answer, or null where there is none: the next event asks again. */
async function quietly(path, query) {
  try {
    return await get(path, query);
  } catch {
    return null;
  }
}
