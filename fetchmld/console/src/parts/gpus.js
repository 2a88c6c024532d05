// A bar per GPU: how busy it is, by whom, or why not.
import { html } from "htm/preact";
import { go } from "../router.js";

const said = (gpu) =>
  [
    `GPU ${gpu.index}: ${gpu.type}, ${gpu.status}`,
    gpu.held_by && `by ${gpu.held_by}`,
    gpu.utilization !== undefined && `${gpu.utilization} % busy`,
    gpu.memory_mb && `${gpu.used_mb ?? 0} of ${gpu.memory_mb} MiB`,
    gpu.cause,
  ]
    .filter(Boolean)
    .join(", ");

/** Height is use where it is known, else whether it is held. */
const level = (gpu) => (gpu.status === "free" ? 0 : (gpu.utilization ?? 100));

export const Gpus = ({ gpus }) =>
  html`<ul class="gpus" aria-label="GPUs">
    ${gpus.map(
      (gpu) => html`<li key=${gpu.index}>
        <button type="button" class=${`gpu ${gpu.status}`} title=${said(gpu)} aria-label=${said(gpu)} disabled=${!gpu.held_by}
          onClick=${() => go(["tasks", gpu.held_by])}><i style=${{ height: `${level(gpu)}%` }}></i><b>${gpu.index}</b></button>
      </li>`,
    )}
  </ul>`;

/** Used of a total, as a bar and in words. */
export const Share = ({ used, total, unit }) =>
  html`<span class="share" role="img" aria-label=${`${used} of ${total} ${unit}`}
    ><meter min="0" max=${total || 1} value=${used}></meter> ${used}/${total} ${unit}</span
  >`;
