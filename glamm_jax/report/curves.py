"""Curves over the steps of a run, as drawings of a few lines of SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glamm_jax.report.mask_overlay import colour_of

WIDTH, HEIGHT = 420, 190  # of the drawing
LEFT, TOP, FOOT = 54, 8, 18  # room for the numbers around it
MAX_POINTS = 300  # of a curve: more are averaged, neighbours together
GRID = 4  # horizontal lines

Curve = Sequence[tuple[float, float]]  # (step, value)


def curves_svg(curves: Mapping[str, Curve]) -> str:
    """Curves of one quantity over each other, with a legend where there are several.

    The axis leaves out the highest hundredth, which a first step often is; what is not finite is
    left out.
    """
    points = {name: _averaged(curve) for name, curve in curves.items()}
    points = {name: curve for name, curve in points.items() if len(curve)}
    if not points:
        return ""
    every = np.concatenate([*points.values()])
    first, last = every[:, 0].min(), every[:, 0].max()
    low, high = every[:, 1].min(), np.quantile(every[:, 1], 0.99)
    high = high if high > low else low + (abs(low) or 1.0) / 10
    across = lambda x: LEFT + (WIDTH - LEFT) * (x - first) / max(last - first, 1e-9)  # noqa: E731
    down = lambda y: (HEIGHT - FOOT) * (1 - (y - low) / (high - low)) + TOP  # noqa: E731
    parts = []
    for i in range(GRID + 1):
        value = low + (high - low) * i / GRID
        y = down(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for i, (name, curve) in enumerate(points.items()):
        drawn = " ".join(f"{across(x):.1f},{down(min(y, high)):.1f}" for x, y in curve)
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(i))
        parts.append(
            f'<polyline points="{drawn}" stroke="{colour}"><title>{name}</title></polyline>'
        )
        if len(points) > 1:
            place = f'x="{WIDTH - 4}" y="{16 + 14 * i}" text-anchor="end" style="fill:{colour}"'
            parts.append(f"<text {place}>{name}</text>")
    parts.append(f'<text x="{LEFT}" y="{HEIGHT + TOP}">{first:g}</text>')
    parts.append(f'<text x="{WIDTH}" y="{HEIGHT + TOP}" text-anchor="end">step {last:g}</text>')
    box = f"0 0 {WIDTH} {HEIGHT + TOP + 4}"
    return f'<svg class="curves" viewBox="{box}">{"".join(parts)}</svg>'


def _averaged(curve: Curve) -> np.ndarray:
    """float[n, 2]: at most `MAX_POINTS` finite points, in the order of their steps."""
    points = np.asarray(curve, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    if len(points) <= MAX_POINTS:
        return points
    return np.stack([part.mean(0) for part in np.array_split(points, MAX_POINTS)])
