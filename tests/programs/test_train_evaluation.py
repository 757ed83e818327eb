"""The look at held-out examples scores right answers with 1 and shows both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glamm_jax.config.experiment import ValidationConfig
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation import validation
from glamm_jax.evaluation.item import Item, Prediction
from tests.evaluation.truth import nothing, right
from tests.small_experiment import get_config

CONFIG = replace(get_config(), validation=ValidationConfig(every=1, num_examples=9, num_panels=3))
SCORES = {
    *("gcg/mIoU", "gcg/recall", "gcg/phrases_right", "gcg/phrase_mask_iou"),
    *("refseg/free cIoU", "refseg/free gIoU", "region_caption/exact"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("tell", "value"), [(right, 1.0), (nothing, 0.0)])
def test_truth_scores_one_and_silence_nothing(
    monkeypatch: pytest.MonkeyPatch, tell: Any, value: float
) -> None:
    asked: list[Item] = []

    def ask(_: Any, records: Any, items: Sequence[Item], *sizes: int) -> Iterator[Prediction]:
        asked.extend(items)
        return map(tell, items)

    monkeypatch.setattr(validation, "Assistant", lambda *_: None)
    monkeypatch.setattr(validation, "ask", ask)
    look = validation.make_validate(CONFIG)
    assert look is not None
    found = look(None, 1)  # type: ignore[arg-type]  # no model: the answers are known
    assert len(asked) == 9
    assert len({item.record for item in asked}) == 3
    assert set(found.scores) >= SCORES
    assert {name: found.scores[name] for name in SCORES} == dict.fromkeys(SCORES, value)
    assert len(found.panels) == 3
    assert all(panel.dtype == np.uint8 and panel.shape[2] == 3 for panel in found.panels)


def test_a_run_that_never_looks_has_no_evaluation_and_one_without_data_is_told() -> None:
    assert validation.make_validate(get_config()) is None
    broken = replace(CONFIG, validation=replace(CONFIG.validation, split="validation"))
    with pytest.raises(ConfigError, match="no split 'validation'; there are train, val, test"):
        validation.make_validate(broken)
