"""The outline of a mask as the data of an SVG path: exact pixel edges, closed loops.

    outline_path(np.ones((2, 3), bool))  ->  "M0 0H3V2H0Z"

Fill it with the rule `evenodd`, for which loops inside of loops are holes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from glamm_jax.data import rle

MAX_CORNERS = 20_000  # of an outline that is drawn; a mask with more is noise, and is reduced


class Outline(NamedTuple):
    """The outline of a mask, which may be reduced.

    Attributes:
        path: data of an SVG path, filled with the rule `evenodd`.
        size: height and width of the mask that the path is drawn in.
    """

    path: str
    size: tuple[int, int]


def outline_of_runs(runs: Mapping[str, Any], max_side: int) -> Outline:
    """Return the outline of run lengths.

    Args:
        runs: COCO run lengths of the mask.
        max_side: a larger mask is reduced to this longer side, and further while its outline has
            more than `MAX_CORNERS` corners.

    Raises:
        MaskError: the run lengths are damaged.
    """
    (height, width), _ = rle.run_ends(runs)
    if not height * width:
        return Outline("", (height, width))
    while True:
        size = rle.size_within((height, width), (max_side, max_side))
        mask = np.zeros(size, np.uint8)
        rle.decode_into(runs, mask)
        rows, columns = corners(mask.view(bool))
        if len(rows) <= MAX_CORNERS:
            return Outline(_loops(rows, columns), size)
        max_side = max(size) // 2


def outline_path(mask: Bool[np.ndarray, "h w"]) -> str:
    """Return the outline as the data of an SVG path; "" for an empty mask."""
    return _loops(*corners(mask))


def corners(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Return rows and columns of the corners of the outline, row by row.

    A corner at which two pixels touch diagonally belongs to two loops, and is returned twice.
    """
    padded = np.pad(mask, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    is_corner = upper_left ^ upper_right ^ lower_left ^ lower_right
    is_crossing = (upper_left == lower_right) & (upper_right == lower_left)
    is_crossing &= upper_left != upper_right
    rows, columns = np.nonzero(is_corner | is_crossing)
    repeats = 1 + is_crossing[rows, columns]
    return np.repeat(rows, repeats), np.repeat(columns, repeats)


def _loops(rows: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"]) -> str:
    """Join corners to loops of horizontal and vertical edges in turn.

    In each row the first corner and the second one are the ends of an edge, the third and the
    fourth, and so on; in each column as well.
    """
    order = np.lexsort((rows, columns))
    below = np.empty(len(rows), np.int64)
    below[order] = order.reshape(-1, 2)[:, ::-1].reshape(-1)
    x, y, vertical = columns.tolist(), rows.tolist(), below.tolist()
    is_done = [False] * len(x)
    loops = []
    for first in range(len(x)):
        if is_done[first]:
            continue
        edges, corner = [f"M{x[first]} {y[first]}"], first
        while True:
            beside = corner ^ 1
            corner_below = vertical[beside]
            is_done[corner] = is_done[beside] = True
            edges.append(f"H{x[beside]}")
            if corner_below == first:
                break
            edges.append(f"V{y[corner_below]}")
            corner = corner_below
        loops.append("".join(edges) + "Z")
    return "".join(loops)
