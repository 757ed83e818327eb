"""Masks at the original size, against torch's interpolate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.models.sam.postprocess import postprocess_masks

torch = pytest.importorskip("torch")


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _interpolate(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


CANVAS, LOW = 64, 16


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
)
def test_masks_are_those_of_two_resizes_and_a_crop(height: int, width: int) -> None:
    scale = CANVAS / max(height, width)
    resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    logits = _noise(1, LOW, LOW)
    canvas = _interpolate(torch.tensor(logits)[None], (CANVAS, CANVAS))
    cropped = canvas[..., : resized[0], : resized[1]]
    expected = _interpolate(cropped, (height, width))[0].numpy()
    actual = np.asarray(
        postprocess_masks(
            jnp.asarray(logits),
            jnp.asarray([resized]),
            jnp.asarray([(height, width)]),
            CANVAS,
            (90, 90),
        )
    )
    # The golden README's tolerance for matrices built with float32 coordinates, of std 1.
    np.testing.assert_allclose(actual[:, :height, :width], expected, rtol=0, atol=2e-5)
    outside = actual.copy()
    outside[:, :height, :width] = 0
    assert not outside.any()


def test_masks_of_different_sizes_share_one_compiled_program() -> None:
    traces = []

    @jax.jit
    def run(logits: jax.Array, resized: jax.Array, original: jax.Array) -> jax.Array:
        traces.append(1)
        return postprocess_masks(logits, resized, original, CANVAS, (40, 40))

    logits = jnp.asarray(_noise(2, LOW, LOW))
    run(logits, jnp.array([[64, 48], [64, 64]]), jnp.array([[40, 30], [20, 20]]))
    run(logits, jnp.array([[32, 64], [64, 10]]), jnp.array([[20, 40], [30, 5]]))
    assert len(traces) == 1
