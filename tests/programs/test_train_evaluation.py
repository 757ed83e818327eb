"""The look at held-out examples scores right answers with 1 and shows both sides."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from glamm_jax.checks import ConfigError
from glamm_jax.experiment import EvaluationConfig
from glamm_jax.inference.answer import Grounding
from glamm_jax.inference.chat import Question
from glamm_jax.text.answers import parse_answer
from tests.small_experiment import get_config
from train import evaluate

CONFIG = replace(get_config(), evaluation=EvaluationConfig(every=1, examples=9, panels=2))


class Knowing:
    """Answers as the truth says, or with nothing; it has seen the examples."""

    truth: dict[str, Any] = {}  # noqa: RUF012
    silent = False

    def __init__(self, *_: Any):
        pass

    def chat_many(self, questions: list[Question]) -> list[SimpleNamespace]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> SimpleNamespace:
        example = self.truth[question.prompt, id(question.image)]
        told = parse_answer(example.turns[1])
        if self.silent:
            return SimpleNamespace(text="", groundings=())
        masks = () if example.masks is None else example.masks
        found = [Grounding("", 0, 0, masks[seg] != 0, 0.9) for seg in told.loose_segs]
        for phrase in told.phrases:
            mask = masks[phrase.segs[0]] != 0
            found.append(Grounding(phrase.text, phrase.start, phrase.end, mask, 0.9))
        return SimpleNamespace(text=told.text, groundings=tuple(found))


def look(monkeypatch: pytest.MonkeyPatch, silent: bool) -> Any:
    original = evaluate._question

    def remembered(example: Any, max_tokens: int) -> Question:
        question = original(example, max_tokens)
        Knowing.truth[question.prompt, id(question.image)] = example
        return question

    monkeypatch.setattr(evaluate, "Assistant", Knowing)
    monkeypatch.setattr(evaluate, "_question", remembered)
    monkeypatch.setattr(Knowing, "silent", silent)
    found = evaluate.make_evaluate(CONFIG)
    assert found is not None
    return found(None, 1)


SCORES = ("phrase_mask_iou", "phrases_right", "referring_miou", "regions_right")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("silent", "value"), [(False, 1.0), (True, 0.0)])
def test_truth_scores_one_and_silence_nothing(
    monkeypatch: pytest.MonkeyPatch, silent: bool, value: float
) -> None:
    found = look(monkeypatch, silent)
    assert found.scores == dict.fromkeys(SCORES, value)
    assert len(found.panels) == 2
    assert all(panel.dtype == np.uint8 and panel.shape[2] == 3 for panel in found.panels)


def test_a_run_that_never_looks_has_no_evaluation_and_one_without_data_is_told() -> None:
    assert evaluate.make_evaluate(get_config()) is None
    broken = replace(CONFIG, evaluation=replace(CONFIG.evaluation, split="validation"))
    with pytest.raises(ConfigError, match="no split 'validation'; there are train, val, test"):
        evaluate.make_evaluate(broken)
