"""The look at held-out examples during a run: greedy answers against the truth.

  referring_miou    mean IoU of the masks of expressions
  phrases_right     of grounded captions: the smaller of recall and precision of their phrases
  phrase_mask_iou   mean IoU over all true phrases, 0 where one is not named
  regions_right     descriptions of regions that are word for word the true ones

A score is there where the dataset has something for its task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from glamm_jax.data.boxes import to_pixel
from glamm_jax.data.record_source import open_records
from glamm_jax.data.tasks import draw_examples
from glamm_jax.experiment import AskedTask, Asking, ExperimentConfig
from glamm_jax.inference.answer import Answer
from glamm_jax.inference.chat import Assistant, Question
from glamm_jax.metrics.iou import mean_iou
from glamm_jax.metrics.phrases import score_phrases, sum_scores, words
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import current_mesh
from glamm_jax.report.paint import Layer, Passage, paint
from glamm_jax.text.answers import parse_answer
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.training.loop import Evaluate, Evaluation
from glamm_jax.types import Example

TASKS: tuple[AskedTask, ...] = ("gcg", "referring", "region")
ASKING = Asking(max_turns=1, max_regions=1)


class _Asked(NamedTuple):
    example: Example
    answer: Answer


def make_evaluate(config: ExperimentConfig) -> Evaluate | None:
    """What looks at the examples that `config.evaluation` names; None where it never does.

    Raises: ConfigError or TokenizerError when they or the tokenizer cannot be used.
    """
    look = config.evaluation
    if not look.every:
        return None
    source = open_records(look.dataset, look.split, config.data)
    tokenizer = load_tokenizer(config.data.tokenizer, config.model.tokens)
    records = (source[i] for i in range(len(source)))
    drawn = (draw_examples(record, TASKS, ASKING, config.data.seed).examples for record in records)
    examples = list(islice((each for some in drawn for each in some), look.examples))

    def evaluate(model: GLaMM, step: int) -> Evaluation:
        assistant = Assistant(model, tokenizer, current_mesh())
        questions = [_question(example, look.max_tokens) for example in examples]
        answers = assistant.chat_many(questions)
        asked = [_Asked(*each) for each in zip(examples, answers, strict=True)]
        panels = [panel(each.example, each.answer) for each in asked[: look.panels]]
        return Evaluation(dict(_scores(asked)), panels)

    return evaluate


def _question(example: Example, max_tokens: int) -> Question:
    regions = _boxes_xyxy_pixel(example)
    return Question(
        example.image, example.turns[0], () if regions is None else regions, max_tokens=max_tokens
    )


def _boxes_xyxy_pixel(example: Example) -> np.ndarray | None:
    boxes = example.boxes_xyxy_unit
    return None if boxes is None else to_pixel(boxes, *example.image.shape[:2])


def _scores(asked: Sequence[_Asked]) -> Iterator[tuple[str, float]]:
    by_task = {task: [each for each in asked if each.example.task == task] for task in TASKS}
    if referring := by_task["referring"]:
        yield "referring_miou", mean_iou((_only_mask(a), _masks(e)[0]) for e, a in referring)
    if captions := by_task["gcg"]:
        scores = sum_scores([score_phrases(_said(a), _true(e)) for e, a in captions])
        yield "phrases_right", scores.phrases_right
        yield "phrase_mask_iou", scores.mask_iou
    if regions := by_task["region"]:
        right = [words(a.text) == words(parse_answer(e.turns[1]).text) for e, a in regions]
        yield "regions_right", float(np.mean(right))


def _only_mask(answer: Answer) -> np.ndarray | None:
    """The mask of an answer to one expression."""
    return next((each.mask for each in answer.groundings if each.mask is not None), None)


def _said(answer: Answer) -> list[tuple[str, np.ndarray | None]]:
    return [(each.phrase, each.mask) for each in answer.groundings if each.phrase]


def _true(example: Example) -> list[tuple[str, np.ndarray]]:
    phrases = parse_answer(example.turns[1]).phrases
    masks = _masks(example)
    return [(phrase.text, masks[seg]) for phrase in phrases for seg in phrase.segs[:1]]


def _masks(example: Example) -> Sequence[np.ndarray]:
    return () if example.masks is None else example.masks


def panel(example: Example, answer: Answer) -> UInt8[np.ndarray, "h w 3"]:
    """What was answered beside what is true, each with its masks in the colours of its words."""
    truth = parse_answer(example.turns[1])
    places = {seg: (each.start, each.end) for each in truth.phrases for seg in each.segs}
    true = [Layer("", mask != 0, *places.get(i, (0, 0))) for i, mask in enumerate(_masks(example))]
    said = [
        Layer(each.phrase, each.mask, each.start, each.end)
        for each in answer.groundings
        if each.mask is not None
    ]
    asked = Passage(parse_answer(example.turns[0]).text)
    told = (_spoken("Answer: ", answer.text, said), _spoken("Truth: ", truth.text, true))
    boxes = _boxes_xyxy_pixel(example)
    sides = [paint(example.image, [asked, passage], boxes) for passage in told]
    return _beside([np.asarray(side.convert("RGB")) for side in sides])


def _spoken(who: str, text: str, layers: Sequence[Layer]) -> Passage:
    """Words with who says them in front; a layer without words has its place nowhere."""
    moved = [
        replace(each, start=each.start + len(who), end=each.end + len(who)) if each.end else each
        for each in layers
    ]
    return Passage(who + text, moved)


def _beside(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in a row, on white."""
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(p, ((0, height - len(p)), (0, 12), (0, 0)), constant_values=255) for p in pictures
    ]
    return np.concatenate(padded, axis=1)
