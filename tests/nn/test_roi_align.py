"""RoIAlign against a loop over samples in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.nn.roi_align import roi_align

BINS, SAMPLES = 4, 2


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _sample(grid: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear value; zero outside [-1, size], clamped to the outermost centres inside it."""
    h, w, c = grid.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return np.zeros(c)
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    top = grid[y0, x0] * (1 - (x - x0)) + grid[y0, x1] * (x - x0)
    bottom = grid[y1, x0] * (1 - (x - x0)) + grid[y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def _reference(grid: np.ndarray, box: np.ndarray, stride: float) -> np.ndarray:
    x0, y0, x1, y1 = box.astype(np.float64) / stride - 0.5
    out = np.zeros((BINS, BINS, grid.shape[-1]))
    for row in range(BINS):
        for column in range(BINS):
            for i in range(SAMPLES):
                for j in range(SAMPLES):
                    y = y0 + (y1 - y0) / BINS * (row + (i + 0.5) / SAMPLES)
                    x = x0 + (x1 - x0) / BINS * (column + (j + 0.5) / SAMPLES)
                    out[row, column] += _sample(grid, y, x)
    return out / SAMPLES**2


def _roi(maps: np.ndarray, boxes: np.ndarray, images: list[int], stride: float) -> np.ndarray:
    return np.asarray(
        roi_align(
            jnp.asarray(maps),
            jnp.asarray(boxes, jnp.float32),
            jnp.asarray(images, jnp.int32),
            stride=stride,
            bins=BINS,
            samples=SAMPLES,
        )
    )


# Eighths are exact in float32: a sample falls on the same side of an edge in both precisions.
edge = st.integers(-80, 240).map(lambda n: n / 8)


@given(box=st.tuples(edge, edge, edge, edge))
def test_any_box_is_pooled_as_by_the_loop(box: tuple[float, float, float, float]) -> None:
    x0, x1 = sorted(box[0::2])
    y0, y1 = sorted(box[1::2])
    grid, corners = _noise(1, 9, 7, 3), np.array([[x0, y0, x1, y1]], np.float32)
    actual = _roi(grid, corners, [0], 2.0)
    expected = _reference(grid[0].astype(np.float64), corners[0], 2.0)
    np.testing.assert_allclose(actual[0], expected, rtol=1e-4, atol=4e-5)


def test_a_box_outside_the_map_is_zero() -> None:
    assert not _roi(_noise(1, 6, 6, 2), np.array([[20.0, 20, 30, 30]]), [0], 1.0).any()


def test_each_box_reads_its_own_map_and_another_index_reads_none() -> None:
    maps, box = _noise(2, 6, 6, 2), np.array([[1.0, 1, 5, 5]] * 3)
    pooled = _roi(maps, box, [1, 0, -1], 1.0)
    for index, image in ((0, 1), (1, 0)):
        expected = _reference(maps[image].astype(np.float64), box[index], 1.0)
        np.testing.assert_allclose(pooled[index], expected, rtol=1e-4, atol=1e-5)
    assert not pooled[2].any()


def test_no_boxes_give_no_features() -> None:
    assert _roi(_noise(1, 6, 6, 2), np.zeros((0, 4)), [], 1.0).shape == (0, BINS, BINS, 2)


def test_a_map_in_bfloat16_gives_bfloat16() -> None:
    maps = jnp.asarray(_noise(1, 6, 6, 2), jnp.bfloat16)
    pooled = roi_align(
        maps, jnp.array([[1.0, 1, 5, 5]]), jnp.array([0]), stride=1.0, bins=2, samples=2
    )
    assert pooled.dtype == jnp.bfloat16
