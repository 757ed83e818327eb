"""One evaluation: its items, predictions and scores, and its folder.

    data = EvaluationData("path/to/data", "test", limit=2)
    evaluation = EvaluationRun(BENCHMARKS["gcg"], data, Path("out"), GenerationConfig("ours"))
    predictions = evaluation.predict(load("path/to/model"))
    scores = evaluation.score(predictions, TextScorers())
    scores.modes["strict"].scores["mIoU"]

    OUT/config.json        what the predictions depend on, and what computed them
    OUT/predictions.jsonl  all predictions (`glamm_jax.evaluation.prediction_files`)
    OUT/predictions/       the same in the original's layout, where it has one
    OUT/scores.json        metrics of both modes, and what each item contributes
    OUT/report.html        a report of the scores, with images of the best and worst items

An evaluation that was interrupted resumes in its folder. A folder whose predictions depend on
another configuration is refused.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.config.model import preset_of
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks.base import FAILED, Benchmark, Prediction, TextScorers
from glamm_jax.evaluation.evaluation_page import write_report
from glamm_jax.evaluation.item_cards import image_loader
from glamm_jax.evaluation.items import EvaluationData, ItemSet, open_items
from glamm_jax.evaluation.prediction_files import (
    PREDICTIONS,
    ReadPredictions,
    read_predictions,
    write_lines,
)
from glamm_jax.evaluation.provenance import (
    PRODUCED_BY,
    SAMPLING,
    producer_of,
    run_id,
    several_runs,
)
from glamm_jax.evaluation.runner import predict_all
from glamm_jax.evaluation.scores import SCORES, RunScores, load_scores, save_scores
from glamm_jax.files import lock_path, write_atomic
from glamm_jax.inference.chat import Assistant
from glamm_jax.json_files import JSONError, read_object
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.process_group import LOGS
from glamm_jax.storage import AnyPath, make_folder
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.training.fingerprint import fingerprint

CONFIG, EXPORT, REPORT = "config.json", "predictions", "report.html"
LOCK_SUFFIX = ".lock"
# Fields that may differ when an evaluation resumes: where it is computed, and where its files are
# (the hashes identify what is in them).
MUTABLE_FIELDS = (
    "data.",
    "model",
    "predictions",
    "batch_size",
    "devices",
    "processes",
    "platform",
    "versions.",
    f"{PRODUCED_BY}.",
)
# Fields that folders of earlier versions lack.
ADDED_FIELDS = ("preset", "sampling")
NOT_EXPORTED = f"id that is no file name: not in {EXPORT}"
PACKAGES = ("glamm-jax", "jax", "flax", "numpy", "pycocotools", "pycocoevalcap", "transformers")


class EvaluationError(GLaMMError):
    """A folder that cannot be used for an evaluation."""


@dataclass(frozen=True)
class GenerationConfig:
    """How predictions are generated.

    Attributes:
        prompt: "original", "ours" or a template, as in `Benchmark.prompt_template`.
        max_tokens: longest answer.
        batch_size: rows of a batch.
        seed: of the prompt template.
    """

    prompt: str = "original"
    max_tokens: int = MAX_NEW_TOKENS
    batch_size: int = 8
    seed: int = 0


class EvaluationRun:
    """A benchmark on some data, in a folder.

    Args:
        benchmark: to be evaluated.
        data: to evaluate on.
        out: folder; new, or that of the same evaluation.
        generation: how predictions are generated.

    Raises:
        PromptTemplateError: the prompt cannot be used.
        EvaluationError: the folder has files of something else.
        ItemsError: the data cannot be used.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        data: EvaluationData,
        out: AnyPath,
        generation: GenerationConfig = GenerationConfig(),
    ):
        self.benchmark, self.data, self.out, self.generation = benchmark, data, out, generation
        prompt = benchmark.prompt_template(generation.prompt, generation.seed)
        if out.exists() and not (out / CONFIG).is_file() and (out.is_file() or _has_files(out)):
            raise EvaluationError(f"{out}: has files, but no evaluation; choose a new folder")
        self.item_set: ItemSet = open_items(benchmark, data, prompt)
        self.config: dict[str, Any] = {
            "benchmark": benchmark.name,
            "split": self.split,
            "data": {name: str(x) for name, x in asdict(data).items() if x is not None},
            "data_hash": self.item_set.hash,
            "items": len(self.item_set.items),
            "question": prompt.text,
            "seed": generation.seed,
            "versions": _versions(),
        }

    @property
    def split(self) -> str:
        """The split with the name of the data, as in the paper's tables."""
        return "/".join(filter(None, (self.item_set.name, self.data.split)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock on the folder: no other evaluation writes to it meanwhile.

        Every process of an evaluation has a lock of its own.

        Raises:
            FolderError: another evaluation holds it.
        """
        make_folder(self.out)
        try:
            with lock_path(self.out / f"{jax.process_index()}{LOCK_SUFFIX}", str(self.out)):
                yield
        finally:
            if isinstance(self.out, Path):
                with suppress(OSError):  # it has files
                    self.out.rmdir()

    def predict(self, assistant: Assistant, model: str = "") -> dict[str, Prediction]:
        """Predict all items that the folder does not have yet.

        Args:
            assistant: the model.
            model: its name, for config.json.

        Returns:
            All predictions by item id; none in processes other than the first.

        Raises:
            EvaluationError: the folder has predictions of another configuration.
        """
        generation = self.generation
        self._write_config(
            model=model,
            weights=fingerprint(assistant.generator.state),
            dtype=assistant.config.compute_dtype,
            preset=preset_of(assistant.config),
            sampling=SAMPLING,
            max_tokens=generation.max_tokens,
            batch_size=generation.batch_size,
            devices=1 if assistant.mesh is None else assistant.mesh.size,
            processes=jax.process_count(),
            platform=jax.devices()[0].device_kind,
        )
        predictions = predict_all(
            assistant,
            self.item_set.records,
            self.item_set.items,
            self.out,
            generation.batch_size,
            generation.max_tokens,
            run_id(self.config),
        )
        return {prediction.id: prediction for prediction in predictions}

    def read_predictions(self, path: AnyPath) -> ReadPredictions:
        """Read predictions that were made elsewhere, and copy them into the folder.

        Raises:
            EvaluationError: the folder has another evaluation.
            PredictionError: there are no predictions for the items at `path`.
        """
        result = read_predictions(path, self.item_set.items)
        if several_runs(prediction.run for prediction in result.predictions.values()):
            result.note("predictions of several evaluations", str(path))
        self._write_config(predictions=str(path), **{PRODUCED_BY: producer_of(path)})
        write_lines(self.out / PREDICTIONS, result.predictions.values())
        return result

    def finished_scores(self, scorers: TextScorers) -> RunScores | None:
        """Return the scores that the folder has, if these scorers would compute the same again.

        Args:
            scorers: of generated text.

        Raises:
            ScoresError: the file does not contain scores.
        """
        path = self.out / SCORES
        if not path.is_file():
            return None
        scores = load_scores(path)
        computed = {key for result in scores.modes.values() for key in result.scores}
        is_complete = (
            scores.data_hash == self.item_set.hash
            and scores.similarity == scorers.similarity.name
            and set(scorers.captions) <= computed
            and scores.counts.get("predictions") == len(self.item_set.items)
        )
        return scores if is_complete else None

    def score(
        self,
        predictions: Mapping[str, Prediction],
        scorers: TextScorers,
        problems: Mapping[str, Sequence[str]] = {},
    ) -> RunScores:
        """Score predictions in both modes; write scores, report, and the original's layout.

        Args:
            predictions: by item id.
            scorers: of generated text.
            problems: kind of a problem in reading the predictions -> ids.
        """
        items = self.item_set.items
        failed = tuple(x.id for x in predictions.values() if x.finish == FAILED)
        notes = {kind: tuple(where) for kind, where in problems.items()}
        notes |= {f"left out: {kind}": where for kind, where in self.item_set.notes.items()}
        notes |= {"failed prediction": failed} if failed else {}
        if self.benchmark.export is not None:
            left_out = self.benchmark.export(self.out / EXPORT, [*predictions.values()])
            notes |= {NOT_EXPORTED: tuple(left_out)} if left_out else {}
        modes: dict[Mode, MetricResult] = {
            mode: self.benchmark.score(items, predictions, mode, scorers)
            | MetricResult({}, notes=notes)
            for mode in MODES
        }
        scores = RunScores(
            self.benchmark.name,
            self.split,
            modes,
            self.item_set.hash,
            scorers.similarity.name,
            {"items": len(items), "predictions": len(predictions), "failed": len(failed)},
        )
        save_scores(self.out / SCORES, scores)
        write_report(
            self.out / REPORT,
            self.benchmark,
            self.config,
            items,
            [*predictions.values()],
            modes,
            image_loader(self.item_set.records),
        )
        return scores

    def _write_config(self, **fields: Any) -> None:
        """Write config.json, or check that the existing one is of the same evaluation."""
        self.config |= fields
        path = self.out / CONFIG
        if not path.is_file():
            if jax.process_index() == 0:
                write_atomic(path, json.dumps(self.config, indent=1) + "\n")
            return
        try:
            old = flatten_config(read_object(path).fields)
        except JSONError as error:
            raise EvaluationError(f"{path}: cannot be read: {error}") from error
        new = flatten_config(json.loads(json.dumps(self.config)))
        changes = [
            f"{name} was {before!r}, now {now!r}"
            for name, before, now in changed_fields(old, new, MUTABLE_FIELDS)
            if not (before is None and name in ADDED_FIELDS)
        ]
        if changes:
            raise EvaluationError(
                f"{self.out}: has another evaluation: {'; '.join(changes)}. Choose a new folder"
            )


def _has_files(folder: AnyPath) -> bool:
    return any(path.suffix != LOCK_SUFFIX and path.name != LOGS for path in folder.iterdir())


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
