// A table that the keyboard walks through: j and k move, Enter opens, x marks.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

/** Is the person writing something, so that letters are letters? */
export const writes = (event) => /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey;

/**
 * `columns`: [{name, of: row => cell, kind}]. `open(row)` on Enter or a click; `marked`: a signal of a Set of keys, where rows can be
 * chosen; `keys`: whether this table is the one that j and k walk through.
 */
export function Rows({ columns, rows, keyOf, open, marked, keys = false, label }) {
  const at = useSignal(-1);
  useEffect(() => {
    if (!keys) return;
    const press = (event) => {
      if (writes(event)) return;
      const row = rows[at.value];
      if (event.key === "j") at.value = Math.min(rows.length - 1, at.value + 1);
      else if (event.key === "k") at.value = Math.max(0, at.value - 1);
      else if (event.key === "Enter" && row && event.target.tagName !== "BUTTON" && event.target.tagName !== "A") open?.(row);
      else if (event.key === "x" && row && marked) toggle(marked, keyOf(row));
      else return;
      event.preventDefault();
      document.querySelector(`tr[data-at="${at.value}"]`)?.scrollIntoView({ block: "nearest" });
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [rows, keys, open]);
  return html`<div class="scroll">
    <table aria-label=${label}>
      <thead>
        <tr>
          ${marked && html`<th class="mark"><input type="checkbox" aria-label="Mark all" checked=${rows.length > 0 && rows.every((row) => marked.value.has(keyOf(row)))}
            onChange=${(e) => (marked.value = new Set(e.target.checked ? rows.map(keyOf) : []))} /></th>`}
          ${columns.map((column) => html`<th class=${column.kind} scope="col">${column.name}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map((row, index) => {
          const key = keyOf(row);
          return html`<tr key=${key} data-at=${keys ? index : undefined} class=${index === at.value && keys ? "at" : ""} onClick=${(e) => !e.target.closest("a,button,input,label") && open?.(row)}>
            ${marked && html`<td class="mark"><input type="checkbox" aria-label=${`Mark ${key}`} checked=${marked.value.has(key)} onChange=${() => toggle(marked, key)} /></td>`}
            ${columns.map((column) => html`<td class=${column.kind} data-name=${column.name}>${column.of(row)}</td>`)}
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

function toggle(marked, key) {
  const next = new Set(marked.value);
  if (!next.delete(key)) next.add(key);
  marked.value = next;
}
