// Reservations on a time axis: a row each, from their start to their end, with the present marked.
import { html } from "htm/preact";
import { clock } from "../format.js";
import { now } from "../live.js";

const SPAN_MIN_MS = 3_600_000;
const OVER = ["expired", "released", "cancelled"];

export function Axis({ reservations }) {
  const live = reservations.filter((one) => !OVER.includes(one.status));
  if (!live.length) return null;
  const from = Math.min(now.value, ...live.map((one) => Date.parse(one.starts_at)));
  const until = Math.max(from + SPAN_MIN_MS, ...live.map((one) => Date.parse(one.expires_at)));
  const share = (ms) => `${Math.max(0, (100 * ms) / (until - from))}%`;
  return html`<figure class="axis">
    <ul>
      ${live.map((one) => {
        const [start, end] = [Date.parse(one.starts_at), Date.parse(one.expires_at)];
        const said = `${one.gpu_count} ${one.gpu_type ?? "GPU"}${one.node_count > 1 ? ` × ${one.node_count} nodes` : ""} for ${one.user_id}, ${one.status}`;
        return html`<li key=${one.id} title=${`${clock(one.starts_at)} to ${clock(one.expires_at)}`}>
          <i class=${one.status} style=${{ marginLeft: share(start - from), width: share(end - start) }}></i><span>${said}</span>
        </li>`;
      })}
    </ul>
    <i class="now" style=${{ left: share(now.value - from) }} title="now"></i>
    <figcaption><span>${clock(new Date(from).toISOString())}</span><span>${clock(new Date(until).toISOString())}</span></figcaption>
  </figure>`;
}
