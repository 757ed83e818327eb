"""The page about records shows what training samples from them, and everything that is lost."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.config import tiny
from glamm_jax.config.experiment import ConversationConfig
from glamm_jax.data import encode, rle
from glamm_jax.data.conversation_sampler import (
    NO_ANNOTATION,
    NO_BOX,
    OVERLAPPING,
    sample_conversations,
)
from glamm_jax.data.record import Annotation, Link, Record, Region
from glamm_jax.data.record_shards import ShardError
from glamm_jax.miniworld import FULL, render_scene, scene_record
from glamm_jax.miniworld.annotations import encode_jpeg
from glamm_jax.report.dataset_page import (
    CONVERSATION_TASKS,
    TITLES,
    UNREADABLE_IMAGE,
    UNREADABLE_MASK,
    UNREADABLE_RECORD,
    ConversationSampling,
    RecordCollection,
    build_dataset_page,
)
from glamm_jax.report.html_page import MAX_LISTED
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import BatchShape
from tests.small_experiment import TOKENIZER

MODEL = tiny(base_vocab_size=800)
BATCH_SHAPE = BatchShape(tokens=2000, targets=2000)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [scene_record(render_scene(0, i, 64, FULL)) for i in range(6)]


@pytest.fixture(scope="module")
def sampling() -> ConversationSampling:
    return ConversationSampling(load_tokenizer(TOKENIZER), MODEL, BATCH_SHAPE)


def _page(
    records: Sequence[Record],
    sampling: ConversationSampling,
    defects: dict[str, list[str]] | None = None,
    samples: int = 2,
    limit: int = 100,
) -> str:
    collection = RecordCollection("somewhere, train", records, limit, defects or {})
    return build_dataset_page("somewhere", [collection], samples, sampling).html()


def _of(*annotations: Annotation, regions: Sequence[Region] = ()) -> Record:
    image = encode_jpeg(np.zeros((10, 10, 3), np.uint8))
    return Record(image, "x", "s", "train", 10, 10, tuple(regions), annotations)


def _counted(text: str, kind: str) -> int:
    match = re.search(
        rf'<td>{re.escape(html.escape(kind))}</td><td class="number">([\d,]+)</td>', text
    )
    return int(match[1].replace(",", "")) if match else 0


def test_every_task_has_samples_as_in_training(
    records: list[Record], sampling: ConversationSampling
) -> None:
    text = _page(records, sampling)
    for task in CONVERSATION_TASKS:
        assert f">{TITLES[task]}</h3>" in text
    assert text.count("<article>") == 2 * len(CONVERSATION_TASKS)
    words = re.sub(r"<[^>]*>", "", text)
    for example in sample_conversations(
        records[0], CONVERSATION_TASKS, ConversationConfig()
    ).examples:
        for turn in example.turns:
            assert re.sub("<p> | </p>", "", turn).replace("<bbox>", "&lt;bbox&gt;") in words


def test_lengths_are_those_of_the_encoded_conversation(
    sampling: ConversationSampling,
) -> None:
    record = _of(Annotation("vqa", turns=("Is it?", "A cat.", "Sure?", "Yes.")))
    examples = sample_conversations(record, ("vqa",), ConversationConfig()).examples
    sample = encode.encode_examples(examples, sampling.tokenizer, MODEL, BATCH_SHAPE)[0]
    assert sample is not None
    (row,) = sample.conversations
    length = len(row.token_ids) + MODEL.clip.num_patches - 1
    num_targets = int((row.labels >= 0).sum())
    assert f"{length} tokens, {num_targets} targets<" in _page([record], sampling)
    assert f"always {length}" in _page([record], sampling)


def test_truncated_conversations_have_a_note_and_dropped_ones_are_not_shown(
    sampling: ConversationSampling,
) -> None:
    annotation = Annotation("caption", "It is black all over, up and down.")
    encoded = sampling.tokenizer.encode(annotation.text, add_special=False)
    cut = replace(sampling, batch_shape=replace(BATCH_SHAPE, targets=len(encoded) - 1))
    text = _page([_of(annotation)], cut)
    assert f"{len(encoded) - 1} targets; {encode.TRUNCATED}<" in text
    assert _counted(text, f"caption: {encode.TRUNCATED}") == 1
    lost = _page([_of(annotation)], replace(sampling, batch_shape=replace(BATCH_SHAPE, tokens=20)))
    assert _counted(lost, f"caption: {encode.NO_ANSWER_LEFT}") == 1
    assert "<article>" not in lost


def test_a_task_without_annotations_has_no_heading_and_no_count(
    sampling: ConversationSampling,
) -> None:
    text = _page([_of(Annotation("caption", "Black.")), _of(Annotation("gcg", "Black."))], sampling)
    assert text.count("<article>") == 2
    assert f">{TITLES['vqa']}</h3>" not in text
    assert f"vqa: {NO_ANNOTATION}" not in text
    assert _counted(text, f"caption: {NO_ANNOTATION}") == 1


def test_losses_of_sampling_are_counted_and_listed(sampling: ConversationSampling) -> None:
    full = Region(mask=rle.encode(np.ones((10, 10), bool))["counts"].encode())
    annotations = (
        Annotation("gcg", "A dog runs.", (Link(0, 0, 5), Link(0, 2, 10))),
        Annotation("region", "dark", (Link(0),)),
        Annotation("vqa", turns=("Where is [SEG]?", "There.")),
    )
    text = _page([_of(*annotations, regions=[full])], sampling)
    for kind in (f"gcg: {OVERLAPPING}", f"region: {NO_BOX}", f"vqa: {encode.RESERVED_TOKEN}"):
        assert _counted(text, kind) == 1
        assert f"{html.escape(kind)}: where</summary><ul><li>x</li>" in text


def test_samples_are_spread_and_never_more_than_there_are(
    records: list[Record], sampling: ConversationSampling
) -> None:
    text = _page(records, sampling, samples=3)
    for record in records[::2]:
        assert f"{record.image_id} (64 x 64)" in text
    assert _page(records, sampling, samples=100).count("<article>") == 6 * len(CONVERSATION_TASKS)


def test_defects_are_listed_by_kind(records: list[Record], sampling: ConversationSampling) -> None:
    defects = {"bad box": ["image 3"], "bad span": [f"line {i}" for i in range(MAX_LISTED + 2)]}
    text = _page(records, sampling, defects)
    assert text.index("bad span</td>") < text.index("bad box</td>")
    assert "image 3" in text
    assert f"line {MAX_LISTED - 1}<" in text
    assert f"line {MAX_LISTED}<" not in text
    assert "and 2 more" in text
    assert "None." in _page(records, sampling)


class _Damaged(list[Record]):
    """Records of which the second one cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise ShardError("file 7 is cut")
        return super().__getitem__(index)


def test_unreadable_records_are_counted_and_the_others_are_shown(
    records: list[Record], sampling: ConversationSampling
) -> None:
    cut = tuple(replace(region, mask=b"cut") for region in records[2].regions)
    broken = _Damaged(
        [
            replace(records[0], image=b"no image"),
            records[1],
            replace(records[2], regions=cut),
            *records[3:],
        ]
    )
    text = _page(broken, sampling, samples=6)
    for kind, place in (
        (UNREADABLE_RECORD, "file 7 is cut"),
        (UNREADABLE_IMAGE, records[0].image_id),
        (UNREADABLE_MASK, records[2].image_id),
    ):
        assert _counted(text, kind) == 1
        assert f"{kind}: where</summary><ul><li>{place}" in text
    assert text.count("<article>") == 3 * len(CONVERSATION_TASKS)


def test_the_number_of_examined_images_is_shown(
    records: list[Record], sampling: ConversationSampling
) -> None:
    text = _page(records, sampling, limit=3, samples=9)
    assert "<b>6</b>images" in text
    assert "<b>3</b>images examined" in text
    for i, record in enumerate(records):
        assert (f"{record.image_id} (64 x 64)" in text) == (i % 2 == 0)


def test_several_collections_begin_with_a_table_of_all(
    records: list[Record], sampling: ConversationSampling
) -> None:
    few = RecordCollection("few", records[:2], 9, {"bad box": ["here"]})
    plain = RecordCollection("plain", [_of(Annotation("caption", "Black."))], 9)
    text = build_dataset_page("all", [few, plain], 1, sampling).html()
    assert _counted(text, "few") == 2
    assert _counted(text, "plain") == 1
    assert "<td>plain</td>" not in _page(records, sampling)
