"""The use of a cluster over time as a picture: our own SVG, or PNG where matplotlib is installed."""

from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

WIDTH: Final = 900
HEIGHT: Final = 360
MARGIN: Final = 56


class CannotPlot(ValueError):
    """The picture cannot be made; says why and what to do."""


def plot(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a report; its suffix says the format. Raises `CannotPlot`."""
    points = result["gpu_use_over_time"]
    if not points:
        raise CannotPlot("there is nothing to plot: nothing ran")
    if path.suffix == ".svg":
        path.write_text(svg(result), encoding="utf-8")
    elif path.suffix == ".png":
        _png(result, path)
    else:
        raise CannotPlot(f"{path} must end in .svg or .png")


def svg(result: dict[str, Any]) -> str:
    """GPUs in use (filled, left scale) and tasks waiting (line, right scale)."""
    points = result["gpu_use_over_time"]
    span_s = result["span_s"] or 1.0
    used_max = max(1.0, float(result["gpus"]))
    waiting_max = max(1.0, *(point["waiting"] for point in points))
    used = [_place(p["at_s"] / span_s, p["used"] / used_max) for p in points]
    waiting = [_place(p["at_s"] / span_s, p["waiting"] / waiting_max) for p in points]
    base = HEIGHT - MARGIN
    area = [f"{used[0].split(',')[0]},{base}", *used, f"{used[-1].split(',')[0]},{base}"]
    texts = [
        (MARGIN, 24, f"{result['tasks']} tasks, {result['nodes']} nodes, {result['gpus']} GPUs", "start"),
        (MARGIN - 6, MARGIN + 4, f"{used_max:.0f}", "end"),
        (MARGIN - 6, base + 4, "0", "end"),
        (WIDTH - MARGIN + 6, MARGIN + 4, f"{waiting_max:.0f}", "start"),
        (MARGIN, HEIGHT - 20, "GPUs in use (filled, left); tasks waiting (line, right)", "start"),
        (WIDTH - MARGIN, HEIGHT - 20, f"{span_s / 3600:.1f} h", "end"),
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<polygon points="{" ".join(area)}" fill="#9ecae1"/>',
        f'<polyline points="{" ".join(waiting)}" fill="none" stroke="#d94801" stroke-width="1.5"/>',
        f'<path d="M{MARGIN},{MARGIN}V{base}H{WIDTH - MARGIN}V{MARGIN}" fill="none" stroke="#444"/>',
        *(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, text, anchor in texts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _place(x: float, y: float) -> str:
    across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    return f"{MARGIN + x * across:.1f},{HEIGHT - MARGIN - y * up:.1f}"


def _png(result: dict[str, Any], path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise CannotPlot("a .png needs matplotlib, which is not installed; name a .svg instead") from None
    points = result["gpu_use_over_time"]
    hours = [point["at_s"] / 3600 for point in points]
    figure = Figure(figsize=(9, 3.6))
    left = figure.add_subplot()
    left.fill_between(hours, [point["used"] for point in points], color="#9ecae1")
    left.set_ylim(0, result["gpus"] or 1)
    left.set_xlabel("hours")
    left.set_ylabel("GPUs in use")
    right = left.twinx()
    right.plot(hours, [point["waiting"] for point in points], color="#d94801")
    right.set_ylabel("tasks waiting")
    figure.savefig(path)
