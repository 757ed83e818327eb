"""The losses equal those of the original, written in plain float64 numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.training.losses import cross_entropy, iou_loss, mask_losses

RNG = np.random.default_rng(0)


def plain_mask_losses(logits: list, masks: list) -> tuple[float, float]:
    """Per-mask means over each mask's own pixels, averaged over masks."""
    bce = dice = 0.0
    for x, reference in zip(logits, masks, strict=True):
        bce += np.mean(np.maximum(x, 0) - x * reference + np.log1p(np.exp(-np.abs(x))))
        p = 1 / (1 + np.exp(-x)) / 1000
        dice += 1 - (2 * (p * reference).sum() + 1e-6) / (p.sum() + (reference / 1000).sum() + 1e-6)
    return bce / len(logits), dice / len(logits)


def batch_of(shapes: list[tuple[int, int]], values: int = 2) -> tuple[list, list, tuple]:
    """Return masks of different sizes, padded to one size, with an invalid mask at the end."""
    logits = [RNG.normal(size=shape) * 3 for shape in shapes]
    masks = [RNG.integers(0, values, shape).astype(float) for shape in shapes]
    height, width = max(s[0] for s in shapes), max(s[1] for s in shapes)
    packed = np.zeros((2, len(shapes) + 1, height, width), np.float32)
    inside = np.zeros((len(shapes) + 1, height, width), bool)
    packed[0] = 99.0  # padding, which must not count
    for i, (h, w) in enumerate(shapes):
        packed[:, i, :h, :w] = logits[i], masks[i]
        inside[i, :h, :w] = True
    valid = np.arange(len(shapes) + 1) < len(shapes)
    return logits, masks, tuple(map(jnp.asarray, (*packed, inside, valid)))


@pytest.mark.parametrize("values", [2, 3], ids=["binary", "trap_22_overlapping_polygons"])
def test_mask_losses_are_means_over_each_masks_own_pixels(values: int) -> None:
    logits, masks, arrays = batch_of([(5, 7), (3, 9), (8, 2)], values)
    np.testing.assert_allclose(mask_losses(*arrays), plain_mask_losses(logits, masks), rtol=1e-5)


def test_trap_20_an_empty_mask_costs_no_more_than_the_prediction() -> None:
    logits, masks = [np.full((4, 4), -8.0)], [np.zeros((4, 4))]
    arrays = (logits, masks, [np.ones((4, 4), bool)], [True])
    result = mask_losses(*(jnp.asarray(np.array(x)) for x in arrays))
    np.testing.assert_allclose(result, plain_mask_losses(logits, masks), rtol=1e-5)


def test_the_iou_loss_is_the_squared_error_of_the_estimates() -> None:
    logits, masks, arrays = batch_of([(5, 7), (3, 9), (8, 2)])
    estimates = np.array([0.3, -1.7, 0.9, 50.0], np.float32)  # the last mask is invalid
    pairs = [(x > 0, reference > 0) for x, reference in zip(logits, masks, strict=True)]
    ious = [(a & b).sum() / (a | b).sum() for a, b in pairs]
    expected = np.mean((estimates[:3] - ious) ** 2)
    np.testing.assert_allclose(iou_loss(jnp.asarray(estimates), *arrays), expected, rtol=1e-5)
    empty = jnp.full((1, 2, 2), -1.0)
    everything, valid = jnp.ones((1, 2, 2), bool), jnp.ones(1, bool)
    agree = iou_loss(jnp.ones(1), empty, jnp.zeros((1, 2, 2)), everything, valid)
    assert float(agree) == 0.0  # two empty masks agree


def test_the_iou_loss_trains_the_estimates_alone() -> None:
    _, _, arrays = batch_of([(5, 7), (3, 9)])
    gradients = jax.grad(iou_loss, argnums=(0, 1))(jnp.ones(3), *arrays)
    assert (np.asarray(gradients[0]) != 0).tolist() == [True, True, False]
    assert not np.asarray(gradients[1]).any()


def test_no_mask_costs_nothing() -> None:
    x = jnp.zeros((2, 3, 3))
    bce, dice = mask_losses(x, x, jnp.ones((2, 3, 3), bool), jnp.zeros(2, bool))
    assert float(bce) == float(dice) == 0.0


def test_trap_19_cross_entropy_is_the_mean_over_all_targets_of_the_batch() -> None:
    logits = RNG.normal(size=(2, 4, 6))
    targets = RNG.integers(0, 6, (2, 4))
    valid = np.array([[True, True, True, False], [True, False, False, False]])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][valid].mean()
    result = cross_entropy(*map(jnp.asarray, (logits.astype(np.float32), targets, valid)))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    none = cross_entropy(jnp.asarray(logits), jnp.asarray(targets), jnp.zeros((2, 4), bool))
    assert float(none) == 0.0
