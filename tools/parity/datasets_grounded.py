"""Recorded items of GranD-f, of the referring datasets and of GranD, and our records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from glamm_jax.config.experiment import ConversationConfig
from glamm_jax.data.conversation_sampler import CountMask, sample_conversations
from glamm_jax.data.record import Annotation, Record
from glamm_jax.data.sources.grand_lmdb import GrandLMDB
from glamm_jax.data.sources.grandf import (
    GranDfFlickr30k,
    GranDfHumanAnnotated,
    GranDfOpenPSG,
    GranDfRefCOCOg,
)
from glamm_jax.data.sources.refcoco import RefCOCOSource
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.types import Example
from tools.parity.dataset_items import (
    NOT_IMAGES,
    OWN_QUESTIONS,
    DatasetCheck,
    Item,
    SourceWithImagePaths,
    compare_image,
    compare_masks,
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

# quirk 40: captions of RefCOCOg are lower-cased, phrases are not, and spans are cut unsorted.
BROKEN_ANSWER = "the original cuts phrases at wrong places; covered by a test"


def _check_grounded(
    recorded: RecordedFile, dataset: str, data: Path, *, source: type, split: str
) -> None:
    """Compare captions with phrases and masks."""
    reader: SourceWithImagePaths = source(data, split)
    lower = source is GranDfRefCOCOg
    for item in items_of(recorded, dataset):
        _, record = record_of(item, reader, data)
        compare_image(item, record)
        questions, answers = item.get("questions"), recorded_answers(item)
        item.exclude("questions", OWN_QUESTIONS)
        captions = [x for x in record.annotations if x.task == "gcg"]
        examples = [_example_of(caption, record) for caption in captions]
        by_answer = {example.turns[1]: example for example in examples}
        answer = next((x for x in answers if x in by_answer), next(iter(by_answer)))
        example_masks = by_answer[answer].masks
        masks = [] if example_masks is None else [*example_masks]
        texts = [caption.text for caption in captions]
        if lower and (parse_answer(answers[0]).problems or has_truncated_words(answers[0], texts)):
            # The masks are complete; their order follows the broken spans.
            for field in ("conversations", "sampled_classes"):
                item.exclude(field, BROKEN_ANSWER)
            masks = _in_recorded_order(item, masks)
        else:
            item.compare("conversations", rendered(questions, [answer]))
            _compare_names(item, [phrase.text for phrase in parse_answer(answer).phrases], lower)
        compare_masks(item, masks, record)
    records = [reader.read(key).record for key in reader.keys]
    captions = [x for record in records if record for x in record.annotations]
    recorded.compare(f"{dataset}.len", len(captions), "exact")


def has_truncated_words(answer: str, captions: Sequence[str]) -> bool:
    """Whether a recorded answer has pieces of words of one of our captions, and no other new words.

    Spans that are cut at wrong places may leave balanced tags, so that the answer parses without a
    problem, with a word cut in two or its end missing (quirk 40).

    Args:
        answer: recorded, with tags.
        captions: ours, of the same image.
    """
    recorded = _words(parse_answer(answer).text)
    for caption in captions:
        own = set(_words(caption))
        new = [word for word in recorded if word not in own]
        if new and all(any(x.startswith(word) or x.endswith(word) for x in own) for word in new):
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _example_of(caption: Annotation, record: Record) -> Example:
    """The training example of a record with this caption only."""
    single = replace(record, annotations=(caption,))
    return sample_conversations(single, ("gcg",), ConversationConfig()).examples[0]


def _in_recorded_order(item: Item, masks: Sequence[CountMask]) -> list[CountMask]:
    """Our masks in the recorded order; masks that were not recorded follow."""
    remaining = list(masks)
    ordered = []
    for key in recorded_counts(item):
        equal = [i for i, mask in enumerate(remaining) if counts_key(mask) == key]
        ordered += [remaining.pop(equal[0])] if equal else []
    return [*ordered, *remaining]


def _compare_names(item: Item, names: Sequence[str], lower: bool) -> None:
    """Compare phrases in their order, ignoring case where the caption is lower-cased."""
    if not lower:
        item.compare("sampled_classes", names)
        return
    recorded_names = [name.strip().lower() for name in item.get("sampled_classes")]
    item.require("sampled_classes", recorded_names == list(names), "ignoring case")


def _check_referring(
    recorded: RecordedFile, dataset: str, data: Path, *, folder: str, owner: str, split: str
) -> None:
    """Compare sampled expressions and their masks."""
    reader = RefCOCOSource(data, split, folder=folder, owner=owner)
    for item in items_of(recorded, dataset):
        _, record = record_of(item, reader, data)
        compare_segmentation(item, record, "referring")
    recorded.exclude(f"{dataset}.len", NOT_IMAGES)


def _check_regions(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """Compare captions of GranD's regions, in their sampled order."""
    reader = GrandLMDB(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, reader, data)
        compare_regions(item, record)
    recorded.exclude(f"{dataset}.len_error", "len() of the original fails; covered by a test")


def _check_failing(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """Datasets whose items all fail in the original (quirk 38); tests cover our records."""
    for item in items_of(recorded, dataset):
        item.exclude("error", "every item of the original fails; covered by a test")
    recorded.compare(f"{dataset}.len", len(GrandLMDB(data, "train").keys), "exact")


CHECKS: dict[str, DatasetCheck] = {
    "GCG_GranDf": partial(_check_grounded, source=GranDfHumanAnnotated, split="train"),
    "GCG_OpenPSG": partial(_check_grounded, source=GranDfOpenPSG, split="train"),
    "GCG_RefCOCOg": partial(_check_grounded, source=GranDfRefCOCOg, split="train"),
    "GCG_Flickr": partial(_check_grounded, source=GranDfFlickr30k, split="train"),
    "GCG_Flickr_val": partial(_check_grounded, source=GranDfFlickr30k, split="val"),
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
