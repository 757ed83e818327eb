"""Outlines: filled with the rule evenodd, they give the mask back."""

from __future__ import annotations

import re

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.report.mask_outlines import MAX_CORNERS, corners, outline_of_runs, outline_path


def filled(path: str, height: int, width: int) -> np.ndarray:
    """The mask of a path: a vertical edge changes all pixels to its right."""
    mask = np.zeros((height, width), bool)
    x = y = first_y = 0
    for command, numbers in re.findall(r"([MHVZ])([\d ]*)", path):
        if command == "M":
            x, y = map(int, numbers.split())
            first_y = y
        elif command == "H":
            x = int(numbers)
        else:  # Z closes the loop by a vertical edge
            end = first_y if command == "Z" else int(numbers)
            mask[min(y, end) : max(y, end), x:] ^= True
            y = end
    return mask


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_the_filled_outline_is_the_mask(density: float) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 7), (9, 1), (13, 17), (40, 30)):
        mask = rng.random((height, width)) < density
        np.testing.assert_array_equal(filled(outline_path(mask), height, width), mask)


def test_a_rectangle_has_four_corners() -> None:
    assert outline_path(np.ones((2, 3), bool)) == "M0 0H3V2H0Z"


def test_pixels_that_touch_diagonally_are_two_loops() -> None:
    assert outline_path(np.eye(2, dtype=bool)) == "M0 0H1V1H0ZM1 1H2V2H1Z"


def test_an_empty_mask_has_no_outline() -> None:
    assert outline_path(np.zeros((4, 5), bool)) == ""
    assert outline_of_runs({"size": [0, 0], "counts": ""}, 100).path == ""


def test_a_large_mask_is_reduced() -> None:
    mask = np.zeros((300, 600), bool)
    mask[:, 300:] = True
    path, size = outline_of_runs(rle.encode(mask), 100)
    assert size == (50, 100)
    assert path == "M50 0H100V50H50Z"


def test_noise_is_reduced_until_its_outline_is_short() -> None:
    mask = np.random.default_rng(0).random((400, 400)) < 0.5
    assert len(corners(mask)[0]) > MAX_CORNERS
    path, (height, width) = outline_of_runs(rle.encode(mask), 400)
    assert max(height, width) < 400
    assert len(path) < 10 * MAX_CORNERS


def test_damaged_run_lengths_are_refused() -> None:
    with pytest.raises(rle.MaskError, match="the runs cover"):
        outline_of_runs({"size": [4, 4], "counts": [3]}, 100)
