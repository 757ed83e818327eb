"""Evaluation on held-out scenes with the benchmarks of `glamm-jax eval`, greedy decoding.

Two controls show that a mask depends on the expression: every image is also evaluated with
expressions of other images, and with the expression of another object in the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from glamm_jax.data.record import Record
from glamm_jax.evaluation.benchmarks.base import Benchmark, Item, Prediction, TextScorers
from glamm_jax.evaluation.benchmarks.gcg import GCG
from glamm_jax.evaluation.benchmarks.refseg import REFSEG
from glamm_jax.evaluation.benchmarks.region_caption import REGION_CAPTION
from glamm_jax.evaluation.predict import predict
from glamm_jax.inference.chat import Assistant
from glamm_jax.metrics.phrase_matching import content_words
from glamm_jax.metrics.result import MetricResult
from glamm_jax.miniworld import Scene, World, render_scene, scene_record

TEST_SEED = 900_001  # of the held-out scenes; training renders from other seeds
MAX_TOKENS = 64  # of an answer
BATCH_SIZE = 50
SHUFFLE_DISTANCE = 7  # expressions; more than any image has
BENCHMARKS = (GCG, REFSEG, REGION_CAPTION)
FREE_GIOU = "free gIoU"  # with one mask per item it is the mean IoU

# Predicts items of records, as `glamm_jax.evaluation.predict.predict` does.
Predict = Callable[["SceneRecords", Sequence[Item]], Iterator[Prediction]]


class SceneRecords:
    """The records of some scenes, a `RecordSource`."""

    def __init__(self, scenes: Sequence[Scene]):
        self._records = [scene_record(scene, "test") for scene in scenes]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


@dataclass(frozen=True)
class LearnScores:
    """The metrics of an evaluation, all in 0 to 1.

    Attributes:
        num_scenes: number of images.
        metrics: referring_miou, mean IoU over expressions; shuffled_miou, with expressions of other
            images; swapped_miou, with the expression of another object of the image;
            phrase_precision, phrase_recall and phrase_mask_iou of grounded captions, as in
            `glamm_jax.metrics.phrase_matching`; region_exact, share of exact region captions.
        unseen: metrics of the items whose reference names a kind that training excludes.
    """

    num_scenes: int
    metrics: Mapping[str, float]
    unseen: Mapping[str, float]


@dataclass(frozen=True)
class LearnEvaluation:
    """Scores, and what they are computed from.

    Attributes:
        scores: the metrics.
        records: the images.
        items: by benchmark name, without those of the controls.
        predictions: by benchmark name and item id.
    """

    scores: LearnScores
    records: SceneRecords
    items: Mapping[str, Sequence[Item]]
    predictions: Mapping[str, Mapping[str, Prediction]] = field(repr=False)


def held_out_scenes(
    world: World, size: int, same_coloured: bool = False, seed: int = TEST_SEED
) -> Iterator[Scene]:
    """Render scenes that training does not see, one after another.

    Args:
        world: to render.
        size: width and height in pixels.
        same_coloured: only scenes in which two objects have the same colour.
        seed: of the scenes.
    """
    for scene_id in count():
        scene = render_scene(seed, scene_id, size, world)
        colours = [item.colour for item in scene.objects]
        if not same_coloured or len(set(colours)) < len(colours):
            yield scene


def predict_with(assistant: Assistant) -> Predict:
    """Return the function by which a model predicts items."""
    return lambda records, items: predict(assistant, records, items, BATCH_SIZE, MAX_TOKENS)


def evaluate(
    predict_items: Predict, scenes: Sequence[Scene], unseen_kinds: Sequence[Any] = ()
) -> LearnEvaluation:
    """Evaluate a model.

    Args:
        predict_items: as `predict_with` returns.
        scenes: to be evaluated.
        unseen_kinds: (colour, shape) pairs that training excludes; they are scored separately too.
    """
    records = SceneRecords(scenes)
    items = {benchmark.name: _items(benchmark, records) for benchmark in BENCHMARKS}
    expressions = items[REFSEG.name]
    controls = {
        "shuffled_miou": _with_prompts(expressions, _shuffled(expressions)),
        "swapped_miou": _with_prompts(expressions, _swapped(expressions)),
    }
    predictions = {
        name: {prediction.id: prediction for prediction in predict_items(records, group)}
        for name, group in {**items, **controls}.items()
    }
    results = {x.name: _score(x, items[x.name], predictions[x.name]) for x in BENCHMARKS}
    metrics = _metrics(results)
    for name, group in controls.items():
        metrics[name] = _score(REFSEG, group, predictions[name]).scores[FREE_GIOU]
    unseen = {
        x.name: _score(x, _naming(items[x.name], unseen_kinds), predictions[x.name])
        for x in BENCHMARKS
    }
    unseen_metrics = _metrics(unseen) if unseen_kinds else {}
    unseen_metrics.pop("phrase_precision", None)  # phrases of other kinds are no errors
    scores = LearnScores(len(scenes), metrics, unseen_metrics)
    return LearnEvaluation(scores, records, items, predictions)


def _items(benchmark: Benchmark, records: SceneRecords) -> list[Item]:
    """Make the items of a benchmark with the prompts of training; none is teacher-forced."""
    prompt = benchmark.prompt_template("ours")
    items = (
        item
        for index in range(len(records))
        for item in benchmark.items_from_record(records[index], index, prompt)
    )
    return [item for item in items if not item.history]


def _with_prompts(items: Sequence[Item], prompts: Sequence[str]) -> list[Item]:
    return [replace(item, prompt=prompt) for item, prompt in zip(items, prompts, strict=True)]


def _shuffled(items: Sequence[Item]) -> list[str]:
    prompts = [item.prompt for item in items]
    return prompts[SHUFFLE_DISTANCE:] + prompts[:SHUFFLE_DISTANCE]


def _swapped(items: Sequence[Item]) -> list[str]:
    """Return for each item the prompt of the next one of the same image."""
    by_image: dict[int, list[str]] = {}
    for item in items:
        by_image.setdefault(item.record, []).append(item.prompt)
    return [prompt for group in by_image.values() for prompt in (*group[1:], *group[:1])]


def _score(
    benchmark: Benchmark, items: Sequence[Item], predictions: Mapping[str, Prediction]
) -> MetricResult:
    own = {item.id: predictions[item.id] for item in items}
    return benchmark.score(items, own, "strict", TextScorers())


def _metrics(results: Mapping[str, MetricResult]) -> dict[str, float]:
    gcg, regions = results[GCG.name].scores, results[REGION_CAPTION.name].scores
    return {
        "referring_miou": results[REFSEG.name].scores.get(FREE_GIOU, 0.0),
        "phrase_precision": gcg["phrase_precision"],
        "phrase_recall": gcg["phrase_recall"],
        "phrase_mask_iou": gcg["phrase_mask_iou"],
        "region_exact": regions.get("exact", 0.0),
    }


def _naming(items: Sequence[Item], kinds: Sequence[Any]) -> list[Item]:
    """Return the items whose reference names one of the kinds, with only those phrases."""
    selected = []
    for item in items:
        if item.reference_phrases:
            indices = [i for i, x in enumerate(item.reference_phrases) if _names(x, kinds)]
            phrases = tuple(item.reference_phrases[i] for i in indices)
            masks = tuple(item.reference_masks[i] for i in indices)
            if indices:
                selected.append(replace(item, reference_phrases=phrases, reference_masks=masks))
        elif any(_names(text, kinds) for text in item.reference_texts):
            selected.append(item)
    return selected


def _names(text: str, kinds: Sequence[Any]) -> bool:
    words = content_words(text)
    return any({*kind} <= {*words} for kind in kinds)


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m examples.learn_miniworld")
