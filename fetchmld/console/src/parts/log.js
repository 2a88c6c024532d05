// A task's log, read from a byte offset on: followed while the task runs, searched, and bounded in the page.
//
// Asking again and again with an offset costs a connection only for as long as an answer takes; a stream per page would use
// up the six that a browser gives to one server.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { send } from "../api.js";
import { bytes } from "../format.js";

const EVERY_MS = 700;
const SHOWN_MAX = 1_000_000; // characters; what is older is in the whole log, which can be downloaded
const MATCHES_MAX = 2_000;

// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007]*\u0007/g;

/** Text as a terminal would leave it: colours dropped, a line that was written over shown as it was last. */
export const plain = (text) => text.replace(ESCAPES, "").replace(/\r\n/g, "\n").replace(/[^\n]*\r(?=[^\n\r])/g, "");

export function Log({ task, over }) {
  const state = useSignal({ text: "", offset: 0, cut: false, error: null, done: false });
  const search = useSignal("");
  const follow = useSignal(true);
  const box = useRef(null);
  const isOver = useRef(over);
  isOver.current = over;

  useEffect(() => {
    let left = false;
    let timer = 0;
    const decoder = new TextDecoder();
    const read = async () => {
      const wasOver = isOver.current;
      try {
        const answer = await send("GET", `/v1/tasks/${task}/logs?offset=${state.value.offset}`);
        const data = await answer.arrayBuffer();
        if (left) return;
        const text = state.value.text + decoder.decode(data, { stream: true });
        const tooLong = text.length > SHOWN_MAX;
        const kept = tooLong ? text.slice(text.indexOf("\n", text.length - SHOWN_MAX) + 1) : text;
        if (data.byteLength || wasOver || state.value.error)
          state.value = { text: kept, offset: state.value.offset + data.byteLength, cut: state.value.cut || tooLong, error: null, done: wasOver };
      } catch (error) {
        if (left) return;
        if (error.status !== 404 || wasOver) state.value = { ...state.value, error: error.status === 404 ? null : error, done: wasOver };
      }
      if (!state.value.done) timer = setTimeout(read, document.hidden ? 5 * EVERY_MS : EVERY_MS);
    };
    read();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [task]);

  useEffect(() => {
    if (follow.value && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [state.value.text, follow.value]);

  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    follow.value = scrollHeight - scrollTop - clientHeight < 24;
  };
  const { text, offset, cut, error, done } = state.value;
  const found = search.value ? matches(plain(text), search.value) : null;
  return html`<div class="log">
    <div class="bar">
      <input type="search" placeholder="Search the log" aria-label="Search the log" value=${search.value} onInput=${(e) => (search.value = e.target.value)} />
      ${found && html`<span class="quiet" role="status">${found.count}${found.count >= MATCHES_MAX ? "+" : ""} found</span>`}
      <label><input type="checkbox" checked=${follow.value} onChange=${(e) => (follow.value = e.target.checked)} /> follow</label>
      <span class="quiet">${bytes(offset)}${done ? "" : " so far"}</span>
      <a href=${`/v1/tasks/${task}/logs`} download=${`${task}.log`}>download</a>
    </div>
    ${error && html`<p class="problem" role="alert">${error.message}</p>`}
    ${cut && html`<p class="quiet">Only the newest part is shown; the download has all of it.</p>`}
    <pre ref=${box} onScroll=${onScroll} tabindex="0" aria-label="Log">${found ? found.parts : plain(text) || (done ? "(no output)" : "(no output yet)")}</pre>
  </div>`;
}

/** `text` in pieces, what was searched for marked. */
function matches(text, wanted) {
  const parts = [];
  const [low, small] = [text.toLowerCase(), wanted.toLowerCase()];
  let from = 0;
  let count = 0;
  for (let at = low.indexOf(small); at >= 0 && count < MATCHES_MAX; at = low.indexOf(small, from)) {
    parts.push(text.slice(from, at), html`<mark>${text.slice(at, at + small.length)}</mark>`);
    from = at + small.length;
    count += 1;
  }
  parts.push(text.slice(from));
  return { parts, count };
}
