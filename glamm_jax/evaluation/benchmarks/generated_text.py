"""Generated text: as the original cleans it, its metrics, its export as a list of captions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from glamm_jax.evaluation.benchmarks.base import Item, Prediction, Predictions, TextScorers
from glamm_jax.files import write_atomic
from glamm_jax.metrics.captions import CAPTION_METRICS, score_captions
from glamm_jax.metrics.phrase_matching import content_words
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath
from glamm_jax.text.answer_parser import last_answer, parse_answer, phrase_texts

# For `Benchmark.mode_differences`.
CAPTION_MODE_DIFFERENCES: dict[str, str] = dict.fromkeys(
    CAPTION_METRICS, "compat leaves a missing caption out; strict scores it as an empty one"
)

MAX_DIGITS = 1000  # of an id that is written as a number; Python converts at most 4300


def score_item_captions(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute the requested caption metrics.

    Args:
        items: items without reference texts are left out.
        predictions: by item id.
        mode: of counting.
        scorers: name the metrics.
    """
    if not scorers.captions:
        return MetricResult({})
    references = {item.id: item.reference_texts for item in items if item.reference_texts}
    texts = {name: x.text for name, x in predictions.items() if name in references}
    return score_captions(texts, references, scorers.captions, mode=mode)


def score_texts(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute the requested caption metrics, and the share of exact matches.

    A text is an exact match if it has the words of a reference text, apart from case, punctuation
    and leading articles.

    Args:
        items: to be scored.
        predictions: by item id.
        mode: of counting.
        scorers: name the caption metrics.
    """
    per_item = {}
    for item in items:
        prediction = predictions.get(item.id)
        references = [content_words(text) for text in item.reference_texts]
        is_exact = prediction is not None and content_words(prediction.text) in references
        per_item[item.id] = {"exact": float(is_exact)}
    values = [columns["exact"] for columns in per_item.values()]
    exact = MetricResult({"exact": float(np.mean(values))} if values else {}, per_item)
    return score_item_captions(items, predictions, mode, scorers) | exact


def clean_as_original(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
    """Return caption and phrases as the original's evaluation cleans them.

    A line break joins the words around it, as there.

    Source: eval/gcg/infer.py:73-91.
    """
    if not prediction.raw:
        return prediction.text, prediction.phrases
    raw = last_answer(prediction.raw)
    phrases = tuple(phrase_texts(raw))
    return parse_answer(raw, keep_spaces=True).text, phrases


def write_caption_list(path: AnyPath, predictions: Iterable[Prediction]) -> None:
    """Write a list of captions as `eval/region_captioning/infer.py` of the original does.

    An id that is a number is written as one, as it is in the annotations.
    """
    captions = []
    for prediction in predictions:
        name = prediction.image_id
        is_number = name.isascii() and name.isdecimal() and len(name) < MAX_DIGITS
        image_id = int(name) if is_number else name
        captions.append({"image_id": image_id, "caption": clean_as_original(prediction)[0]})
    write_atomic(path, json.dumps(captions, indent=2))
