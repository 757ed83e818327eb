"""The look at held-out examples during a run, by the benchmarks that `python -m eval` runs.

A score is called after its benchmark and its figure, both of mode strict: `gcg/mIoU`, `gcg/recall`,
`gcg/phrases_right`, `refseg/free gIoU`, `region_caption/exact`. It is there where the dataset has
something for its benchmark. Of every picture one item of each is asked, in the words of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record_sources import RecordSource, open_records
from glamm_jax.evaluation.benchmarks import BENCHMARKS, Benchmark
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.predict import predict
from glamm_jax.evaluation.scoring import TextScorers
from glamm_jax.inference.chat import Assistant
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import current_mesh
from glamm_jax.report.mask_overlay import ColouredText, MaskLayer, draw_overlay
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.training.loop import Validate, ValidationResult

LOOKED_AT = tuple(BENCHMARKS[name] for name in ("gcg", "refseg", "region_caption"))
ROWS = 16  # of a batch


class Asked(NamedTuple):
    """An item and the benchmark that it belongs to."""

    benchmark: Benchmark
    item: Item


def make_validate(config: ExperimentConfig) -> Validate | None:
    """What looks at the examples that `config.evaluation` names; None where it never does.

    Raises: ConfigError or TokenizerError when they or the tokenizer cannot be used.
    """
    look = config.validation
    if not look.every:
        return None
    records = open_records(look.dataset, look.split, config.data.seed)
    tokenizer = load_tokenizer(config.data.tokenizer, config.model.tokens)
    asked = [*islice(_asked(records), look.num_examples)]

    def evaluate(model: GLaMM, step: int) -> ValidationResult:
        assistant = Assistant(model, tokenizer, current_mesh())
        items = [each.item for each in asked]
        told = predict(assistant, records, items, min(ROWS, len(items)), look.max_tokens)
        said = {prediction.id: prediction for prediction in told}
        shown = (each.item for each in asked[: look.num_panels])
        panels = [panel(open_image(records[x.record].image), x, said[x.id]) for x in shown]
        return ValidationResult(dict(scores(asked, said)), panels)

    return evaluate


def _asked(records: RecordSource) -> Iterator[Asked]:
    """Record by record the first item of every benchmark; ids are its own among all."""
    for number in range(len(records)):
        for benchmark in LOOKED_AT:
            made = benchmark.from_record(records[number], number, benchmark.wording("ours"))
            for item in islice(made, 1):
                yield Asked(benchmark, replace(item, id=f"{benchmark.name} {item.id}"))


def scores(asked: Sequence[Asked], said: dict[str, Prediction]) -> Iterator[tuple[str, float]]:
    """Figures by benchmark; texts are compared without Java."""
    for benchmark in LOOKED_AT:
        items = [each.item for each in asked if each.benchmark is benchmark]
        own = {item.id: said[item.id] for item in items}
        if items:
            for figure, value in benchmark.score(
                items, own, "strict", TextScorers()
            ).scores.items():
                yield f"{benchmark.name}/{figure}", value


def panel(
    image: UInt8[np.ndarray, "h w 3"], item: Item, said: Prediction
) -> UInt8[np.ndarray, "h w 3"]:
    """What was answered beside what is true, each with its masks in the colours of its words."""
    asked = ColouredText(parse_answer(item.prompt).text)
    boxes = np.array(item.regions) if item.regions else None
    told = (_spoken("Answer: ", *_said(said)), _spoken("Truth: ", *_true(item)))
    sides = [draw_overlay(image, [asked, passage], boxes) for passage in told]
    return _beside([np.asarray(side.convert("RGB")) for side in sides])


def _said(said: Prediction) -> tuple[str, list[MaskLayer]]:
    phrases = parse_answer(said.raw).phrases
    layers = []
    for mask, owner in zip(said.masks, said.phrase_of, strict=True):
        place = (phrases[owner].start, phrases[owner].end) if owner >= 0 else (0, 0)
        layers.append(
            MaskLayer(said.phrases[owner] if owner >= 0 else "", rle.decode(mask), *place)
        )
    return said.text, layers


def _true(item: Item) -> tuple[str, list[MaskLayer]]:
    text = item.reference_texts[0] if item.reference_texts else ", ".join(item.reference_phrases)
    layers, end = [], 0
    for phrase, mask in zip(item.reference_phrases, item.reference_masks, strict=True):
        start = text.index(phrase, end)
        end = start + len(phrase)
        layers.append(MaskLayer(phrase, rle.decode(mask), start, end))
    return text, layers


def _spoken(who: str, text: str, layers: Sequence[MaskLayer]) -> ColouredText:
    """Words with who says them in front; a layer without words has its place nowhere."""
    moved = [
        replace(each, start=each.start + len(who), end=each.end + len(who)) if each.end else each
        for each in layers
    ]
    return ColouredText(who + text, moved)


def _beside(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in a row, on white."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(p, ((0, height - len(p)), (0, 12), (0, 0)), constant_values=255) for p in pictures
    ]
    return np.concatenate(padded, axis=1)
