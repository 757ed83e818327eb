"""Recorded items of GranD_f, of the referring sets and of GranD, against our records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data.boxes import to_unit
from glamm_jax.data.record import Annotation, Record
from glamm_jax.data.sources.grand_lmdb import GrandDatabase
from glamm_jax.data.sources.grandf import Flickr30k, HumanAnnotated, OpenPSG, RefCOCOg
from glamm_jax.data.sources.refer import ReferSource
from glamm_jax.parity.dataset_items import (
    OWN_QUESTIONS,
    Counts,
    DatasetCheck,
    Item,
    PicturedSource,
    compare_masks,
    compare_picture,
    counts_key,
    counts_of,
    items_of,
    record_of,
    recorded_answers,
    recorded_counts,
    rendered,
)
from glamm_jax.parity.report import Recorded
from glamm_jax.text.answers import parse_answer
from glamm_jax.text.questions import SEGMENTATION_ANSWERS, name_regions
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

BROKEN_ANSWER = "the original cuts phrases at the wrong places (trap 40); ours has a test"


def _check_grounded(
    recorded: Recorded, dataset: str, data: Path, *, source: type, split: str
) -> None:
    """Captions with phrases and masks."""
    ours: PicturedSource = source(data, split)
    lower = source is RefCOCOg
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        questions, answers = item.get("questions"), recorded_answers(item)
        item.exclude("questions", OWN_QUESTIONS)
        captions = [each for each in record.annotations if each.task == "gcg"]
        tagged = {_tagged(each): each for each in captions}
        caption = next((tagged[answer] for answer in answers if answer in tagged), captions[0])
        masks = [counts for _, counts in _phrases(caption, record)]
        if lower and parse_answer(answers[0]).problems:
            # The masks are whole; their order follows the broken spans.
            for field in ("conversations", "sampled_classes"):
                item.exclude(field, BROKEN_ANSWER)
            masks = _in_recorded_order(item, masks)
        else:
            item.compare("conversations", rendered(questions, [_tagged(caption)]))
            names = [name for name, _ in _phrases(caption, record)]
            _compare_names(item, names, lower)
        compare_masks(item, masks, record)
    found = [ours.read(key).record for key in ours.keys]
    captions = [each for record in found if record for each in record.annotations]
    recorded.compare(f"{dataset}.len", len(captions), "exact")


def _tagged(caption: Annotation) -> str:
    """A caption with its phrases marked, each followed by its mask's token."""
    text, spans = caption.text, sorted({(link.start, link.end) for link in caption.links})
    for start, end in reversed(spans):
        phrase = f"{PHRASE_START} {text[start:end]} {PHRASE_END} {SEG}"
        text = text[:start] + phrase + text[end:]
    return text


def _phrases(caption: Annotation, record: Record) -> list[tuple[str, Counts]]:
    """Phrases in the order of the text, with what their masks count together."""
    spans = sorted({(link.start, link.end) for link in caption.links})
    phrases = []
    for start, end in spans:
        linked = [link.region for link in caption.links if (link.start, link.end) == (start, end)]
        regions = [record.regions[region] for region in linked]
        phrases.append((caption.text[start:end], counts_of(regions, record)))
    return phrases


def _in_recorded_order(item: Item, masks: Sequence[Counts]) -> list[Counts]:
    """Ours, arranged as recorded as far as they are the same; the rest behind."""
    left = list(masks)
    ordered = []
    for key in recorded_counts(item):
        same = [i for i, counts in enumerate(left) if counts_key(counts) == key]
        ordered += [left.pop(same[0])] if same else []
    return [*ordered, *left]


def _compare_names(item: Item, names: Sequence[str], lower: bool) -> None:
    """Phrases in their order; of RefCOCOg without case, which its caption does not have."""
    if not lower:
        item.compare("sampled_classes", names)
        return
    given = [name.strip().lower() for name in item.get("sampled_classes")]
    item.require("sampled_classes", given == list(names), "without case, as the caption")


def _check_referring(
    recorded: Recorded, dataset: str, data: Path, *, folder: str, owner: str, split: str
) -> None:
    """Expressions that were drawn, each with its mask."""
    ours = ReferSource(data, split, folder=folder, owner=owner)
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        expressions = [name.strip().lower() for name in item.get("sampled_classes")]
        pairs = zip(expressions, recorded_counts(item), strict=True)
        found = [_expression(record, text, key) for text, key in pairs]
        item.require(
            "sampled_classes",
            all(counts is not None for counts in found),
            "drawn from ours; stripped and lower-cased, as it is asked for (trap 41)",
        )
        masks = [counts for counts in found if counts is not None]
        compare_masks(item, masks, record)
        questions, answers = item.get("questions"), recorded_answers(item)
        named = len(questions) == len(expressions) and all(
            text in question for text, question in zip(expressions, questions, strict=True)
        )
        item.require("questions", named, f"each names its expression; {OWN_QUESTIONS}")
        known = [answer if answer in SEGMENTATION_ANSWERS else "" for answer in answers]
        item.compare("conversations", rendered(questions, known), note="answers drawn from ours")
    recorded.exclude(f"{dataset}.len", "samples of an epoch, not pictures")


def _expression(record: Record, text: str, key: tuple[Any, Any]) -> Counts | None:
    """What the mask of an expression counts; of several with this text the one that is meant."""
    masks = [
        counts_of([record.regions[link.region] for link in each.links], record)
        for each in record.annotations
        if each.task == "referring" and each.text == text
    ]
    same = [counts for counts in masks if counts_key(counts) == key]
    return next(iter([*same, *masks]), None)


def _check_regions(recorded: Recorded, dataset: str, data: Path) -> None:
    """Descriptions of GranD's regions, in the order that was drawn."""
    ours = GrandDatabase(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        texts, questions = item.get("sampled_classes"), item.get("questions")
        boxes = _drawn_boxes(item, record)
        described = {each.text for each in record.annotations if each.task == "region"}
        item.require("sampled_classes", set(texts) <= described, "drawn from ours")
        item.compare("bboxes", boxes, "box")
        named = len(questions) == len(texts) and all(
            name_regions(1).replace("1", str(i + 1)) in question
            for i, question in enumerate(questions)
        )
        item.require("questions", named, f"each names its region; {OWN_QUESTIONS}")
        item.compare("conversations", rendered(questions, texts))
        item.exclude("masks", "none in this task")
        item.exclude("label", "none in this task")
    recorded.exclude(f"{dataset}.len_error", "the original fails (trap 38); ours has a test")


def _drawn_boxes(item: Item, record: Record) -> np.ndarray:
    """Our boxes of the texts that were drawn; of equal texts the nearest box not yet taken."""
    left = [each for each in record.annotations if each.task == "region"]
    boxes = []
    for text, box in zip(item.get("sampled_classes"), item.get("bboxes"), strict=True):
        same = [each for each in left if each.text == text]
        ours = {each: _unit_box(record, each) for each in same}
        if ours:
            nearest = min(ours, key=lambda each: float(np.abs(ours[each] - np.array(box)).max()))
            left.remove(nearest)
            boxes.append(ours[nearest])
    return np.array(boxes, np.float32)


def _unit_box(record: Record, annotation: Annotation) -> np.ndarray:
    box = np.array([record.regions[annotation.links[0].region].box_xyxy_pixel], np.float64)
    return to_unit(box, record.height, record.width)[0]


def _check_failing(recorded: Recorded, dataset: str, data: Path) -> None:
    """Datasets whose items all fail in the original; what ours gives instead has tests."""
    for item in items_of(recorded, dataset):
        item.exclude("error", "the original fails (trap 38); ours has a test")
    recorded.compare(f"{dataset}.len", len(GrandDatabase(data, "train").keys), "exact")


CHECKS: dict[str, DatasetCheck] = {
    "GCG_GranDf": partial(_check_grounded, source=HumanAnnotated, split="train"),
    "GCG_OpenPSG": partial(_check_grounded, source=OpenPSG, split="train"),
    "GCG_RefCOCOg": partial(_check_grounded, source=RefCOCOg, split="train"),
    "GCG_Flickr": partial(_check_grounded, source=Flickr30k, split="train"),
    "GCG_Flickr_val": partial(_check_grounded, source=Flickr30k, split="val"),
    **{
        f"ReferSegm_{name}": partial(_check_referring, folder=folder, owner=owner, split=split)
        for name, folder, owner, split in (
            ("refcoco", "refcoco", "unc", "train"),
            ("refcoco+", "refcoco+", "unc", "train"),
            ("refcocog", "refcocog", "umd", "train"),
            ("refclef", "refclef", "unc", "train"),
            ("refcoco_val", "refcoco", "unc", "val"),
        )
    },
    "GrandRefer_Reg": _check_regions,
    "GrandRefer_Segm": _check_failing,
    "GrandShortCaption": _check_failing,
}
