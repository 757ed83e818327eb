"""Signs that a run learns nothing, with the likely cause: they are reported, the run goes on.

checks = LearningChecks(config)
for record in records:
    for problem in checks.after_step(record): ...

The parts of the model are those of `glamm_jax.training.parameter_groups`. A problem is reported
once, and again only after it was gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.config.experiment import MASK_TASKS, ExperimentConfig

WINDOW = 200  # steps without a gradient or a mask, and steps whose mean losses are compared
VALIDATIONS = 5  # with the same scores
# The loss has fallen if its mean did by more than so many standard errors.
STANDARD_ERRORS = 2.0


class LearningProblem(NamedTuple):
    """A sign that a run learns nothing.

    Attributes:
        kind: "no_gradient", "no_masks", "flat_loss" or "flat_validation".
        message: what was seen, and the likely cause.
    """

    kind: str
    message: str


def _is_usable(record: Mapping[str, Any]) -> bool:
    """Whether the values of a step are finite."""
    return not record.get("skipped") and isinstance(record.get("loss"), float)


class LearningChecks:
    """Watches the records of a run's steps."""

    def __init__(self, config: ExperimentConfig, window: int = WINDOW):
        self._config, self._window = config, window
        self._tasks = {task for entry in config.data.mixture for task in entry.tasks}
        self._without_gradient: dict[str, int] = {}  # part -> consecutive steps
        self._without_masks = 0  # consecutive steps
        self._first: list[float] = []  # losses after the warm-up
        self._last: deque[float] = deque(maxlen=window)
        self._scores: deque[dict[str, float]] = deque(maxlen=VALIDATIONS)
        self._reported: set[str] = set()

    def after_step(self, record: Mapping[str, Any]) -> list[LearningProblem]:
        """Return the problems that a step's line of `metrics.jsonl` makes visible."""
        if not _is_usable(record):
            return []
        problems = [*self._gradient_problems(record)]
        problems += self._mask_problem(record)
        problems += self._loss_problem(record)
        return problems

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take up the state behind the steps of a run that is resumed.

        It depends on the first steps after the warm-up and on the latest ones only: a long run does
        not wait for the others.
        """
        usable = [record for record in records if _is_usable(record)]
        warm_up = self._config.optim.warmup_steps
        num_first = sum(record["step"] < warm_up for record in usable) + self._window
        num_last = max(len(usable) - num_first, 0)
        skipped = max(num_last - self._window, 0)
        for record in (*usable[:num_first], *usable[num_first + skipped :]):
            self.after_step(record)

    def after_validation(self, scores: Mapping[str, float]) -> list[LearningProblem]:
        """Return the problem that the scores of a validation make visible."""
        self._scores.append(dict(scores))
        is_flat = len(self._scores) == VALIDATIONS and all(x == scores for x in self._scores)
        return self._report(
            "flat_validation",
            is_flat and bool(scores),
            f"the last {VALIDATIONS} validations have the same scores. Likely cause: the answers "
            "do not change, or are cut off before their first [SEG] (validation.max_tokens = "
            f"{self._config.validation.max_tokens})",
        )

    def _gradient_problems(self, record: Mapping[str, Any]) -> Iterator[LearningProblem]:
        for part, norm in record.get("grad_norms", {}).items():
            if part == "unread" and not self._config.losses.iou:
                continue  # no loss depends on it
            number = self._without_gradient.get(part, 0) + 1 if norm == 0 else 0
            self._without_gradient[part] = number
            yield from self._report(
                f"no_gradient {part}",
                number >= self._window,
                f"the trained part {part} had no gradient in {self._window} steps. Likely cause: "
                f"{self._gradient_cause(part)}",
            )

    def _gradient_cause(self, part: str) -> str:
        weights = self._config.losses
        if part == "region_encoder":
            if "region" not in self._tasks:
                return "no entry of data.mixture has the task region"
            return "the records of the task region give no boxes; see the events `dropped`"
        if part in ("masks", "unread"):
            if self._tasks.isdisjoint(MASK_TASKS):
                return f"no entry of data.mixture has one of the tasks {', '.join(MASK_TASKS)}"
            if not (weights.bce or weights.dice):
                return "losses.bce and losses.dice are 0"
            return "the batches have no masks; see the events `dropped`"
        if not weights.ce:
            return "losses.ce is 0"
        return "the batches have no words to predict, or the weights that follow are all zero"

    def _mask_problem(self, record: Mapping[str, Any]) -> list[LearningProblem]:
        weights = self._config.losses
        if self._tasks.isdisjoint(MASK_TASKS) or not (weights.bce or weights.dice):
            return []
        has_masks = any(record.get(name) for name in ("bce", "dice"))
        self._without_masks = 0 if has_masks else self._without_masks + 1
        return self._report(
            "no_masks",
            self._without_masks >= self._window,
            f"no [SEG] had a mask to learn in {self._window} steps, although the mixture has tasks "
            "with masks. Likely cause: their records are dropped (see the events `dropped`), their "
            "weight in data.mixture is too small, or their annotations have no masks",
        )

    def _loss_problem(self, record: Mapping[str, Any]) -> list[LearningProblem]:
        """Compare the mean loss of the latest steps with that of the first ones."""
        if record["step"] < self._config.optim.warmup_steps:
            return []
        if len(self._first) < self._window:
            self._first.append(record["loss"])
            return []
        self._last.append(record["loss"])
        is_flat = False
        if len(self._last) == self._window:
            fall = np.mean(self._first) - np.mean(self._last)
            error = np.sqrt((np.var(self._first) + np.var(self._last)) / self._window)
            is_flat = bool(fall <= STANDARD_ERRORS * error)
        clip = self._config.optim.clip_norm
        norm, rate = record.get("grad_norm", 0.0), record.get("learning_rate", 0.0)
        cause = "optim.peak_lr is too small or too large, or the answers do not follow from images"
        if norm > 100 * clip:
            cause = f"the gradient has norm {norm:.3g} and is clipped to optim.clip_norm = {clip:g}"
        elif norm < 1e-6:
            cause = f"the gradient has norm {norm:.3g}: it vanishes"
        return self._report(
            "flat_loss",
            is_flat,
            f"the mean loss of the last {self._window} steps is not below that of the first "
            f"{self._window} after the warm-up (learning rate {rate:.3g}). Likely cause: {cause}",
        )

    def _report(self, key: str, is_present: bool, message: str) -> list[LearningProblem]:
        """Return a problem if it is present and was not before."""
        if not is_present:
            self._reported.discard(key)
            return []
        if key in self._reported:
            return []
        self._reported.add(key)
        return [LearningProblem(key.partition(" ")[0], message)]
