"""The metrics of counterfactual pairs agree with the formulas, OpenCV's resizing included."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.metrics.counterfactual import SETTINGS, CounterfactualPair, score_pairs
from glamm_jax.metrics.result import MODES
from tests.metrics.reference_masks import near, random_mask


def resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = (shape[1], shape[0])
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 0.0


def confusion(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((3 * (mask & truth).sum() + (mask & ~truth).sum()) / (3 * truth.sum()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_all_metrics_agree_with_the_formulas(seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    pairs, predictions = {}, {}
    columns: dict[str, list[float]] = {}
    for i in range(30):
        sizes = ((24, 32), (30, 40)) if i % 3 == 0 else ((24, 32), (24, 32))
        truth, other = (random_mask(rng, size) for size in sizes)
        truth[3:6, 3:6] = other[3:6, 3:6] = True
        masks = {}
        for setting, base in zip(SETTINGS, (truth, truth, other, other), strict=True):
            kind = rng.random()
            if kind > 0.1:
                masks[setting] = near(rng, base) if kind > 0.4 else random_mask(rng, base.shape)
        items = {setting: f"{setting}/{i}" for setting in SETTINGS}
        pairs[f"{i}"] = CounterfactualPair(rle.encode(truth), rle.encode(other), items)
        predictions |= {items[setting]: rle.encode(mask) for setting, mask in masks.items()}
        ious = {
            setting: iou(resized(mask, truth.shape), resized(base, truth.shape))
            for setting, base in zip(SETTINGS, (truth, truth, other, other), strict=True)
            if (mask := masks.get(setting)) is not None
        }
        names = ("IoU_factual", "IoU_textual", "IoU_visual", "IoU_edited")
        for setting, name in zip(SETTINGS, names, strict=True):
            if name == "IoU_edited" and mode == "compat":
                continue
            if setting in ious:
                columns.setdefault(name, []).append(ious[setting])
            elif mode == "strict" and name in ("IoU_factual", "IoU_edited"):
                columns.setdefault(name, []).append(0.0)
        for setting, name in (("edtl_orgi", "dIoU_textual"), ("orgl_edti", "dIoU_visual")):
            if setting in ious and "orgl_orgi" in ious:
                columns.setdefault(name, []).append(ious["orgl_orgi"] - ious[setting])
        scores = {}
        for setting, name, base in (
            ("edtl_orgi", "CMS_factual", truth),
            ("orgl_edti", "CMS_counterfactual", other),
        ):
            if setting in masks:
                value = confusion(resized(masks[setting], base.shape), base)
                scores[name] = round(value, 4) if mode == "compat" else value
                columns.setdefault(name, []).append(scores[name])
        if len(scores) == 2 and scores["CMS_counterfactual"] != 0:
            columns.setdefault("CCMS", []).append(
                scores["CMS_factual"] / scores["CMS_counterfactual"]
            )
    result = score_pairs(predictions, pairs, mode)  # type: ignore[arg-type]
    assert result.scores == pytest.approx({k: np.mean(v) for k, v in columns.items()}, abs=1e-12)
    assert set(result.notes) == {"missing prediction"}


def test_masks_that_follow_the_image_have_no_confusion() -> None:
    truth = np.zeros((8, 8), bool)
    truth[2:5, 2:5] = True
    runs = rle.encode(truth)
    pair = CounterfactualPair(runs, runs, {setting: setting for setting in SETTINGS})
    right = {"orgl_orgi": runs, "edtl_edti": runs, "edtl_orgi": None, "orgl_edti": None}
    result = score_pairs(right, {"a": pair}, "strict")
    assert result.scores["IoU_factual"] == result.scores["dIoU_textual"] == 1
    assert result.scores["CMS_factual"] == result.scores["CMS_counterfactual"] == 0
    assert "CCMS" not in result.scores
    wrong = score_pairs(dict.fromkeys(SETTINGS, runs), {"a": pair}, "strict")
    assert wrong.scores["CMS_factual"] == wrong.scores["CCMS"] == 1
    assert wrong.scores["dIoU_visual"] == 0
