"""Histograms as drawings of a few lines of SVG, coloured by the page that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 24
WIDTH, HEIGHT, FOOT = 280, 112, 18  # of the drawing, and of the numbers below it
GAP = 1


def histogram_svg(values: Sequence[float]) -> str:
    """Bars with the least, middle and greatest value below; few whole numbers get a bar each.

    Numbers that are not finite are left out; where all are the same but for rounding, that is
    said in words.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ""
    low, middle, high = numbers.min(), np.median(numbers), numbers.max()
    if np.isclose(low, high, rtol=1e-9, atol=1e-12):
        return f"<p>always {low:.4g}</p>"
    counts, edges, is_whole = _counted(numbers)
    wide, tall = WIDTH / len(counts), HEIGHT - FOOT
    bars = []
    for i, count in enumerate(counts.tolist()):
        tip = f"{edges[i]:g}" if is_whole else f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        length = tall * count / counts.max()
        place = f'x="{i * wide:.2f}" y="{tall - length:.2f}"'
        size = f'width="{max(wide - GAP, 0.5):.2f}" height="{length:.2f}"'
        bars.append(f"<rect {place} {size}><title>{tip}: {count:,}</title></rect>")
    labels = [
        f'<text x="0" y="{HEIGHT - 3}">{low:.4g}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">median {middle:.4g}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{high:.4g}</text>',
    ]
    floor = f'<line x1="0" x2="{WIDTH}" y1="{tall}" y2="{tall}"/>'
    drawing = "".join((*bars, floor, *labels))
    return f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}">{drawing}</svg>'


def _counted(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Counts, left edges (and the last right one), and whether every bar is one whole number."""
    low, high = numbers.min(), numbers.max()
    if (numbers == np.round(numbers)).all() and high - low < BINS:
        edges = np.arange(low, high + 2)
        counts = np.bincount((numbers - low).astype(np.int64), minlength=len(edges) - 1)
        return counts, edges, True
    counts, edges = np.histogram(numbers, BINS)
    return counts, edges, False
