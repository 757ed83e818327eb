"""Histograms as SVG; the page that contains them sets the colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 24
WIDTH, HEIGHT, LABEL_HEIGHT = 280, 112, 18  # of the drawing, and of the labels at its bottom
GAP = 1


def histogram_svg(values: Sequence[float]) -> str:
    """Return a histogram with minimum, median and maximum below it.

    A small range of integers gets one bar for each integer. Values that are not finite are left
    out. If all values are equal up to rounding, the result is a sentence; without values it is "".
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ""
    low, median, high = numbers.min(), np.median(numbers), numbers.max()
    if np.isclose(low, high, rtol=1e-9, atol=1e-12):
        return f"<p>always {low:.4g}</p>"
    are_integers = bool((numbers == np.round(numbers)).all()) and high - low < BINS
    if are_integers:
        edges = np.arange(low, high + 2)
        counts = np.bincount((numbers - low).astype(np.int64), minlength=len(edges) - 1)
    else:
        counts, edges = np.histogram(numbers, BINS)
    bar_width, max_height = WIDTH / len(counts), HEIGHT - LABEL_HEIGHT
    bars = []
    for i, count in enumerate(counts.tolist()):
        tip = f"{edges[i]:g}" if are_integers else f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        height = max_height * count / counts.max()
        position = f'x="{i * bar_width:.2f}" y="{max_height - height:.2f}"'
        size = f'width="{max(bar_width - GAP, 0.5):.2f}" height="{height:.2f}"'
        bars.append(f"<rect {position} {size}><title>{tip}: {count:,}</title></rect>")
    labels = [
        f'<text x="0" y="{HEIGHT - 3}">{low:.4g}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">median {median:.4g}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{high:.4g}</text>',
    ]
    axis = f'<line x1="0" x2="{WIDTH}" y1="{max_height}" y2="{max_height}"/>'
    drawing = "".join((*bars, axis, *labels))
    return f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}">{drawing}</svg>'
