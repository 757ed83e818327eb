"""Validation on held-out examples during training, with the benchmarks of `glamm-jax eval`.

The metrics are named by benchmark and metric, in mode strict: `gcg/mIoU`, `gcg/phrase_recall`,
`refseg/free gIoU`, `region_caption/exact`. Benchmarks that the dataset has no annotations for are
left out. Of every image one item per benchmark is evaluated, with the prompts of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record_sources import RecordSource, open_records
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Benchmark, Item, Prediction, TextScorers
from glamm_jax.evaluation.predict import predict
from glamm_jax.inference.chat import Assistant
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import current_mesh
from glamm_jax.report.mask_overlay import ColouredText, MaskLayer, draw_overlay
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.training.loop import Validate, ValidationResult

VALIDATED = tuple(benchmark for benchmark in BENCHMARKS.values() if benchmark.in_validation)
MAX_BATCH_SIZE = 16
PANEL_GAP = 12  # pixels of white to the right of each side of a panel


class BenchmarkItem(NamedTuple):
    """An item and the benchmark that it belongs to."""

    benchmark: Benchmark
    item: Item


def make_validate(config: ExperimentConfig) -> Validate | None:
    """Return the validation that `config.validation` describes; None if it is disabled.

    Raises:
        ConfigError: the dataset cannot be used.
        TokenizerError: the tokenizer cannot be used.
    """
    validation = config.validation
    if not validation.is_enabled:
        return None
    records = open_records(validation.dataset, validation.split, config.data.seed)
    tokenizer = load_tokenizer(config.data.tokenizer, config.model.tokens)
    pairs = [*islice(_benchmark_items(records), validation.num_examples)]
    items = [pair.item for pair in pairs]

    def validate(model: GLaMM, step: int) -> ValidationResult:
        assistant = Assistant(model, tokenizer, current_mesh())
        batch_size = min(MAX_BATCH_SIZE, len(items))
        predictions = {
            prediction.id: prediction
            for prediction in predict(assistant, records, items, batch_size, validation.max_tokens)
        }
        panels = [
            draw_panel(open_image(records[item.record].image), item, predictions[item.id])
            for item in items[: validation.num_panels]
        ]
        return ValidationResult(score_items(pairs, predictions), panels)

    return validate


def _benchmark_items(records: RecordSource) -> Iterator[BenchmarkItem]:
    """Yield the first item of every benchmark, record by record, with ids unique among all."""
    for index in range(len(records)):
        for benchmark in VALIDATED:
            items = benchmark.items_from_record(
                records[index], index, benchmark.prompt_template("ours")
            )
            for item in islice(items, 1):
                yield BenchmarkItem(benchmark, replace(item, id=f"{benchmark.name} {item.id}"))


def score_items(
    pairs: Sequence[BenchmarkItem], predictions: Mapping[str, Prediction]
) -> dict[str, float]:
    """Return the metrics by "benchmark/metric"; texts are compared without Java."""
    metrics = {}
    for benchmark in VALIDATED:
        items = [pair.item for pair in pairs if pair.benchmark is benchmark]
        if items:
            own = {item.id: predictions[item.id] for item in items}
            result = benchmark.score(items, own, "strict", TextScorers())
            for metric, value in result.scores.items():
                metrics[f"{benchmark.name}/{metric}"] = value
    return metrics


def draw_panel(
    image: UInt8[np.ndarray, "h w 3"], item: Item, prediction: Prediction
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw prediction and reference side by side, masks in the colours of their phrases.

    Args:
        image: upright image of the item.
        item: with prompt and reference.
        prediction: for the item.
    """
    prompt = ColouredText(parse_answer(item.prompt).text)
    boxes = np.array(item.regions) if item.regions else None
    texts = (
        _labelled("Prediction: ", prediction.text, _prediction_layers(prediction)),
        _labelled("Reference: ", *_reference_layers(item)),
    )
    sides = [
        np.asarray(draw_overlay(image, [prompt, text], boxes).convert("RGB")) for text in texts
    ]
    height = max(side.shape[0] for side in sides)
    padded = [
        np.pad(side, ((0, height - len(side)), (0, PANEL_GAP), (0, 0)), constant_values=255)
        for side in sides
    ]
    return np.concatenate(padded, axis=1)


def _prediction_layers(prediction: Prediction) -> list[MaskLayer]:
    phrases = parse_answer(prediction.raw).phrases
    layers = []
    for mask, i in zip(prediction.masks, prediction.phrase_of, strict=True):
        name, start, end = "", 0, 0
        if i >= 0:
            name, start, end = prediction.phrases[i], phrases[i].start, phrases[i].end
        layers.append(MaskLayer(name, rle.decode(mask), start, end))
    return layers


def _reference_layers(item: Item) -> tuple[str, list[MaskLayer]]:
    """Return the reference text, or the list of phrases, with its layers."""
    text = item.reference_texts[0] if item.reference_texts else ", ".join(item.reference_phrases)
    layers, end = [], 0
    for phrase, mask in zip(item.reference_phrases, item.reference_masks, strict=True):
        start = text.index(phrase, end)
        end = start + len(phrase)
        layers.append(MaskLayer(phrase, rle.decode(mask), start, end))
    return text, layers


def _labelled(label: str, text: str, layers: Sequence[MaskLayer]) -> ColouredText:
    """Put a label in front of a text; a layer without words (start = end = 0) stays without."""
    moved = [
        replace(x, start=x.start + len(label), end=x.end + len(label)) if x.end else x
        for x in layers
    ]
    return ColouredText(label + text, moved)
