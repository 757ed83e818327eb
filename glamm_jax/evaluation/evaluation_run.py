"""One evaluation, whole: items, predictions, scores, and the folder that holds them.

    run = Run(BENCHMARKS["gcg"], Data("miniworld/easy", "test"), Path("out"), Wanted())
    scores = run.score(run.ask(assistant))

    OUT/config.json        what the predictions follow from, and where they were made
    OUT/predictions.jsonl  every prediction (`glamm_jax.evaluation.prediction_files`)
    OUT/predictions/       the same in the original's layout
    OUT/scores.json        figures of both modes, and what each item contributes
    OUT/report.html        the page to look at

A folder whose predictions follow from something else is refused; one that was interrupted goes on.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks import Benchmark
from glamm_jax.evaluation.evaluation_page import write_report
from glamm_jax.evaluation.item import Prediction
from glamm_jax.evaluation.item_cards import image_loader
from glamm_jax.evaluation.items import EvaluationData, ItemSet, open_items
from glamm_jax.evaluation.prediction_files import (
    PREDICTIONS,
    ReadPredictions,
    read_predictions,
    write_captions,
    write_gcg_folder,
    write_lines,
)
from glamm_jax.evaluation.runner import predict_all
from glamm_jax.evaluation.scores import SCORES, RunScores, save_scores
from glamm_jax.evaluation.scoring import TextScorers
from glamm_jax.files import write_atomic
from glamm_jax.inference.chat import Assistant
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.training.initialization import fingerprint

CONFIG, ORIGINAL, REPORT = "config.json", "predictions", "report.html"
# What a run may change when it goes on: where it is computed, and where its files are; hashes say
# what is in them.
FREE = (
    "data.",
    "model",
    "predictions",
    "batch_size",
    "devices",
    "processes",
    "platform",
    "versions.",
)
PACKAGES = ("glamm-jax", "jax", "flax", "numpy", "pycocotools", "pycocoevalcap", "transformers")


class EvaluationError(GLaMMError):
    """An evaluation that cannot be made in this folder. Says why and what to do."""


@dataclass(frozen=True)
class GenerationConfig:
    """How a model is asked. question: "original", "ours", or one's own; see `Benchmark`."""

    question: str = "original"
    max_tokens: int = MAX_NEW_TOKENS
    batch_size: int = 8
    seed: int = 0


class EvaluationRun:
    """A benchmark on some data, in a folder.

    Raises: QuestionsError, WordingError, EvaluationError when they cannot be used.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        data: EvaluationData,
        out: Path,
        asking: GenerationConfig = GenerationConfig(),
    ):
        self.benchmark, self.data, self.out, self.asking = benchmark, data, out, asking
        self.wording = benchmark.wording(asking.question, asking.seed)
        if out.exists() and not (out / CONFIG).is_file() and (out.is_file() or any(out.iterdir())):
            raise EvaluationError(f"{out}: holds files, but no evaluation; choose a new folder")
        self.questions: ItemSet = open_items(benchmark, data, self.wording)
        self.config: dict[str, Any] = {
            "benchmark": benchmark.name,
            "split": self.title,
            "data": {name: str(x) for name, x in asdict(data).items() if x is not None},
            "data_hash": self.questions.hash,
            "items": len(self.questions.items),
            "question": self.wording.question,
            "seed": asking.seed,
            "versions": _versions(),
        }

    @property
    def title(self) -> str:
        """The split as the paper's tables call it, with the name of the data before it."""
        return "/".join(filter(None, (self.questions.name, self.data.split)))

    def predict(self, assistant: Assistant, model: str = "") -> dict[str, Prediction]:
        """The model's predictions by item; in processes but the first, none.

        Raises: EvaluationError naming what differs from the run that is in the folder.
        """
        asking = self.asking
        self._claim(
            model=model,
            weights=fingerprint(assistant.generator.state),
            dtype=assistant.config.compute_dtype,
            max_tokens=asking.max_tokens,
            batch_size=asking.batch_size,
            devices=1 if assistant.mesh is None else assistant.mesh.size,
            processes=jax.process_count(),
            platform=jax.devices()[0].device_kind,
        )
        found = self.questions
        said = predict_all(
            assistant, found.records, found.items, self.out, asking.batch_size, asking.max_tokens
        )
        return {each.id: each for each in said}

    def read_predictions(self, predictions: Path) -> ReadPredictions:
        """Predictions that were made elsewhere.

        Raises: EvaluationError, as `ask`; PredictionError when there are none.
        """
        read = read_predictions(predictions, self.questions.items)
        self._claim(predictions=str(predictions))
        write_lines(self.out / PREDICTIONS, read.predictions.values())
        return read

    def score(
        self,
        said: Mapping[str, Prediction],
        judges: TextScorers,
        irregular: Mapping[str, Sequence[str]] = {},
    ) -> RunScores:
        """Both modes; written to the folder, with a page and the predictions as the original's.

        irregular: what was met when predictions were read: kind -> ids.
        """
        items, left_out = self.questions.items, self.questions.notes
        notes = {kind: tuple(where) for kind, where in irregular.items()}
        notes |= {f"left out: {kind}": where for kind, where in left_out.items()}
        failed = tuple(each.id for each in said.values() if each.finish == "failed")
        notes |= {"could not be asked": failed} if failed else {}
        modes: dict[Mode, MetricResult] = {
            mode: self.benchmark.score(items, said, mode, judges) | MetricResult({}, notes=notes)
            for mode in MODES
        }
        counts = {"items": len(items), "predictions": len(said), "failed": len(failed)}
        scores = RunScores(
            self.benchmark.name,
            self.title,
            modes,
            self.questions.hash,
            judges.similarity.name,
            counts,
        )
        self._write_original(said)
        save_scores(self.out / SCORES, scores)
        pictures = image_loader(self.questions.records)
        write_report(self.out / REPORT, self.config, items, [*said.values()], modes, pictures)
        return scores

    def _write_original(self, said: Mapping[str, Prediction]) -> None:
        folder, predictions = self.out / ORIGINAL, [*said.values()]
        if self.benchmark.name == "gcg":
            write_gcg_folder(folder, predictions)
        elif "caption" in self.benchmark.name:
            write_captions(folder / f"{self.benchmark.name}.json", predictions)

    def _claim(self, **facts: Any) -> None:
        """Write config.json; of a run that is there already nothing changes."""
        self.config |= facts
        told = self.out / CONFIG
        if not told.is_file():
            if jax.process_index() == 0:
                write_atomic(told, json.dumps(self.config, indent=1) + "\n")
            return
        try:
            old = flatten_config(json.loads(told.read_text(encoding="utf-8")))
        except ValueError as error:
            raise EvaluationError(f"{told}: cannot be read: {error}") from error
        new = flatten_config(json.loads(json.dumps(self.config)))
        differing = [
            f"{name} was {was!r}, now {now!r}" for name, was, now in changed_fields(old, new, FREE)
        ]
        if differing:
            raise EvaluationError(
                f"{self.out}: holds another evaluation: {'; '.join(differing)}. Choose a new folder"
            )


def _versions() -> dict[str, str]:
    """Of Python and of the packages that are here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
