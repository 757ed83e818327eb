"""The metrics of GroundingSuite agree with loops over pixels and corners."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.metrics.instance_grounding import InstanceReference, score_instances
from glamm_jax.metrics.result import MODES, MetricError
from tests.metrics.reference_masks import near, random_mask

GROUPS = ("stuff", "part", "multi")


def box_of(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return None
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def box_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


@pytest.mark.parametrize("seed", range(5))
def test_both_modes_agree_with_an_implementation_by_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    references, predictions = {}, {}
    ious: dict[str, list[float]] = {}
    hits: dict[str, list[float]] = {}
    strict_ious: dict[str, list[float]] = {}
    answered: list[float] = []
    for i in range(80):
        truth = random_mask(rng)
        truth[3:6, 4:9] = True
        group = GROUPS[i % 3]
        box = tuple(x + rng.uniform(-1, 1) for x in box_of(truth) or ())
        x0, y0, x1, y1 = box
        references[f"{i}"] = InstanceReference(rle.encode(truth), (x0, y0, x1, y1), group)
        kind, iou, hit = rng.random(), 0.0, 0.0
        if kind > 0.2:
            mask = near(rng, truth) if kind > 0.4 else random_mask(rng)
            predictions[f"{i}"] = rle.encode(mask)
            iou = float((mask & truth).sum() / (mask | truth).sum())
            ious.setdefault(group, []).append(iou)
            own = box_of(mask)
            hit = float(own is not None and box_iou(own, box) >= 0.5)
        elif kind > 0.1:
            predictions[f"{i}"] = None
        strict_ious.setdefault(group, []).append(iou)
        hits.setdefault(group, []).append(hit)
        answered += [hit] if kind > 0.1 else []
    compat, strict = (score_instances(predictions, references, mode) for mode in MODES)
    assert compat.scores["gIoU"] == pytest.approx(mean(x for v in ious.values() for x in v))
    assert strict.scores["gIoU"] == pytest.approx(mean(x for v in strict_ious.values() for x in v))
    assert compat.scores["box_accuracy"] == pytest.approx(mean(answered))
    assert strict.scores["box_accuracy"] == pytest.approx(mean(x for v in hits.values() for x in v))
    for group in GROUPS:
        assert compat.scores[f"gIoU, {group}"] == pytest.approx(mean(ious[group]))
        assert strict.scores[f"gIoU, {group}"] == pytest.approx(mean(strict_ious[group]))
        for result in (compat, strict):
            assert result.scores[f"box_accuracy, {group}"] == pytest.approx(mean(hits[group]))
    assert set(strict.notes) == {"missing prediction", "no mask given"}


def test_damaged_masks_are_named() -> None:
    full = rle.encode(np.ones((4, 4), bool))
    reference = {"a": InstanceReference(full, (0, 0, 4, 4), "part")}
    with pytest.raises(MetricError, match="a: "):
        score_instances({"a": {"size": [4, 4], "counts": "1"}}, reference, "strict")
