// The console: what is shown where. Pages are in pages/, what goes on now in live.js.
import { html, render } from "htm/preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { connected, start, stop, totals } from "./live.js";
import { findOut, logOut, may, me } from "./session.js";
import { go, place, to } from "./router.js";
import { writes } from "./parts/rows.js";
import { Audit } from "./pages/audit.js";
import { Experiment, Experiments } from "./pages/experiments.js";
import { Jupyter } from "./pages/jupyter.js";
import { LogIn } from "./pages/login.js";
import { Overview } from "./pages/overview.js";
import { Plugins } from "./pages/plugins.js";
import { Task } from "./pages/task.js";
import { Tasks } from "./pages/tasks.js";
import { Workers } from "./pages/workers.js";
import "./style.css";

const PAGES = [
  ["", "Overview", Overview],
  ["tasks", "Tasks", Tasks, Task],
  ["workers", "Workers", Workers],
  ["experiments", "Experiments", Experiments, Experiment],
  ["jupyter", "Jupyter", Jupyter],
  ["plugins", "Plugins", Plugins],
  ["audit", "Audit", Audit],
];
const HELP = [
  ["/", "find a task by its id"],
  ["j, k", "down, up in a list"],
  ["Enter", "open"],
  ["x", "mark"],
  ["g then o, t, w, e, a", "overview, tasks, workers, experiments, audit"],
  ["?", "this help"],
];
const JUMPS = { o: [], t: ["tasks"], w: ["workers"], e: ["experiments"], a: ["audit"] };

function Shell() {
  const help = useSignal(false);
  const [name = "", id] = place.value.path;
  const found = PAGES.find(([path]) => path === name);
  useEffect(() => {
    start();
    return stop;
  }, []);
  useEffect(() => {
    let jump = false;
    const press = (event) => {
      if (writes(event)) return;
      if (jump && JUMPS[event.key]) go(JUMPS[event.key]);
      else if (event.key === "/") document.getElementById("find").focus();
      else if (event.key === "?") help.value = !help.value;
      else if (event.key === "Escape") help.value = false;
      else {
        jump = event.key === "g";
        return;
      }
      jump = false;
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  const Page = found && (id ? found[3] : found[2]);
  useEffect(() => {
    document.title = `${id ?? found?.[1] ?? "Not found"} · FetchML`;
  }, [name, id]);
  return html`<a class="skip" href="#main" onClick=${(e) => (e.preventDefault(), document.getElementById("main").focus())}>Skip to the page</a>
    <header class="top">
      <a class="brand" href="#/">FetchML</a>
      <nav aria-label="Pages">
        ${PAGES.filter(([path]) => path !== "audit" || may("audit")).map(
          ([path, title]) => html`<a href=${to(path ? [path] : [])} aria-current=${path === name ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <${Find} />
      <span class="who">
        ${!connected.value && html`<span class="badge failed" role="status" title="What is shown may be old">offline</span>`}
        <span class="quiet" title=${`Role ${me.value.role}`}>${me.value.user_id}</span>
        <button type="button" class="plain" onClick=${() => logOut()}>log out</button>
      </span>
    </header>
    <main id="main" tabindex="-1">
      ${Page ? html`<${Page} key=${id ?? name} id=${id} />` : html`<p class="empty">There is no such page. <a href="#/">Overview</a></p>`}
    </main>
    <p class="visually-hidden" role="status">${totals.value.tasks_running ?? 0} running</p>
    ${help.value && html`<${Help} close=${() => (help.value = false)} />`}`;
}

function Find() {
  const find = (event) => {
    event.preventDefault();
    const id = event.target.elements.find.value.trim();
    if (id) go(["tasks", id]);
    event.target.reset();
  };
  return html`<form class="find" role="search" onSubmit=${find}>
    <input id="find" name="find" placeholder="Task id  ( / )" aria-label="Find a task by its id" autocomplete="off" spellcheck=${false} />
  </form>`;
}

const Help = ({ close }) =>
  html`<div class="help" role="dialog" aria-label="Keyboard">
    <dl class="facts">${HELP.map(([keys, what]) => html`<dt><kbd>${keys}</kbd></dt><dd>${what}</dd>`)}</dl>
    <button type="button" onClick=${close}>close</button>
  </div>`;

function App() {
  const problem = useSignal(null);
  useEffect(() => {
    findOut().catch((error) => (problem.value = error));
  }, []);
  if (problem.value) return html`<p class="problem pad" role="alert">${problem.value.message}</p>`;
  if (me.value === undefined) return html`<p class="quiet pad">Loading…</p>`;
  return me.value ? html`<${Shell} />` : html`<${LogIn} />`;
}

const root = document.getElementById("root");
root.replaceChildren();
render(html`<${App} />`, root);
