"""Cases of boxes and of run lengths of masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from glamm_jax.data import boxes, rle
from tests.bad_input.case import Case

_BOXES = "Boxes, on an image of 100 x 60 pixels"
_MASKS = "Run lengths of masks"


def _boxes(value: object) -> Callable[[Path], str]:
    def run(_: Path) -> str:
        unit = boxes.to_unit(boxes.check_boxes(value, 60, 100), 60, 100)
        listed = ", ".join(str(np.round(box.astype(float), 4).tolist()) for box in unit)
        return f"divided by the image size: {listed or 'none'}"

    return run


def _runs(runs: dict[str, object]) -> Callable[[Path], str]:
    return lambda _: f"{int(rle.decode(runs).sum())} pixels"


CASES: tuple[Case, ...] = (
    Case(
        _BOXES,
        "no boxes",
        _boxes([]),
        "divided by the image size: none",
    ),
    Case(
        _BOXES,
        "one box, not in a list",
        _boxes([10, 6, 50, 30]),
        "divided by the image size: [0.1, 0.1, 0.5, 0.5]",
    ),
    Case(
        _BOXES,
        "reaches beyond the image: kept as it is",
        _boxes([[-10, 6, 110, 30]]),
        "divided by the image size: [-0.1, 0.1, 1.1, 0.5]",
    ),
    Case(
        _BOXES,
        "outside of the image",
        _boxes([[10, 6, 50, 30], [120, 0, 130, 10]]),
        "BoxError: box 1 (120.0, 0.0, 130.0, 10.0) is outside of the image of 100 x "
        "60 pixels (width x height)",
    ),
    Case(
        _BOXES,
        "inverted",
        _boxes([[50, 30, 10, 6]]),
        "BoxError: box 0 (50.0, 30.0, 10.0, 6.0) is inverted: give the top left corner "
        "first, x0, y0, x1, y1",
    ),
    Case(
        _BOXES,
        "no area",
        _boxes([[10, 6, 10, 30]]),
        "BoxError: box 0 (10.0, 6.0, 10.0, 30.0) has no area",
    ),
    Case(
        _BOXES,
        "not a number",
        _boxes([[10, float("nan"), 50, 30]]),
        "BoxError: box 0 (10.0, nan, 50.0, 30.0) has a coordinate that is not a finite number",
    ),
    Case(
        _BOXES,
        "infinite",
        _boxes([[10, 6, float("inf"), 30]]),
        "BoxError: box 0 (10.0, 6.0, inf, 30.0) has a coordinate that is not a finite number",
    ),
    Case(
        _BOXES,
        "several invalid boxes",
        _boxes([[50, 30, 10, 6], [120, 0, 130, 10]]),
        "BoxError: box 0 (50.0, 30.0, 10.0, 6.0) is inverted: give the top left corner "
        "first, x0, y0, x1, y1; box 1 (120.0, 0.0, 130.0, 10.0) is outside of the "
        "image of 100 x 60 pixels (width x height)",
    ),
    Case(
        _BOXES,
        "three numbers",
        _boxes([[10, 6, 50]]),
        "BoxError: boxes must be x0, y0, x1, y1 in pixels, not an array of shape (1, 3)",
    ),
    Case(
        _BOXES,
        "texts instead of numbers",
        _boxes([["a", "b", "c", "d"]]),
        "BoxError: boxes must be x0, y0, x1, y1 in pixels: four numbers each",
    ),
    Case(
        _MASKS,
        "runs that do not fill the mask",
        _runs({"size": [3, 4], "counts": [2, 3]}),
        "MaskError: the runs cover 5 pixels, the mask has 3 x 4",
    ),
    Case(
        _MASKS,
        "a truncated compressed string",
        _runs({"size": [100, 100], "counts": "`0`"}),
        "MaskError: the compressed counts are damaged: the last number is incomplete",
    ),
    Case(
        _MASKS,
        "no counts",
        _runs({"size": [3, 4]}),
        'MaskError: run lengths must be {"size": [height, width], "counts": ...}',
    ),
)
