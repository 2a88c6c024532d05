// Who is there? An API key, sent once.
import { html } from "htm/preact";
import { useSignal } from "@preact/signals";
import { logIn } from "../session.js";
import { Problem } from "../parts/shown.js";

export function LogIn() {
  const error = useSignal(null);
  const busy = useSignal(false);
  const enter = async (event) => {
    event.preventDefault();
    busy.value = true;
    error.value = null;
    try {
      await logIn(event.target.elements.key.value.trim());
    } catch (failure) {
      error.value = failure;
      busy.value = false;
    }
  };
  return html`<main class="login">
    <h1>FetchML</h1>
    <form onSubmit=${enter}>
      <label for="key">API key</label>
      <input id="key" name="key" type="password" autocomplete="current-password" placeholder="fml_…" required autofocus />
      <button type="submit" class="main" disabled=${busy.value}>Log in</button>
      <${Problem} error=${error.value} />
    </form>
    <p class="quiet">On the daemon's machine <code>fetchmld ui</code> opens this page logged in. The first key is in <code>admin.key</code> in the data
      directory; <code>fetchmld keys create</code> makes more.</p>
  </main>`;
}
