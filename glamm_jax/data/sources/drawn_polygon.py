"""A polygon of whole-numbered corners as pixels, the edges included.

Annotation tools of the labelme kind store corners, and their users draw them with OpenCV: the
pixels on the edges, and those between the first and second, third and fourth, ... edge of a row.
`polygon_pixels` computes the same pixels, which differ from COCO's rule for polygons
(`glamm_jax.data.sources.mask_annotations`) by half a pixel all around.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

ONE = 1 << 16  # a pixel as a fixed-point number


def polygon_pixels(
    corners: Int[np.ndarray, "n 2"], height: int, width: int
) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a polygon.

    Args:
        corners: x, y in pixels; they may be outside of the image.
        height: of the image.
        width: of the image.
    """
    pixels = np.zeros((height, width), bool)
    starts, ends = corners.astype(np.int64), np.roll(corners, -1, axis=0).astype(np.int64)
    for start, end in zip(starts, ends, strict=True):
        x, y = _line(start, end)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        pixels[y[inside], x[inside]] = True
    is_downward = starts[:, 1:] < ends[:, 1:]
    uppers, lowers = np.where(is_downward, starts, ends), np.where(is_downward, ends, starts)
    is_sloped = uppers[:, 1] < lowers[:, 1]
    uppers, lowers = uppers[is_sloped], lowers[is_sloped]
    # Fixed-point numbers, rounded down as OpenCV's are: that decides about halves of a pixel.
    extents = (lowers - uppers) * (ONE, 1)
    slopes = extents[:, 0] // extents[:, 1]
    first_row, end_row = (uppers[:, 1].min(initial=height), lowers[:, 1].max(initial=0))
    for row in range(max(0, int(first_row)), min(height, int(end_row))):
        # An edge belongs to the row of its upper end and not to that of its lower one.
        is_crossed = (uppers[:, 1] <= row) & (row < lowers[:, 1])
        steps = row - uppers[is_crossed, 1]
        crossings = np.sort(uppers[is_crossed, 0] * ONE + slopes[is_crossed] * steps)
        columns = (crossings + ONE // 2 - 1) // ONE
        for first, last in zip(columns[::2], columns[1::2], strict=True):
            if last >= 0:
                pixels[row, max(0, first) : last + 1] = True
    return pixels


def _line(
    start: Int[np.ndarray, "2"], end: Int[np.ndarray, "2"]
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Return x and y of the pixels of a line, one for each step along its longer extent."""
    if start[0] > end[0]:
        start, end = end, start
    extent = np.abs(end - start)
    long = int(extent[1] > extent[0])  # the axis of the longer extent
    steps = np.arange(int(extent[long]) + 1)
    # The shorter extent is rounded, a half downwards, seen from the left end.
    twice = 2 * int(extent[long]) or 1
    across = -((int(extent[long]) - 2 * int(extent[1 - long]) * steps) // twice)
    points = np.zeros((2, len(steps)), np.int64)
    for axis, offsets in ((long, steps), (1 - long, np.maximum(across, 0))):
        points[axis] = start[axis] + (1 if end[axis] >= start[axis] else -1) * offsets
    return points[0], points[1]
