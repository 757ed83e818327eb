"""What all checks of recorded dataset items share: pictures, sizes, masks, conversations.

An item is what a dataset class of the original returned for an index; our side of it is a record.
Questions are drawn from lists, and ours are other lists: a recorded question is taken as it is, and
what it asks about is compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glamm_jax.data import preprocess, rle
from glamm_jax.data.boxes import to_unit
from glamm_jax.data.conversation_sampler import Counts, count_pixels
from glamm_jax.data.record import Annotation, DatasetSource, Record, Task
from glamm_jax.text.chat_template import RELEASED_TEMPLATE
from glamm_jax.text.questions import (
    IMAGE_TOKENS,
    SEGMENTATION_ANSWERS,
    name_regions,
    with_preamble,
)
from glamm_jax.text.special_tokens import IMAGE_PLACEHOLDER
from tools.parity.preprocessing import clip_pixels, grounding_pixels
from tools.parity.report import GoldenError, RecordedFile

# Checks one recorded dataset: its file, its name there, and the data folder of the fixtures.
DatasetCheck = Callable[[RecordedFile, str, Path], None]

OWN_QUESTIONS = "questions are our own"
NOT_PICTURES = "samples of an epoch, not pictures"
MAX_LABELS = 10  # of one conversation about regions (trap 42)
QUESTION = re.compile(r"USER: (.*?) ASSISTANT: ", re.DOTALL)
NAMES_REGION = f"each names its region; {OWN_QUESTIONS}"
ANSWER = re.compile(r" ASSISTANT: (.*?)</s>", re.DOTALL)


@runtime_checkable
class PicturedSource(DatasetSource, Protocol):
    """A source that knows where the picture of a key lies."""

    def image_path(self, key: str) -> Path | None:
        """The picture's file."""
        ...


class Item:
    """One recorded item, by its fields."""

    def __init__(self, recorded: RecordedFile, prefix: str):
        self.recorded, self.prefix = recorded, prefix

    def __contains__(self, field: str) -> bool:
        return f"{self.prefix}.{field}" in self.recorded

    def get(self, field: str) -> Any:
        """A field's value; it is not settled by that."""
        return self.recorded.get(f"{self.prefix}.{field}")

    def compare(self, field: str, actual: Any, kind: str = "exact", note: str = "") -> None:
        """Settle a field by comparing it with ours."""
        self.recorded.compare(f"{self.prefix}.{field}", actual, kind, note)

    def require(self, field: str, holds: bool, note: str) -> None:
        """Settle a field by a condition on it that the check has looked at."""
        self.recorded.record_error(f"{self.prefix}.{field}", 0.0 if holds else 1.0, "exact", note)

    def exclude(self, field: str, reason: str) -> None:
        """Settle a field, or all fields under it, without comparing."""
        self.recorded.exclude(f"{self.prefix}.{field}", reason)
        self.recorded.exclude_prefix(f"{self.prefix}.{field}.", reason)


def items_of(recorded: RecordedFile, dataset: str) -> list[Item]:
    """The items of a dataset, their index and seed settled: ours are found by the picture."""
    pattern = re.compile(rf"{re.escape(dataset)}\.items\[\d+\]")
    found = (pattern.match(name) for name in recorded.names)
    items = [Item(recorded, prefix) for prefix in dict.fromkeys(m.group() for m in found if m)]
    for item in items:
        item.exclude("index", "the original's order, and its random draws")
        item.exclude("seed", "of the original's random draws")
    return items


def record_of(item: Item, source: PicturedSource, data: Path) -> tuple[str, Record]:
    """The record of an item's picture, and its key; settles the path.

    Raises: GoldenError when there is no such picture, or no record of it.
    """
    path = item.get("image_path")
    found = record_at(path, item, source, data)
    item.compare("image_path", path, note="found by it")
    return found


def record_at(path: str, item: Item, source: PicturedSource, data: Path) -> tuple[str, Record]:
    """The record of the picture at a path from the data folder, and its key.

    Raises: GoldenError when there is no such picture, or no record of it.
    """
    for key in source.keys:
        ours = source.image_path(key)
        if ours is not None and ours.relative_to(data).as_posix() == path:
            record = source.read(key).record
            if record is not None:
                return key, record
    raise GoldenError(f"{item.prefix}: {source.name} has no record of {path!r}")


def compare_picture(item: Item, record: Record) -> None:
    """Both preprocessed pictures, by their sizes, means and deviations."""
    image = preprocess.open_image(record.image)
    shape = item.get("clip_shape")
    pixels = clip_pixels(image, int(shape[-1]))
    item.compare("clip_shape", pixels.transpose(2, 0, 1).shape)
    item.compare("clip_mean", pixels.mean(dtype=np.float64), "pixel_statistic")
    item.compare("clip_std", pixels.std(dtype=np.float64, ddof=1), "pixel_statistic")
    if "sam" in item:
        for field in ("sam", "resize"):
            item.compare(field, None, note="no picture for the grounding encoder")
        return
    side = int(item.get("sam.shape")[-1])
    pixels = grounding_pixels(image, side)
    item.compare("sam.shape", pixels.transpose(2, 0, 1).shape)
    item.compare("sam.mean", pixels.mean(dtype=np.float64), "pixel_statistic")
    item.compare("sam.std", pixels.std(dtype=np.float64, ddof=1), "pixel_statistic")
    item.compare("resize", preprocess.grounding_size(record.height, record.width, side))


def recorded_counts(item: Item) -> list[tuple[Any, Any]]:
    """Run lengths of all pixels above 0, and sum, of each recorded mask."""
    names = item.recorded.names_under(f"{item.prefix}.masks.rle_nonzero[")
    texts = [item.recorded.get(name) for name in names if name.endswith(".counts")]
    return list(zip(texts, item.get("masks.sum"), strict=True))


def counts_key(counts: Counts) -> tuple[str, int]:
    """What `recorded_counts` says of a mask, of ours."""
    return rle.encode(counts > 0)["counts"], int(counts.sum())


def compare_masks(item: Item, ours: Sequence[Counts], record: Record) -> None:
    """All masks in their order: number, size, every pixel, sum and maximum.

    The tensor beside them is there for its size alone (trap 21).
    """
    stack = np.array(ours, np.uint8).reshape(-1, record.height, record.width)
    item.compare("masks.shape", stack.shape)
    item.compare("masks.max", int(stack.max(initial=0)))
    item.compare("masks.sum", [int(counts.sum()) for counts in stack])
    for i in range(len(recorded_counts(item))):
        runs = rle.encode(stack[i] > 0) if i < len(stack) else {"size": None, "counts": None}
        item.compare(f"masks.rle_nonzero[{i}].size", runs["size"])
        item.compare(f"masks.rle_nonzero[{i}].counts", runs["counts"])
    item.exclude("masks.dtype", "ours are run lengths")
    compare_absent(item, "bboxes")
    if "label.shape" in item:
        item.compare("label.shape", (record.height, record.width))
    for field in ("label.dtype", "label.unique"):
        item.exclude(field, "only the size of this tensor is used (trap 21)")


def compare_segmentation(item: Item, record: Record, task: Task) -> None:
    """Expressions or classes that were drawn, each asked for and answered with its mask."""
    compare_picture(item, record)
    names = [name.strip().lower() for name in item.get("sampled_classes")]
    pairs = zip(names, recorded_counts(item), strict=True)
    found = [_drawn(record, task, name, key) for name, key in pairs]
    item.require(
        "sampled_classes",
        all(counts is not None for counts in found),
        "drawn from ours; stripped and lower-cased, as it is asked for (trap 41)",
    )
    compare_masks(item, [counts for counts in found if counts is not None], record)
    questions, answers = item.get("questions"), recorded_answers(item)
    named = len(questions) == len(names) and all(
        name in question for name, question in zip(names, questions, strict=True)
    )
    item.require("questions", named, f"each names what it asks for; {OWN_QUESTIONS}")
    known = [answer if answer in SEGMENTATION_ANSWERS else "" for answer in answers]
    item.compare("conversations", rendered(questions, known), note="answers drawn from ours")


def _drawn(record: Record, task: Task, name: str, key: tuple[Any, Any]) -> Counts | None:
    """What the mask of a name counts; of several with this name the one that is meant."""
    meant = [
        each
        for each in record.annotations
        if each.task == task and each.text.strip().lower() == name
    ]
    masks = np.zeros((len(meant), record.height, record.width), np.uint8)
    for counts, each in zip(masks, meant, strict=True):
        count_pixels(record, each.links, counts)
    same = [counts for counts in masks if counts_key(counts) == key]
    return next(iter([*same, *masks]), None)


def compare_regions(item: Item, record: Record, opening: str | None = None) -> None:
    """Descriptions of regions in the order that was drawn, each asked for by its number.

    opening: what stands before the first question, where that is not our preamble.
    """
    compare_picture(item, record)
    compare_drawn_regions(item, record)
    texts, questions = item.get("sampled_classes"), item.get("questions")
    item.require("questions", name_one_each(questions, len(texts)), NAMES_REGION)
    item.compare("conversations", rendered(questions, texts, opening))


def compare_drawn_regions(item: Item, record: Record) -> None:
    """Boxes and descriptions that were drawn; there are no masks."""
    texts = item.get("sampled_classes")
    described = {each.text for each in _one_region_each(record)}
    fits = len(texts) == min(len(item.get("bboxes")), MAX_LABELS) and set(texts) <= described
    item.require("sampled_classes", fits, "drawn from ours")
    item.compare("bboxes", _drawn_boxes(item, record), "box")
    compare_absent(item, "masks", "label")


def name_one_each(questions: Sequence[str], count: int) -> bool:
    """Whether there are so many questions, each naming the region of its number."""
    return len(questions) == count and all(
        name_regions(1).replace("1", str(i + 1)) in question for i, question in enumerate(questions)
    )


def _one_region_each(record: Record) -> list[Annotation]:
    return [each for each in record.annotations if each.task == "region" and len(each.links) == 1]


def _drawn_boxes(item: Item, record: Record) -> np.ndarray:
    """Our boxes of the texts that were drawn; of equal texts the nearest box not yet taken.

    The Flickr class leaves boxes without a text (trap 42); they are any of the others.
    """
    left = _one_region_each(record)
    texts = item.get("sampled_classes")
    boxes = []
    for i, box in enumerate(item.get("bboxes")):
        same = [each for each in left if i >= len(texts) or each.text == texts[i]]
        ours = {each: _unit_box(record, each) for each in same}
        if ours:
            nearest = min(ours, key=lambda each: float(np.abs(ours[each] - np.array(box)).max()))
            left.remove(nearest)
            boxes.append(ours[nearest])
    return np.array(boxes, np.float32)


def _unit_box(record: Record, annotation: Annotation) -> np.ndarray:
    box = np.array([record.regions[annotation.links[0].region].box_xyxy_pixel], np.float64)
    return to_unit(box, record.height, record.width)[0]


def compare_absent(item: Item, *fields: str) -> None:
    """Fields that a task does not have are null."""
    for field in fields:
        item.compare(field, None, note="none in this task")


def rendered(
    questions: Sequence[str], answers: Sequence[str], opening: str | None = None
) -> list[str]:
    """The conversation of these turns as the original records it: the image not yet marked.

    opening: what stands before the first question instead of our preamble.
    """
    turns = [turn for pair in zip(questions, answers, strict=True) for turn in pair]
    if turns:
        preamble = with_preamble("").replace(IMAGE_TOKENS, IMAGE_PLACEHOLDER)
        turns[0] = (preamble if opening is None else opening) + turns[0]
    return [RELEASED_TEMPLATE.render(turns)]


def recorded_turns(item: Item) -> list[str]:
    """The user's turns of an item's only conversation, preamble and all."""
    return [question for text in item.get("conversations") for question in QUESTION.findall(text)]


def recorded_answers(item: Item) -> list[str]:
    """The assistant's turns of an item's only conversation."""
    return [answer for text in item.get("conversations") for answer in ANSWER.findall(text)]
