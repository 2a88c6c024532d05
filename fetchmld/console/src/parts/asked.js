// Something that is asked for when a page opens, and again when what it depends on changes.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

/** {value, error, again}: the last answer of `ask`, asked when one of `inputs` changes and every `everyS` (0: never) seconds. */
export function useAnswer(ask, inputs, everyS = 0) {
  const state = useSignal({ value: undefined, error: null });
  const turn = useSignal(0);
  useEffect(() => {
    let over = false;
    let timer = 0;
    const run = async () => {
      try {
        const value = await ask();
        if (!over) state.value = { value, error: null };
      } catch (error) {
        if (!over) state.value = { value: state.value.value, error };
      }
      if (!over && everyS) timer = setTimeout(() => (document.hidden ? (timer = setTimeout(run, 1000 * everyS)) : run()), 1000 * everyS);
    };
    run();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [...inputs, turn.value]);
  return { ...state.value, again: () => (turn.value += 1) };
}
