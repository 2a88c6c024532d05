// Times, sizes and ids as people read them.

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const since = (instant, now = Date.now()) => (now - Date.parse(instant)) / 1000;

export function ago(instant, now = Date.now()) {
  if (!instant) return "";
  const s = since(instant, now);
  return s < 0 ? `in ${duration(-s)}` : `${duration(s)} ago`;
}

export const clock = (instant) => (instant ? new Date(instant).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }) : "");

export function bytes(count) {
  if (!Number.isFinite(count)) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = count;
  let at = 0;
  while (n >= 1024 && at < units.length - 1) [n, at] = [n / 1024, at + 1];
  return `${at && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

/** What a task asks for, in a few words. */
export function wanted(task) {
  const parts = [`${task.cpu ?? 1} cpu`];
  if (task.memory_gb) parts.push(`${task.memory_gb} GB`);
  if (task.gpu) parts.push(`${task.gpu} ${task.gpu_type ?? "gpu"}`);
  if (task.node_count > 1) parts.push(`on ${task.node_count} nodes`);
  return parts.join(" · ");
}

/** How a task stands: its status, or what it was cancelled to. */
export const standing = (task) => (task.status === "failed" && task.reason === "cancelled" ? "cancelled" : task.status);

export const ENDED = ["completed", "failed"];

/** How long a task took, or has been running; NaN before it starts. */
export function ran(task, now = Date.now()) {
  if (!task.started_at) return NaN;
  return ((task.ended_at ? Date.parse(task.ended_at) : now) - Date.parse(task.started_at)) / 1000;
}
