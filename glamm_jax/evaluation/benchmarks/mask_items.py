"""What benchmarks of masks share: items of expressions, teacher forcing, the union of an answer.

    item, *others = expression_items(record, 0, prompt)
    forced = teacher_forced("7/forced", [item, *others], [prompt.forced_answer] * (1 + len(others)))
    assert union_of_answer({}, item) is None

An answer to an expression may have several [SEG]s; the benchmarks that annotate one mask of all
objects of an expression compare it with the union of the answer's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.record import Record
from glamm_jax.evaluation.benchmarks.base import (
    FAILED,
    Item,
    Prediction,
    Predictions,
    PromptTemplate,
    RunLengths,
    annotations_of_task,
    union_mask,
)
from glamm_jax.metrics.result import MetricResult

FORCED_SUFFIX = "/forced"  # of the id of a teacher-forced item
# The prompt after the given answers of a teacher-forced item; the answer to it is unused.
CLOSING_PROMPT = "Is that all?"
FREE_PREFIX = "free "  # of the metrics of free-running items


def expression_items(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make a free-running item of every expression of a record.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the items.
    """
    for k, annotation in enumerate(annotations_of_task(record, "referring")):
        if all(record.regions[link.region].mask is not None for link in annotation.links):
            name = annotation.text.strip().lower()
            yield Item(
                f"{record.image_id}/{k}",
                record.image_id,
                index,
                prompt.format(name),
                reference_phrases=(name,),
                reference_masks=(union_mask(record, annotation.links),),
            )


def teacher_forced(name: str, items: Sequence[Item], answers: Sequence[str]) -> Item:
    """Return one item whose history has the questions of items with given answers.

    Args:
        name: id of the new item.
        items: about one image, each with one reference mask.
        answers: one for each item, with one [SEG].
    """
    ignored = tuple(mask for item in items for mask in item.ignored_masks or (None,))
    overlaps = tuple(mask for item in items for mask in item.reference_overlaps or (None,))
    return replace(
        items[0],
        id=name,
        prompt=CLOSING_PROMPT,
        history=tuple(zip((item.prompt for item in items), answers, strict=True)),
        reference_phrases=tuple(phrase for item in items for phrase in item.reference_phrases),
        reference_masks=tuple(mask for item in items for mask in item.reference_masks),
        reference_overlaps=overlaps if any(overlaps) else (),
        ignored_masks=ignored if any(ignored) else (),
        max_tokens=1,
    )


def has_answer(predictions: Predictions, item: Item) -> bool:
    """Return whether the model could be run on an item."""
    return item.id in predictions and predictions[item.id].finish != FAILED


def union_of_answer(predictions: Predictions, item: Item) -> RunLengths | None:
    """Return the union of the masks of an answer.

    Args:
        predictions: by item id.
        item: with a reference mask, whose size the masks should have.

    Returns:
        None where the answer has no mask; a mask of another size, if there is one, so that the
        metric reports it.
    """
    masks = predictions[item.id].masks if has_answer(predictions, item) else ()
    if not masks:
        return None
    size = [*item.reference_masks[0]["size"]]
    other = next((mask for mask in masks if [*mask["size"]] != size), None)
    if other is not None or len(masks) == 1:
        return other or masks[0]
    return rle.union(masks)


def collect_answers(
    predictions: Predictions,
    items: Sequence[Item],
    value: Callable[[Item], Any],
    unknown: Callable[[Prediction], Any] = lambda prediction: None,
) -> dict[str, Any]:
    """Return what a metric takes of each answer, by the id of its item.

    Args:
        predictions: by item id; one that failed is a missing one.
        items: to be scored.
        value: of the answer to an item.
        unknown: value of a prediction for no item, which the metric reports.
    """
    answers = {item.id: value(item) for item in items if has_answer(predictions, item)}
    ids = {item.id for item in items}
    return answers | {name: unknown(x) for name, x in predictions.items() if name not in ids}


def renamed(result: MetricResult, rename: Callable[[str], str]) -> MetricResult:
    """Return a result with other names of its metrics and columns.

    Args:
        result: of some of the items, as a rule.
        rename: from the old name of a metric or column to the new one.
    """
    return replace(
        result,
        scores={rename(name): value for name, value in result.scores.items()},
        per_item={
            item: {rename(name): value for name, value in columns.items()}
            for item, columns in result.per_item.items()
        },
        ratios={
            rename(name): (rename(numerator), rename(denominator))
            for name, (numerator, denominator) in result.ratios.items()
        },
    )


def free_running(result: MetricResult) -> MetricResult:
    """Return a result whose metrics are named as those of free-running items."""
    return renamed(result, FREE_PREFIX.__add__)


def of_group(result: MetricResult, group: str) -> MetricResult:
    """Return a result of some items, whose metrics are named after them: "gIoU, long"."""
    return renamed(result, lambda name: f"{name}, {group}")
