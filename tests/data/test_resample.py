"""Resized images are bit for bit those of Pillow, also for several sizes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data.resample import Filter, ResizeTarget, resize

PILLOWS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
sides = st.integers(1, 150)
filters = st.sampled_from(sorted(PILLOWS))


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def by_pillow(image: np.ndarray, target: ResizeTarget) -> np.ndarray:
    size = (target.width, target.height)
    return np.asarray(Image.fromarray(image).resize(size, PILLOWS[target.filter]))


@settings(max_examples=150)
@given(sides, sides, sides, sides, filters)
def test_every_size_is_pillows(height, width, new_height, new_width, kind):
    image, target = random_image(height, width), ResizeTarget(new_height, new_width, kind)
    np.testing.assert_array_equal(resize(image, [target])[0], by_pillow(image, target))


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (150, 64), (97, 300)])
def test_sizes_made_together_are_those_made_alone(size):
    image = random_image(*size)
    targets = [
        ResizeTarget(112, 48, "bicubic"),
        ResizeTarget(200, 128, "bilinear"),
        ResizeTarget(70, 48, "bicubic"),
    ]
    for target, resized in zip(targets, resize(image, targets), strict=True):
        np.testing.assert_array_equal(resized, by_pillow(image, target))


@pytest.mark.parametrize("size", [(40, 90), (90, 20)])  # the columns of the second go first
def test_a_window_is_cut_out_and_a_canvas_is_filled_up(size):
    image, window = random_image(*size), (3, 5, 20, 10)
    complete = by_pillow(image, ResizeTarget(30, 18, "bicubic"))
    target = ResizeTarget(30, 18, "bicubic", window, canvas=(24, 16))
    (resized,) = resize(image, [target])
    assert resized.shape == (24, 16, 3)
    np.testing.assert_array_equal(resized[:20, :10], complete[3:23, 5:15])
    assert not resized[20:].any()
    assert not resized[:, 10:].any()


def test_windows_at_both_ends_of_a_high_picture():
    image = random_image(500, 70)
    upper, lower = (0, 4, 6, 20), (190, 0, 10, 28)
    targets = [ResizeTarget(200, 28, "bicubic", window) for window in (upper, lower)]
    complete = by_pillow(image, targets[0]._replace(window=None))
    for (top, left, rows, count), resized in zip(
        (upper, lower), resize(image, targets), strict=True
    ):
        np.testing.assert_array_equal(resized, complete[top : top + rows, left : left + count])


def test_pixels_may_lie_apart():
    wide = np.dstack([random_image(30, 50), np.full((30, 50), 7, np.uint8)])
    target = ResizeTarget(20, 30, "bilinear")
    resized = resize(wide[:, :, :3], [target])[0]
    np.testing.assert_array_equal(resized, by_pillow(wide[:, :, :3].copy(), target))
