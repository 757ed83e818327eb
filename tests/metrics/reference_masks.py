"""Random masks, and metrics of masks written from their definitions with loops over arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Masks = Mapping[str, np.ndarray | None]
SIZE = (24, 32)


def random_mask(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A rectangle with noise; sometimes empty."""
    mask = np.zeros(size, bool)
    if rng.random() < 0.1:
        return mask
    y, x = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
    mask[y : y + rng.integers(2, 14), x : x + rng.integers(2, 16)] = True
    return mask ^ (rng.random(size) < 0.01)


def near(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A mask that is shifted a little."""
    return np.roll(mask, tuple(rng.integers(-2, 3, 2)), (0, 1))


def generalized(predicted: Masks, reference: Masks) -> dict[str, float]:
    """GRES's metrics; None is an expression without target, or the answer that there is none."""
    ious, shared, total, hits = [], 0, 0, {0.7: 0, 0.8: 0, 0.9: 0}
    right_without, without, right_with = 0, 0, 0
    for name, truth in reference.items():
        answer = predicted[name]
        says_none = answer is None or not answer.any()
        if truth is None:
            without += 1
            right_without += says_none
            ious.append(float(says_none))
            total += 0 if answer is None else int(np.count_nonzero(answer))
            continue
        right_with += not says_none
        pixels = np.zeros_like(truth) if answer is None else answer
        both, either = (pixels & truth).sum(), (pixels | truth).sum()
        value = both / either if either else 0.0
        ious.append(value)
        shared, total = shared + int(both), total + int(either)
        for threshold in hits:
            hits[threshold] += value >= threshold
    num_with = len(reference) - without
    return {
        "gIoU": sum(ious) / len(ious),
        "cIoU": shared / total,
        "N_acc": right_without / without,
        "T_acc": right_with / num_with,
        **{f"Pr@{threshold}": count / num_with for threshold, count in hits.items()},
    }
