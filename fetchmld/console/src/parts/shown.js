// Small things that every page shows: states, ids, errors, empty lists, buttons that ask.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { ago, clock, standing } from "../format.js";
import { now } from "../live.js";
import { to } from "../router.js";

export const State = ({ task }) => html`<${Badge} kind=${standing(task)} />`;

/** A state in words; its colour only repeats them. */
export const Badge = ({ kind, children }) => html`<span class=${`badge ${kind}`}>${children ?? kind}</span>`;

export const TaskLink = ({ id, children }) => html`<a class="mono" href=${to(["tasks", id])}>${children ?? id}</a>`;

export const Ago = ({ at }) => (at ? html`<time datetime=${at} title=${clock(at)}>${ago(at, now.value)}</time>` : null);

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export function Problem({ error }) {
  if (!error) return null;
  const trace = error.traceId ? html` <span class="quiet mono">trace ${error.traceId}</span>` : null;
  return html`<p class="problem" role="alert">${error.message}${trace}</p>`;
}

/** A button that does `act`, is off meanwhile, and shows what went wrong. With `ask`, a second click confirms. */
export function Act({ act, ask = "", kind = "", disabled = false, children }) {
  const state = useSignal({ busy: false, asked: false, error: null });
  const run = async () => {
    if (ask && !state.value.asked) {
      state.value = { busy: false, asked: true, error: null };
      return;
    }
    state.value = { busy: true, asked: false, error: null };
    try {
      await act();
      state.value = { busy: false, asked: false, error: null };
    } catch (error) {
      state.value = { busy: false, asked: false, error };
    }
  };
  const { busy, asked, error } = state.value;
  const calm = () => asked && (state.value = { busy: false, asked: false, error: null });
  return html`<span class="act"
    ><button type="button" class=${asked ? "danger" : kind} disabled=${busy || disabled} onClick=${run} onBlur=${calm}>
      ${asked ? ask : children}</button
    ><${Problem} error=${error}
  /></span>`;
}

/** Names and values, those without a value left out. */
export function Facts({ facts }) {
  const shown = facts.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return html`<dl class="facts">${shown.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

export const Panel = ({ title, more, children, wide }) =>
  html`<section class=${wide ? "panel wide" : "panel"} aria-label=${title}><header><h2>${title}</h2>${more}</header>${children}</section>`;
