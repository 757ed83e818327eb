"""Validation scores perfect predictions with 1 and draws panels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glamm_jax.config.experiment import ValidationConfig
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation import validation
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from tests.evaluation.example_predictions import empty_prediction, perfect_prediction
from tests.small_experiment import get_config

VALIDATION = ValidationConfig(every=1, dataset="miniworld/easy@32", num_examples=9, num_panels=3)
CONFIG = replace(get_config(), validation=VALIDATION)
SCORES = {
    *("gcg/mIoU", "gcg/recall", "gcg/phrase_precision", "gcg/phrase_recall", "gcg/phrase_mask_iou"),
    *("refseg/free cIoU", "refseg/free gIoU", "region_caption/exact"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make_prediction", "value"), [(perfect_prediction, 1.0), (empty_prediction, 0.0)]
)
def test_truth_scores_one_and_silence_nothing(
    monkeypatch: pytest.MonkeyPatch, make_prediction: Any, value: float
) -> None:
    predicted: list[Item] = []

    def predict(_: Any, records: Any, items: Sequence[Item], *sizes: int) -> Iterator[Prediction]:
        predicted.extend(items)
        return map(make_prediction, items)

    monkeypatch.setattr(validation, "Assistant", lambda *_: None)
    monkeypatch.setattr(validation, "predict", predict)
    validate = validation.make_validate(CONFIG)
    assert validate is not None
    result = validate(None, 1)  # type: ignore[arg-type]  # no model: predictions are replaced
    assert len(predicted) == 9
    assert len({item.record for item in predicted}) == 3
    assert set(result.scores) >= SCORES
    assert {name: result.scores[name] for name in SCORES} == dict.fromkeys(SCORES, value)
    assert len(result.panels) == 3
    assert all(panel.dtype == np.uint8 and panel.shape[2] == 3 for panel in result.panels)


def test_a_run_that_never_looks_has_no_evaluation_and_one_without_data_is_told() -> None:
    assert validation.make_validate(get_config()) is None
    broken = replace(CONFIG, validation=replace(CONFIG.validation, split="validation"))
    with pytest.raises(ConfigError, match="no split 'validation'; there are train, val, test"):
        validation.make_validate(broken)
