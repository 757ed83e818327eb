"""Runs that learn nothing are named with the likely cause, once; runs that learn are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glamm_jax.config.experiment import ExperimentConfig, MixtureEntry
from glamm_jax.training.learning_checks import VALIDATIONS, LearningChecks, LearningProblem
from tests.small_experiment import get_config

WINDOW = 20


def problems_of(config: ExperimentConfig, losses: list[float], **fields: Any) -> list[Any]:
    """Return (step, problem) of a run with these losses."""
    checks = LearningChecks(config, WINDOW)
    found: list[tuple[int, LearningProblem]] = []
    for step, loss in enumerate(losses):
        record = {
            "step": step,
            "loss": loss,
            "bce": 0.1,
            "dice": 0.1,
            "skipped": False,
            "grad_norm": 0.5,
            "grad_norms": {"llama": 0.4, "masks": 0.3},
            "learning_rate": 1e-4,
            **fields,
        }
        found += [(step, problem) for problem in checks.after_step(record)]
    return found


def test_a_resumed_run_reports_what_an_unbroken_one_does() -> None:
    random = np.random.default_rng(1)
    losses = random.normal(3.0, 0.2, 12 * WINDOW)
    records = [
        {
            "step": step,
            "loss": loss,
            "skipped": random.random() < 0.1,
            "bce": 0.1 * (random.random() < 0.05),
            "dice": 0.0,
            "grad_norm": 0.5,
            "grad_norms": {"llama": 0.0 if step % 90 > 10 else 0.1, "masks": 0.3},
        }
        for step, loss in enumerate(losses.tolist())
    ]
    for done in (0, 3, WINDOW, 2 * WINDOW + 5, 5 * WINDOW, 8 * WINDOW + 3):
        unbroken, resumed = (LearningChecks(get_config(), WINDOW) for _ in range(2))
        for record in records[:done]:
            unbroken.after_step(record)
        resumed.restore(records[:done])
        expected = [unbroken.after_step(record) for record in records[done:]]
        assert [resumed.after_step(record) for record in records[done:]] == expected
        assert any(expected)


def falling(steps: int) -> list[float]:
    return [*(3.0 - 0.01 * np.arange(steps) + 0.1 * np.sin(np.arange(steps)))]


def test_a_run_that_learns_has_no_problem() -> None:
    assert not problems_of(get_config(), falling(5 * WINDOW))


def test_a_converged_run_has_no_problem() -> None:
    assert not problems_of(get_config(), [3.0] * WINDOW + [0.5] * 10 * WINDOW)


def test_a_loss_that_does_not_fall_is_reported_once_with_the_learning_rate() -> None:
    noise = np.random.default_rng(0).normal(3.0, 0.2, 10 * WINDOW)
    config = replace(get_config(), optim=replace(get_config().optim, warmup_steps=2))
    ((step, problem),) = problems_of(config, [*noise])
    assert (step, problem.kind) == (2 * WINDOW + 1, "flat_loss")
    assert "learning rate 0.0001" in problem.message and "optim.peak_lr" in problem.message


@pytest.mark.parametrize(("norm", "cause"), [(1e4, "is clipped to"), (1e-9, "it vanishes")])
def test_the_norm_of_the_gradient_is_a_cause_of_a_flat_loss(norm: float, cause: str) -> None:
    ((_, problem),) = problems_of(get_config(), [3.0] * 3 * WINDOW, grad_norm=norm)
    assert cause in problem.message


@pytest.mark.parametrize(
    ("part", "tasks", "cause"),
    [
        ("region_encoder", ("gcg",), "no entry of data.mixture has the task region"),
        ("region_encoder", ("region",), "the records of the task region give no boxes"),
        ("masks", ("caption",), "no entry of data.mixture has one of the tasks gcg, referring"),
        ("masks", ("gcg",), "the batches have no masks; see the events `dropped`"),
        ("lm_head", ("gcg",), "the batches have no words to predict"),
    ],
)
def test_a_trained_part_without_gradient_is_reported(part: str, tasks: Any, cause: str) -> None:
    config = get_config()
    shape = replace(config.data.batch_shape, region_images=1, regions=4)
    mixture = (MixtureEntry("miniworld/easy@32", tasks),)
    config = replace(config, data=replace(config.data, mixture=mixture, batch_shape=shape))
    grad_norms = {"llama": 1.0, part: 0.0}
    ((step, problem),) = problems_of(config, falling(3 * WINDOW), grad_norms=grad_norms)
    assert (step, problem.kind) == (WINDOW - 1, "no_gradient")
    assert f"the trained part {part} had no gradient in {WINDOW} steps" in problem.message
    assert cause in problem.message


def test_a_part_that_no_loss_depends_on_is_not_expected_to_have_a_gradient() -> None:
    assert not problems_of(get_config(), falling(3 * WINDOW), grad_norms={"unread": 0.0})


def test_steps_without_any_mask_are_reported() -> None:
    ((step, problem),) = problems_of(get_config(), falling(3 * WINDOW), bce=0.0, dice=0.0)
    assert (step, problem.kind) == (WINDOW - 1, "no_masks")
    assert f"no [SEG] had a mask to learn in {WINDOW} steps" in problem.message


def test_a_skipped_step_counts_for_nothing() -> None:
    assert not problems_of(get_config(), [3.0] * 9 * WINDOW, skipped=True)


def test_validations_that_do_not_change_are_reported() -> None:
    checks = LearningChecks(get_config())
    scores = [{"gcg/mIoU": 0.0}] * VALIDATIONS
    *first, (problem,) = [checks.after_validation(x) for x in scores]
    assert not any(first) and problem.kind == "flat_validation"
    assert "validation.max_tokens" in problem.message
    assert not checks.after_validation({"gcg/mIoU": 0.0})
    assert not checks.after_validation({"gcg/mIoU": 0.1})
