// Tracking servers that run beside the tasks.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { call, get } from "../api.js";
import { may } from "../session.js";
import { useAnswer } from "../parts/asked.js";
import { Act, Ago, Badge, Empty, Facts, Problem } from "../parts/shown.js";

export function Plugins() {
  const { value, error, again } = useAnswer(() => get("/v1/plugins"), [], 3);
  return html`<div class="page">
    <h1>Plugins</h1>
    <${Problem} error=${error} />
    ${value?.length === 0 && html`<${Empty}>None is installed.<//>`}
    <div class="grid">${(value ?? []).map((plugin) => html`<${One} key=${plugin.name} plugin=${plugin} again=${again} />`)}</div>
  </div>`;
}

function One({ plugin, again }) {
  const status = plugin.status ?? {};
  const enable = async () => {
    await call("PUT", `/v1/plugins/${plugin.name}/config`, { ...plugin.config, enabled: true, mode: "sidecar" });
    again();
  };
  const disable = async () => {
    await call("DELETE", `/v1/plugins/${plugin.name}/config`);
    again();
  };
  return html`<section class="panel" aria-label=${plugin.name}>
    <header>
      <h2>${plugin.name}</h2>
      <${Badge} kind=${status.status ?? "stopped"} />
      <span class="end">
        ${plugin.enabled && status.status === "healthy" && html`<a class="button" href=${`/plugins/${plugin.name}/`} target="_blank" rel="noopener">open</a>`}
        ${may("administer") && (plugin.enabled ? html`<${Act} act=${disable} ask="Yes, disable it">disable<//>` : html`<${Act} act=${enable} kind="main">enable<//>`)}
      </span>
    </header>
    <${Facts} facts=${[
      ["mode", plugin.mode],
      ["version", plugin.version],
      ["looked at", status.last_check && html`<${Ago} at=${status.last_check} />`],
      ["detail", status.detail ?? plugin.detail],
      ["restart needed", plugin.requires_restart && "yes"],
    ]} />
    ${may("administer") && plugin.enabled && html`<${Settings} plugin=${plugin} again=${again} />`}
  </section>`;
}

function Settings({ plugin, again }) {
  const text = useSignal(null);
  const settings = plugin.config?.settings ?? {};
  const save = async () => {
    let given;
    try {
      given = JSON.parse(text.value);
    } catch (error) {
      throw new Error(`This is not JSON: ${error.message}`);
    }
    await call("PUT", `/v1/plugins/${plugin.name}/config`, { ...plugin.config, settings: given });
    text.value = null;
    again();
  };
  if (text.value === null)
    return html`<pre class="small">${JSON.stringify(settings, null, 1)}</pre><button type="button" class="plain" onClick=${() => (text.value = JSON.stringify(settings, null, 2))}>change the settings</button>`;
  return html`<label>Settings <textarea rows="8" spellcheck=${false} value=${text.value} onInput=${(e) => (text.value = e.target.value)}></textarea></label>
    <p class="bar"><${Act} act=${save} kind="main">save<//> <button type="button" class="plain" onClick=${() => (text.value = null)}>leave it</button></p>`;
}
