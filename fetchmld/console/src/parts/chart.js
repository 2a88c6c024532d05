// One metric over the tasks of an experiment.
import { html } from "htm/preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const HEIGHT = 240;

export function Chart({ values, names, label }) {
  const box = useRef(null);
  const plot = useRef(null);
  const key = JSON.stringify([values, names, label]);
  useEffect(() => {
    const style = getComputedStyle(document.documentElement);
    const [ink, accent, line] = ["--ink", "--accent", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
    const options = {
      width: box.current.clientWidth,
      height: HEIGHT,
      scales: { x: { time: false, range: [-0.5, values.length - 0.5] } },
      axes: [{ ...axis, values: (_plot, at) => at.map((place) => (Number.isInteger(place) ? (names[place] ?? "") : "")) }, axis],
      series: [{ label: "task", value: (_plot, place) => names[place] ?? "" }, { label, stroke: accent, width: 2, points: { show: true, size: 8 }, paths: () => null }],
    };
    plot.current = new uPlot(options, [values.map((_value, at) => at), values], box.current);
    const watch = new ResizeObserver(() => plot.current.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      plot.current.destroy();
    };
  }, [key]);
  return html`<div class="chart" ref=${box} role="img" aria-label=${`${label}: ${values.filter((value) => value !== null).join(", ")}`}></div>`;
}
