"""Answering all questions about a folder, resumable after an interruption.

    run = AnswerRun(Path("answers.run"), questions, {"weights": "a hash"})
    run.answer(assistant)
    write_answer_lines(Path("answers.jsonl"), run)

    RUN/config.json              what the answers depend on
    RUN/00000/predictions.jsonl  the answers to the first `BLOCK` questions; and so on
    RUN/00000/parts/             those of a block that is not finished

An answer that the folder has is not generated again. A question that failed, because its image
could not be read, is asked again by the next run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glamm_jax.evaluation.benchmarks.base import FAILED, Item, Prediction
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines, write_lines
from glamm_jax.evaluation.runner import PARTS, predict_all
from glamm_jax.files import atomic_file, lock_path, write_atomic
from glamm_jax.image_answers.lines import answer_line
from glamm_jax.image_answers.questions import FolderQuestions, QuestionsError
from glamm_jax.inference.chat import Assistant
from glamm_jax.json_files import read_object, show
from glamm_jax.text.questions import MAX_NEW_TOKENS

BLOCK = 2_000  # questions whose answers are in memory together
CONFIG, LOCK = "config.json", ".lock"


class AnswerRun:
    """Questions about a folder and their answers so far.

    Args:
        folder: new, or that of the same questions.
        questions: to be answered.
        config: what the answers depend on, besides the questions.

    Raises:
        QuestionsError: the folder has answers of another configuration.
        JSONError: its config.json is damaged.
    """

    def __init__(self, folder: Path, questions: FolderQuestions, config: Mapping[str, Any]):
        self.folder, self.questions = folder, questions
        self._config = json.loads(json.dumps(dict(config)))
        path = folder / CONFIG
        if not path.is_file():
            if folder.exists() and any(folder.iterdir()):
                raise QuestionsError(f"{folder}: has files, but no answers; choose another --out")
            return
        old = read_object(path).fields
        changes = [
            f"{name} was {show(old.get(name))}, now {show(self._config.get(name))}"
            for name in sorted({*old, *self._config})
            if old.get(name) != self._config.get(name)
        ]
        if changes:
            raise QuestionsError(
                f"{folder}: has answers of another configuration: {'; '.join(changes)}. Choose "
                "another --out, or remove the folder"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock on the folder.

        Raises:
            FolderError: another process answers questions in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_path(self.folder / LOCK, str(self.folder)):
            yield

    def answer(
        self, assistant: Assistant, batch_size: int = 8, max_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        """Answer the questions that have no answer yet.

        Args:
            assistant: the model.
            batch_size: rows of a batch.
            max_tokens: longest answer.
        """
        write_atomic(self.folder / CONFIG, json.dumps(self._config, indent=1) + "\n")
        records = self.questions.records()
        for block, items in self._blocks():
            _forget_failed(block)
            predict_all(assistant, records, items, block, batch_size, max_tokens)

    def predictions(self) -> Iterator[tuple[Item, Prediction]]:
        """Yield each question with its answer, in the order of the questions."""
        for block, items in self._blocks():
            by_id = {x.id: x for x in read_lines(block / PREDICTIONS)[0]}
            yield from ((item, by_id[item.id]) for item in items)

    def _blocks(self) -> Iterator[tuple[Path, list[Item]]]:
        items = self.questions.items
        for start in range(0, len(items), BLOCK):
            yield self.folder / f"{start // BLOCK:05d}", [*items[start : start + BLOCK]]


def _forget_failed(block: Path) -> None:
    """Remove the answers of a block that failed, so that the questions are asked again."""
    for path in (block / PREDICTIONS, *sorted((block / PARTS).glob("*.jsonl"))):
        if path.is_file():
            predictions, is_truncated = read_lines(path)
            kept = [x for x in predictions if x.finish != FAILED]
            if is_truncated or len(kept) < len(predictions):
                write_lines(path, kept)


def write_answer_lines(path: Path, run: AnswerRun) -> dict[str, str]:
    """Write all answers as lines of JSON; return the ids of the questions that failed, and why.

    Args:
        path: the file; an earlier one is replaced.
        run: with all answers.
    """
    failed: dict[str, str] = {}
    with atomic_file(path) as file:
        for item, prediction in run.predictions():
            file.write(answer_line(item, prediction).encode())
            if prediction.finish == FAILED:
                failed[item.id] = "; ".join(prediction.problems)
    return failed
