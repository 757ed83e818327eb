"""Packed rows change no loss and no gradient: every conversation sees its image and itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.data.collate import build_batch, collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.data.packing import Packing
from glamm_jax.models.glamm import GLaMM
from glamm_jax.nn import attention
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.training.losses import losses
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.types import Batch, BatchShape
from glamm_jax.weights.flat_state import flatten_state
from tests.small_experiment import get_config

# Everything below fits, packed or not, so that two programs serve all tests.
ROOM = BatchShape(
    rows=7,
    tokens=72,
    targets=20,
    images=3,
    region_images=2,
    regions=5,
    grounding_images=2,
    masks=6,
    mask_height=30,
    mask_width=40,
)
# Some gradients are zero but for rounding errors, as those of the bias of keys.
GRADIENTS = 2e-5
SHARED, FILLED, BOTH = Packing(True, False), Packing(False, True), Packing(True, True)


@pytest.fixture(scope="module")
def config() -> GLaMMConfig:
    """As small as they come: a picture is 4 x 4 patches."""
    return get_config().model


@pytest.fixture(scope="module")
def samples(config: GLaMMConfig) -> list[Sample]:
    """Three conversations about one picture, two about the next, one about a third, one of text."""
    rng = np.random.default_rng(0)
    seg, box = config.tokens.seg, config.tokens.region

    def pixels(side: int) -> np.ndarray:
        return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

    def row(*ids: int, first_box: int = 0) -> TokenizedConversation:
        array = np.array([1, 5, *ids, 7, 9, 2], np.int32)
        labels = np.where((np.arange(len(array)) < 4) | (array == IMAGE_ID), IGNORE_ID, array)
        return TokenizedConversation(array, labels.astype(np.int32), first_box)

    def sample(*rows: TokenizedConversation, masks: int = 0, boxes: int = 0) -> Sample:
        corners = rng.uniform(0, 0.5, (boxes, 2))
        unit = np.concatenate([corners, corners + 0.4], 1).astype(np.float32)
        made = Sample(rows, pixels(config.clip.image_size), boxes_xyxy_unit=unit if boxes else None)
        if not masks:
            return made
        return replace(
            made,
            grounding_image=pixels(config.sam.image_size),
            resized_size=(48, 64),
            original_size=(30, 40),
            masks=rng.integers(0, 2, (masks, 30, 40), dtype=np.uint8),
        )

    return [
        sample(
            row(IMAGE_ID, 11, seg, 12, seg),
            row(IMAGE_ID, box, 4, box, 8),
            row(IMAGE_ID, seg, 15, box, first_box=2),  # emitted by the last patch, which is shared
            masks=3,
            boxes=3,
        ),
        sample(row(IMAGE_ID, 6, 3, seg), row(IMAGE_ID, 14), masks=1),
        sample(row(IMAGE_ID, 8, box, 3), boxes=1),
        Sample((row(3, 4),)),
    ]


def differentiated(config: GLaMMConfig) -> Any:
    """Return a function of a batch: its losses, and the gradients of all but the two encoders."""
    model = GLaMM(config, rngs=nnx.Rngs(0))
    model.llama.layers.q_proj.lora.b[...] += 0.1  # a fresh adapter changes nothing
    graph, trained, frozen = nnx.split(model, trainable_filter("all_but_encoders"), ...)

    @jax.jit
    def differentiate(trained: nnx.State, frozen: nnx.State, batch: Batch) -> Any:
        def loss(trained: nnx.State) -> Any:
            whole = nnx.merge(graph, trained, frozen, copy=True)
            parts = losses(whole, batch, whole(batch), LossWeights())
            return parts.total, parts

        return jax.grad(loss, has_aux=True)(trained)

    return lambda batch: differentiate(trained, frozen, batch)


@pytest.fixture(scope="module")
def run(config: GLaMMConfig) -> Any:
    return differentiated(config)


@pytest.fixture(scope="module")
def unpacked(config: GLaMMConfig, samples: list[Sample], run: Any) -> Any:
    return run(collate(samples, config, ROOM))


@pytest.mark.parametrize(("packing", "rows"), [(SHARED, 4), (FILLED, 3), (BOTH, 2)])
def test_packing_changes_no_loss_and_no_gradient(
    config: GLaMMConfig, samples: list[Sample], run: Any, unpacked: Any, packing: Packing, rows: int
) -> None:
    assert build_batch(samples, config, packing, ROOM).required_shape.rows == rows
    assert_equal(run(collate(samples, config, ROOM, packing)), unpacked)


@pytest.mark.parametrize("kernel", ["blockwise", pytest.param("splash", marks=pytest.mark.slow)])
def test_memory_linear_kernels_change_no_loss_and_no_gradient(
    config: GLaMMConfig,
    samples: list[Sample],
    unpacked: Any,
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        attention, "_chosen_kernel", lambda *x: kernel if x[-1] else "dense"
    )  # of packed rows
    assert_equal(differentiated(config)(collate(samples, config, ROOM, BOTH)), unpacked)


def assert_equal(actual: Any, expected: Any) -> None:
    """Losses are equal to a millionth, gradients to rounding errors of their largest value."""
    (gradients, parts), (expected_gradients, expected_parts) = actual, expected
    assert parts.iou is None is expected_parts.iou
    np.testing.assert_allclose(parts[:4], expected_parts[:4], rtol=1e-6)
    assert min(float(part) for part in expected_parts[:4]) > 0
    ours, theirs = flatten_state(gradients), flatten_state(expected_gradients)
    for leaf, gradient in theirs.items():
        scale = max(float(np.abs(gradient).max()), 1e-4)
        np.testing.assert_allclose(
            ours[leaf] / scale, gradient / scale, atol=GRADIENTS, err_msg=leaf
        )


def test_a_conversation_that_saw_its_neighbour_would_be_noticed(
    config: GLaMMConfig, samples: list[Sample], run: Any, unpacked: Any
) -> None:
    batch = collate(samples, config, ROOM, SHARED)
    _, parts = run(batch._replace(segments=np.zeros_like(batch.segments)))
    assert abs(float(parts.ce) - float(unpacked[1].ce)) > 1e-3
