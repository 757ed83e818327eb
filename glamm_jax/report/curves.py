"""Curves over the steps of a run as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glamm_jax.report.mask_overlay import colour_of

WIDTH, HEIGHT = 420, 190  # of the drawing
LEFT, TOP, BOTTOM = 54, 8, 18  # margins for the labels
MAX_POINTS = 300  # of a curve; longer ones are averaged over neighbouring points
NUM_INTERVALS = 4  # between horizontal grid lines
LEGEND_TOP, LEGEND_STEP = 16, 14

Curve = Sequence[tuple[float, float]]  # (step, value)


def curves_svg(curves: Mapping[str, Curve]) -> str:
    """Return a drawing of the curves of one quantity, with a legend if there are several.

    The axis excludes the highest percent of the values, which often are those of the first steps.
    Points that are not finite are left out; without any point the result is "".
    """
    points = {name: _average(curve) for name, curve in curves.items()}
    points = {name: curve for name, curve in points.items() if len(curve)}
    if not points:
        return ""
    all_points = np.concatenate([*points.values()])
    first, last = all_points[:, 0].min(), all_points[:, 0].max()
    low, high = all_points[:, 1].min(), np.quantile(all_points[:, 1], 0.99)
    high = high if high > low else low + (abs(low) or 1.0) / 10

    def to_x(step: float) -> float:
        return LEFT + (WIDTH - LEFT) * (step - first) / max(last - first, 1e-9)

    def to_y(value: float) -> float:
        return (HEIGHT - BOTTOM) * (1 - (value - low) / (high - low)) + TOP

    parts = []
    for i in range(NUM_INTERVALS + 1):
        value = low + (high - low) * i / NUM_INTERVALS
        y = to_y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for i, (name, curve) in enumerate(points.items()):
        coordinates = " ".join(f"{to_x(x):.1f},{to_y(min(y, high)):.1f}" for x, y in curve)
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(i))
        parts.append(
            f'<polyline points="{coordinates}" stroke="{colour}"><title>{name}</title></polyline>'
        )
        if len(points) > 1:
            position = f'x="{WIDTH - 4}" y="{LEGEND_TOP + LEGEND_STEP * i}"'
            style = f'text-anchor="end" style="fill:{colour}"'
            parts.append(f"<text {position} {style}>{name}</text>")
    parts.append(f'<text x="{LEFT}" y="{HEIGHT + TOP}">{first:g}</text>')
    parts.append(f'<text x="{WIDTH}" y="{HEIGHT + TOP}" text-anchor="end">step {last:g}</text>')
    box = f"0 0 {WIDTH} {HEIGHT + TOP + 4}"
    return f'<svg class="curves" viewBox="{box}">{"".join(parts)}</svg>'


def _average(curve: Curve) -> np.ndarray:
    """Return float[n, 2]: at most MAX_POINTS finite points, in the order of their steps."""
    points = np.asarray(curve, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    if len(points) <= MAX_POINTS:
        return points
    return np.stack([part.mean(0) for part in np.array_split(points, MAX_POINTS)])
