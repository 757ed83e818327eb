"""Comparison of recorded dataset items with records: images, sizes, masks and conversations.

An item is what a dataset class of the original returned for an index. The original samples its
questions from lists, and our lists differ: a recorded question is used as it is, and only the
object or region that it names is compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glamm_jax.data import preprocess, rle
from glamm_jax.data.boxes import to_unit
from glamm_jax.data.conversation_sampler import CountMask, decode_union
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

# Arguments: the recorded file, the name of the dataset in it, the data folder of the fixtures.
DatasetCheck = Callable[[RecordedFile, str, Path], None]

OWN_QUESTIONS = "the lists of questions differ"
NOT_IMAGES = "samples of an epoch, not images"
MAX_LABELS = 10  # quirk 42: region datasets limit the labels of a conversation
QUESTION = re.compile(r"USER: (.*?) ASSISTANT: ", re.DOTALL)
NAMES_REGION = f"every question names its region; {OWN_QUESTIONS}"
ANSWER = re.compile(r" ASSISTANT: (.*?)</s>", re.DOTALL)


@runtime_checkable
class SourceWithImagePaths(DatasetSource, Protocol):
    """A source that gives the path of the image of a key."""

    def image_path(self, key: str) -> Path | None:
        """Return the path of the image; None if there is no such file."""
        ...


class Item:
    """One recorded item: access to its fields by name.

    Every field must be compared or excluded, or it is reported as unknown.
    """

    def __init__(self, recorded: RecordedFile, prefix: str):
        self.recorded, self.prefix = recorded, prefix

    def __contains__(self, field: str) -> bool:
        return f"{self.prefix}.{field}" in self.recorded

    def get(self, field: str) -> Any:
        """Return the value of a field; this does not count as a comparison."""
        return self.recorded.get(f"{self.prefix}.{field}")

    def compare(self, field: str, actual: Any, kind: str = "exact", note: str = "") -> None:
        """Compare a field with our value."""
        self.recorded.compare(f"{self.prefix}.{field}", actual, kind, note)

    def require(self, field: str, is_equal: bool, note: str) -> None:
        """Compare a field by a condition that the caller has evaluated."""
        error = 0.0 if is_equal else 1.0
        self.recorded.record_error(f"{self.prefix}.{field}", error, "exact", note)

    def exclude(self, field: str, reason: str) -> None:
        """Exclude a field, or all fields below it, for a reason."""
        self.recorded.exclude(f"{self.prefix}.{field}", reason)
        self.recorded.exclude_prefix(f"{self.prefix}.{field}.", reason)


def items_of(recorded: RecordedFile, dataset: str) -> list[Item]:
    """Return the items of a dataset, and exclude index and seed: items are matched by image."""
    pattern = re.compile(rf"{re.escape(dataset)}\.items\[\d+\]")
    matches = (pattern.match(name) for name in recorded.names)
    items = [Item(recorded, prefix) for prefix in dict.fromkeys(m.group() for m in matches if m)]
    for item in items:
        item.exclude("index", "of the original's order")
        item.exclude("seed", "of the original's random numbers")
    return items


def record_of(item: Item, source: SourceWithImagePaths, data: Path) -> tuple[str, Record]:
    """Return the record of the image of an item, and its key; compares the path.

    Args:
        item: with `image_path`.
        source: of the record.
        data: the data folder.

    Raises:
        GoldenError: there is no such image, or no record of it.
    """
    path = item.get("image_path")
    key, record = record_at(path, item, source, data)
    item.compare("image_path", path, note="the record is looked up by it")
    return key, record


def record_at(
    path: str, item: Item, source: SourceWithImagePaths, data: Path
) -> tuple[str, Record]:
    """Return the record of the image with a path below the data folder, and its key.

    Args:
        path: of the image.
        item: for the message of the error.
        source: of the record.
        data: the data folder.

    Raises:
        GoldenError: there is no such image, or no record of it.
    """
    for key in source.keys:
        image_path = source.image_path(key)
        if image_path is not None and image_path.relative_to(data).as_posix() == path:
            record = source.read(key).record
            if record is not None:
                return key, record
    raise GoldenError(f"{item.prefix}: {source.name} has no record of {path!r}")


def compare_image(item: Item, record: Record) -> None:
    """Compare both preprocessed images by their shapes, means and standard deviations."""
    image = preprocess.open_image(record.image)
    shape = item.get("clip_shape")
    pixels = clip_pixels(image, int(shape[-1]))
    item.compare("clip_shape", pixels.transpose(2, 0, 1).shape)
    item.compare("clip_mean", pixels.mean(dtype=np.float64), "pixel_statistic")
    item.compare("clip_std", pixels.std(dtype=np.float64, ddof=1), "pixel_statistic")
    if "sam" in item:
        for field in ("sam", "resize"):
            item.compare(field, None, note="no image for the grounding encoder")
        return
    side = int(item.get("sam.shape")[-1])
    pixels = grounding_pixels(image, side)
    item.compare("sam.shape", pixels.transpose(2, 0, 1).shape)
    item.compare("sam.mean", pixels.mean(dtype=np.float64), "pixel_statistic")
    item.compare("sam.std", pixels.std(dtype=np.float64, ddof=1), "pixel_statistic")
    item.compare("resize", preprocess.grounding_size(record.height, record.width, side))


def recorded_counts(item: Item) -> list[tuple[Any, Any]]:
    """Return the run lengths of the pixels above 0, and the sum, of each recorded mask."""
    names = item.recorded.names_under(f"{item.prefix}.masks.rle_nonzero[")
    texts = [item.recorded.get(name) for name in names if name.endswith(".counts")]
    return list(zip(texts, item.get("masks.sum"), strict=True))


def counts_key(counts: CountMask) -> tuple[str, int]:
    """Return one of our masks in the form of `recorded_counts`."""
    return rle.encode(counts > 0)["counts"], int(counts.sum())


def compare_masks(item: Item, masks: Sequence[CountMask], record: Record) -> None:
    """Compare all masks in their order: number, size, every pixel, sum and maximum.

    Of the label tensor only the size is compared (quirk 21: the original uses only its shape).

    Args:
        item: with masks and labels.
        masks: ours.
        record: that they are from.
    """
    stack = np.array(masks, np.uint8).reshape(-1, record.height, record.width)
    item.compare("masks.shape", stack.shape)
    item.compare("masks.max", int(stack.max(initial=0)))
    item.compare("masks.sum", [int(counts.sum()) for counts in stack])
    for i in range(len(recorded_counts(item))):
        runs = rle.encode(stack[i] > 0) if i < len(stack) else {"size": None, "counts": None}
        item.compare(f"masks.rle_nonzero[{i}].size", runs["size"])
        item.compare(f"masks.rle_nonzero[{i}].counts", runs["counts"])
    item.exclude("masks.dtype", "our masks are run lengths")
    compare_absent(item, "bboxes")
    if "label.shape" in item:
        item.compare("label.shape", (record.height, record.width))
    for field in ("label.dtype", "label.unique"):
        item.exclude(field, "the original uses only the size of this tensor")


def compare_segmentation(item: Item, record: Record, task: Task) -> None:
    """Compare sampled expressions or classes, their questions, answers and masks.

    Args:
        item: of a segmentation dataset.
        record: of the same image.
        task: of the annotations to compare with.
    """
    compare_image(item, record)
    names = [name.strip().lower() for name in item.get("sampled_classes")]
    pairs = zip(names, recorded_counts(item), strict=True)
    masks = [_mask_of_name(record, task, name, key) for name, key in pairs]
    # quirk 41: the original strips and lower-cases sentences.
    item.require(
        "sampled_classes",
        all(mask is not None for mask in masks),
        "sampled from ours; stripped and lower-cased",
    )
    compare_masks(item, [mask for mask in masks if mask is not None], record)
    questions, answers = item.get("questions"), recorded_answers(item)
    named = len(questions) == len(names) and all(
        name in question for name, question in zip(names, questions, strict=True)
    )
    item.require("questions", named, f"every question names its class; {OWN_QUESTIONS}")
    expected = [answer if answer in SEGMENTATION_ANSWERS else "" for answer in answers]
    note = "answers sampled from ours"
    item.compare("conversations", rendered(questions, expected), note=note)


def _mask_of_name(record: Record, task: Task, name: str, key: tuple[Any, Any]) -> CountMask | None:
    """The mask of a name: that with this key if there are several, None if there is none."""
    candidates = [
        annotation
        for annotation in record.annotations
        if annotation.task == task and annotation.text.strip().lower() == name
    ]
    masks = np.zeros((len(candidates), record.height, record.width), np.uint8)
    for mask, annotation in zip(masks, candidates, strict=True):
        decode_union(record, annotation.links, mask)
    equal = [mask for mask in masks if counts_key(mask) == key]
    return next(iter([*equal, *masks]), None)


def compare_regions(item: Item, record: Record, opening: str | None = None) -> None:
    """Compare captions of regions in their sampled order; each question names its region.

    Args:
        item: of a region dataset.
        record: of the same image.
        opening: the text before the first question; None: our preamble.
    """
    compare_image(item, record)
    compare_sampled_regions(item, record)
    texts, questions = item.get("sampled_classes"), item.get("questions")
    item.require("questions", name_regions_in_order(questions, len(texts)), NAMES_REGION)
    item.compare("conversations", rendered(questions, texts, opening))


def compare_sampled_regions(item: Item, record: Record) -> None:
    """Compare the sampled boxes and captions; there are no masks."""
    texts = item.get("sampled_classes")
    captions = {annotation.text for annotation in _single_region_captions(record)}
    is_subset = len(texts) == min(len(item.get("bboxes")), MAX_LABELS) and set(texts) <= captions
    item.require("sampled_classes", is_subset, "sampled from ours")
    item.compare("bboxes", _sampled_boxes(item, record), "box")
    compare_absent(item, "masks", "label")


def name_regions_in_order(questions: Sequence[str], count: int) -> bool:
    """Return whether there are `count` questions that name the regions 1, 2, ... in order."""
    return len(questions) == count and all(
        name_regions(1).replace("1", str(i + 1)) in question for i, question in enumerate(questions)
    )


def _single_region_captions(record: Record) -> list[Annotation]:
    return [x for x in record.annotations if x.task == "region" and len(x.links) == 1]


def _sampled_boxes(item: Item, record: Record) -> np.ndarray:
    """Our boxes of the sampled captions; of equal captions the nearest box that is not yet used.

    The Flickr class gives boxes without a caption (quirk 42: it limits only the captions); these
    may be any of the other boxes.
    """
    unused = _single_region_captions(record)
    texts = item.get("sampled_classes")
    boxes = []
    for i, box in enumerate(item.get("bboxes")):
        candidates = {
            caption: _unit_box(record, caption)
            for caption in unused
            if i >= len(texts) or caption.text == texts[i]
        }
        if candidates:
            distances = {
                caption: float(np.abs(candidate - np.array(box)).max())
                for caption, candidate in candidates.items()
            }
            nearest = min(candidates, key=lambda caption: distances[caption])
            unused.remove(nearest)
            boxes.append(candidates[nearest])
    return np.array(boxes, np.float32)


def _unit_box(record: Record, annotation: Annotation) -> np.ndarray:
    box = np.array([record.regions[annotation.links[0].region].box_xyxy_pixel], np.float64)
    return to_unit(box, record.height, record.width)[0]


def compare_absent(item: Item, *fields: str) -> None:
    """Check that fields that a task does not have are null."""
    for field in fields:
        item.compare(field, None, note="none in this task")


def rendered(
    questions: Sequence[str], answers: Sequence[str], opening: str | None = None
) -> list[str]:
    """Return the conversation of these turns as recorded, before image tokens are inserted.

    Args:
        questions: turns of the user.
        answers: turns of the assistant.
        opening: the text before the first question; None: our preamble.
    """
    turns = [turn for pair in zip(questions, answers, strict=True) for turn in pair]
    if turns:
        preamble = with_preamble("").replace(IMAGE_TOKENS, IMAGE_PLACEHOLDER)
        turns[0] = (preamble if opening is None else opening) + turns[0]
    return [RELEASED_TEMPLATE.render(turns)]


def recorded_turns(item: Item) -> list[str]:
    """Return the user's turns of the only conversation of an item, with the preamble."""
    return [question for text in item.get("conversations") for question in QUESTION.findall(text)]


def recorded_answers(item: Item) -> list[str]:
    """Return the assistant's turns of the only conversation of an item."""
    return [answer for text in item.get("conversations") for answer in ANSWER.findall(text)]
