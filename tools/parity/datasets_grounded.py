"""Recorded items of GranD_f, of the referring sets and of GranD, against our records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from glamm_jax.config.experiment import ConversationConfig
from glamm_jax.data.conversation_sampler import Counts, draw_examples
from glamm_jax.data.record import Annotation, Record
from glamm_jax.data.sources.grand_lmdb import GrandDatabase
from glamm_jax.data.sources.grandf import Flickr30k, HumanAnnotated, OpenPSG, RefCOCOg
from glamm_jax.data.sources.refcoco import ReferSource
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.types import Example
from tools.parity.dataset_items import (
    NOT_PICTURES,
    OWN_QUESTIONS,
    DatasetCheck,
    Item,
    PicturedSource,
    compare_masks,
    compare_picture,
    compare_regions,
    compare_segmentation,
    counts_key,
    items_of,
    record_of,
    recorded_answers,
    recorded_counts,
    rendered,
)
from tools.parity.report import RecordedFile

BROKEN_ANSWER = "the original cuts phrases at the wrong places (trap 40); ours has a test"


def _check_grounded(
    recorded: RecordedFile, dataset: str, data: Path, *, source: type, split: str
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
        drawn = {each.turns[1]: each for each in (_drawn(x, record) for x in captions)}
        told = next((answer for answer in answers if answer in drawn), next(iter(drawn)))
        truth = drawn[told].masks
        masks = [] if truth is None else [*truth]
        if lower and parse_answer(answers[0]).problems:
            # The masks are whole; their order follows the broken spans.
            for field in ("conversations", "sampled_classes"):
                item.exclude(field, BROKEN_ANSWER)
            masks = _in_recorded_order(item, masks)
        else:
            item.compare("conversations", rendered(questions, [told]))
            _compare_names(item, [phrase.text for phrase in parse_answer(told).phrases], lower)
        compare_masks(item, masks, record)
    found = [ours.read(key).record for key in ours.keys]
    captions = [each for record in found if record for each in record.annotations]
    recorded.compare(f"{dataset}.len", len(captions), "exact")


def _drawn(caption: Annotation, record: Record) -> Example:
    """What training draws from a record that says this caption alone."""
    alone = replace(record, annotations=(caption,))
    return draw_examples(alone, ("gcg",), ConversationConfig()).examples[0]


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
    recorded: RecordedFile, dataset: str, data: Path, *, folder: str, owner: str, split: str
) -> None:
    """Expressions that were drawn, each with its mask."""
    ours = ReferSource(data, split, folder=folder, owner=owner)
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_segmentation(item, record, "referring")
    recorded.exclude(f"{dataset}.len", NOT_PICTURES)


def _check_regions(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """Descriptions of GranD's regions, in the order that was drawn."""
    ours = GrandDatabase(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_regions(item, record)
    recorded.exclude(f"{dataset}.len_error", "the original fails (trap 38); ours has a test")


def _check_failing(recorded: RecordedFile, dataset: str, data: Path) -> None:
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
