"""Curves as drawings of a few lines of SVG, coloured by the page that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT, FOOT = 280, 130, 18  # of the drawing, and of the numbers below it
POINTS = 140  # at most; more values are averaged


def curve_svg(values: Sequence[float]) -> str:
    """Values in their order, from the first to the last, averaged where there are many.

    The axis begins at 0. Numbers that are not finite are left out.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size < 2:
        return ""
    means = [part.mean() for part in np.array_split(numbers, min(POINTS, numbers.size))]
    top, tall = max(max(means), 1e-9), HEIGHT - FOOT
    places = (
        f"{i * WIDTH / (len(means) - 1):.1f},{tall * (1 - max(value, 0) / top) + 1:.1f}"
        for i, value in enumerate(means)
    )
    labels = (
        f'<text x="0" y="{HEIGHT - 3}">highest {top:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">last {means[-1]:.3g}</text>'
    )
    floor = f'<line x1="0" x2="{WIDTH}" y1="{tall + 1}" y2="{tall + 1}"/>'
    line = f'<polyline points="{" ".join(places)}"/>'
    return f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}">{floor}{line}{labels}</svg>'
