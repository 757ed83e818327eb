"""Polygons of masks, along the edges of their pixels.

`mask_polygons` is exact: filling the polygons gives the mask. `simplify` removes points of a
polygon that are closer to a straight line than a tolerance, and `joined` makes one polygon of
several, for formats that have one for each object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Points = Float[np.ndarray, "_ 2"]


def mask_polygons(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "_ 2"]]:
    """Return the borders of a mask as polygons with points x y at the corners of pixels.

    Pixels belong together if they share an edge. The outer border of each part runs clockwise on
    the screen (positive area), the border of a hole counterclockwise. Order: by the first point,
    from the top and then from the left.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    above_left, above_right = part[:-1, :-1], part[:-1, 1:]
    below_left, below_right = part[1:, :-1], part[1:, 1:]
    is_odd = above_left ^ above_right ^ below_left ^ below_right
    # Where two pixels meet at a corner only, two borders do.
    is_crossing = (
        (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    )
    y, x = np.nonzero(is_odd | is_crossing)
    crossing = is_crossing[y, x]
    y, x, crossing = (np.repeat(values, 1 + crossing) for values in (y, x, crossing))
    is_second = np.zeros(len(y), bool)
    is_second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # The points of a row are joined in pairs, and so are those of a column. At a crossing the first
    # point has the edge to its left, and the edge above or below that separates the two pixels.
    has_lower = is_second ^ (~above_left[y, x] & crossing)
    by_row = np.arange(len(y))
    by_column = np.lexsort((has_lower, y, x))
    partner_in_row, partner_in_column = np.empty_like(by_row), np.empty_like(by_row)
    for order, partner in ((by_row, partner_in_row), (by_column, partner_in_column)):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    below = below_right[y, x].tolist()
    return [
        np.stack([x[loop] + left, y[loop] + top], 1)
        for loop in _loops(partner_in_row.tolist(), partner_in_column.tolist(), below)
    ]


def _loops(
    partner_in_row: list[int], partner_in_column: list[int], below: list[bool]
) -> list[list[int]]:
    """Walk along the borders; the first point of each is its topmost, and its leftmost of these."""
    is_visited = [False] * len(below)
    loops = []
    for first in range(len(below)):
        if is_visited[first]:
            continue
        loop, point = [], first
        while not is_visited[point]:
            other = partner_in_row[point]
            is_visited[point] = is_visited[other] = True
            loop += [point, other]
            point = partner_in_column[other]
        # The border of a hole has the mask above its first edge.
        loops.append(loop if below[first] else [loop[0], *loop[:0:-1]])
    return loops


def simplify(points: Points, tolerance: float) -> Points:
    """Remove points of a polygon that are closer to a straight line than the tolerance.

    The algorithm is Ramer, Douglas and Peucker's, for both halves of the polygon between its first
    point and the farthest from it. At least three points remain.

    Args:
        points: x y.
        tolerance: largest distance, in pixels; 0 removes nothing.
    """
    if tolerance <= 0 or len(points) <= 4:
        return points
    closed = np.concatenate([points, points[:1]]).astype(np.float64)
    far = int(np.argmax(((closed - closed[0]) ** 2).sum(1)))
    is_needed = np.zeros(len(closed), bool)
    is_needed[[0, far]] = True
    parts = [(0, far), (far, len(closed) - 1)]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        line, inner = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        length = np.hypot(*line)
        if length > 0:
            distances = np.abs(line[0] * inner[:, 1] - line[1] * inner[:, 0]) / length
        else:
            distances = np.hypot(inner[:, 0], inner[:, 1])
        index = int(np.argmax(distances))
        if distances[index] > tolerance:
            middle = start + 1 + index
            is_needed[middle] = True
            parts += [(start, middle), (middle, end)]
    simplified = points[is_needed[:-1]]
    return simplified if len(simplified) >= 3 else points


def joined(polygons: Sequence[Points]) -> Points:
    """Return one polygon that covers several, joined by lines of no width.

    The lines connect the closest points; filled by either rule, holes stay empty.
    """
    result = polygons[0]
    for polygon in polygons[1:]:
        squares = ((result[:, None] - polygon[None]) ** 2).sum(-1)
        i, j = np.unravel_index(int(np.argmin(squares)), squares.shape)
        bridge = [result[: i + 1], polygon[j:], polygon[: j + 1], result[i:]]
        result = np.concatenate(bridge)
    return result


def object_polygon(mask: Bool[np.ndarray, "h w"], tolerance: float) -> Points | None:
    """Return one simplified polygon of a mask; None if the mask is empty."""
    polygons = [simplify(polygon.astype(float), tolerance) for polygon in mask_polygons(mask)]
    return joined(polygons) if polygons else None
