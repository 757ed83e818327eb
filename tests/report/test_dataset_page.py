"""The page about records shows what training draws from them, and everything that is lost."""

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
from glamm_jax.data.conversation_sampler import NO_BOX, NOTHING, OVERLAPPING, draw_examples
from glamm_jax.data.record import Annotation, Link, Record, Region
from glamm_jax.data.record_shards import ShardError
from glamm_jax.miniworld import FULL, scene_record, render_scene
from glamm_jax.miniworld.annotations import encode_jpeg
from glamm_jax.report.dataset_page import (
    ASKED_TASKS,
    NO_MASKS,
    NO_PICTURE,
    TITLES,
    UNREADABLE,
    ConversationSampling,
    RecordCollection,
    page_of,
)
from glamm_jax.report.html_page import MAX_NAMED
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import BatchShape
from tests.small_experiment import TOKENIZER

MODEL = tiny(base_vocab_size=800)
ROOM = BatchShape(tokens=2000, targets=2000)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [scene_record(render_scene(0, i, 64, FULL)) for i in range(6)]


@pytest.fixture(scope="module")
def drawing() -> ConversationSampling:
    return ConversationSampling(load_tokenizer(TOKENIZER), MODEL, ROOM)


def _page(
    records: Sequence[Record],
    drawing: ConversationSampling,
    defects: dict[str, list[str]] | None = None,
    samples: int = 2,
    limit: int = 100,
) -> str:
    found = RecordCollection("somewhere, train", records, limit, defects or {})
    return page_of("somewhere", [found], samples, drawing).html()


def _of(*annotations: Annotation, regions: Sequence[Region] = ()) -> Record:
    picture = encode_jpeg(np.zeros((10, 10, 3), np.uint8))
    return Record(picture, "x", "s", "train", 10, 10, tuple(regions), annotations)


def _counted(text: str, kind: str) -> int:
    found = re.search(
        rf'<td>{re.escape(html.escape(kind))}</td><td class="number">([\d,]+)</td>', text
    )
    return int(found[1].replace(",", "")) if found else 0


def test_every_task_has_its_samples_as_training_draws_them(
    records: list[Record], drawing: ConversationSampling
) -> None:
    text = _page(records, drawing)
    for task in ASKED_TASKS:
        assert f">{TITLES[task]}</h3>" in text
    assert text.count("<article>") == 2 * len(ASKED_TASKS)
    words = re.sub(r"<[^>]*>", "", text)
    for example in draw_examples(records[0], ASKED_TASKS, ConversationConfig()).examples:
        for turn in example.turns:
            assert re.sub("<p> | </p>", "", turn).replace("<bbox>", "&lt;bbox&gt;") in words


def test_lengths_are_those_of_the_whole_prepared_conversation(
    drawing: ConversationSampling,
) -> None:
    one = _of(Annotation("vqa", turns=("Is it?", "A cat.", "Sure?", "Yes.")))
    examples = draw_examples(one, ("vqa",), ConversationConfig()).examples
    sample = encode.prepare(examples, drawing.tokenizer, MODEL, ROOM).sample
    assert sample is not None
    (row,) = sample.rows
    length = len(row.token_ids) + MODEL.clip.num_patches - 1
    learned = int((row.labels >= 0).sum())
    assert f"{length} tokens, {learned} learned<" in _page([one], drawing)
    assert f"always {length}" in _page([one], drawing)


def test_a_conversation_that_is_cut_says_so_and_one_that_is_dropped_is_not_shown(
    drawing: ConversationSampling,
) -> None:
    said = Annotation("caption", "It is black all over, up and down.")
    whole = drawing.tokenizer.encode(said.text, add_special=False)
    cut = replace(drawing, room=replace(ROOM, targets=len(whole) - 1))
    text = _page([_of(said)], cut)
    assert f"{len(whole) - 1} learned; {encode.TRUNCATED}<" in text
    assert _counted(text, f"caption: {encode.TRUNCATED}") == 1
    lost = _page([_of(said)], replace(drawing, room=replace(ROOM, tokens=20)))
    assert _counted(lost, f"caption: {encode.NO_ANSWER_LEFT}") == 1
    assert "<article>" not in lost


def test_a_task_that_nothing_is_said_for_has_no_heading_and_no_count(
    drawing: ConversationSampling,
) -> None:
    text = _page([_of(Annotation("caption", "Black.")), _of(Annotation("gcg", "Black."))], drawing)
    assert text.count("<article>") == 2
    assert f">{TITLES['vqa']}</h3>" not in text
    assert f"vqa: {NOTHING}" not in text
    assert _counted(text, f"caption: {NOTHING}") == 1


def test_what_drawing_leaves_out_is_counted_and_named(drawing: ConversationSampling) -> None:
    full = Region(mask=rle.encode(np.ones((10, 10), bool))["counts"].encode())
    said = (
        Annotation("gcg", "A dog runs.", (Link(0, 0, 5), Link(0, 2, 10))),
        Annotation("region", "dark", (Link(0),)),
        Annotation("vqa", turns=("Where is [SEG]?", "There.")),
    )
    text = _page([_of(*said, regions=[full])], drawing)
    for kind in (f"gcg: {OVERLAPPING}", f"region: {NO_BOX}", f"vqa: {encode.RESERVED}"):
        assert _counted(text, kind) == 1
        assert f"{html.escape(kind)}: where</summary><ul><li>x</li>" in text


def test_samples_are_spread_and_never_more_than_there_are(
    records: list[Record], drawing: ConversationSampling
) -> None:
    text = _page(records, drawing, samples=3)
    for one in records[::2]:
        assert f"{one.image_id} (64 x 64)" in text
    assert _page(records, drawing, samples=100).count("<article>") == 6 * len(ASKED_TASKS)


def test_what_was_dropped_is_named_by_kind(
    records: list[Record], drawing: ConversationSampling
) -> None:
    defects = {"bad box": ["image 3"], "bad span": [f"line {i}" for i in range(MAX_NAMED + 2)]}
    text = _page(records, drawing, defects)
    assert text.index("bad span</td>") < text.index("bad box</td>")
    assert "image 3" in text
    assert f"line {MAX_NAMED - 1}<" in text
    assert f"line {MAX_NAMED}<" not in text
    assert "and 2 more" in text
    assert "Nothing." in _page(records, drawing)


class _Damaged(list[Record]):
    """A source whose second record cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise ShardError("file 7 is cut")
        return super().__getitem__(index)


def test_what_cannot_be_read_is_counted_and_the_others_are_shown(
    records: list[Record], drawing: ConversationSampling
) -> None:
    cut = tuple(replace(region, mask=b"cut") for region in records[2].regions)
    broken = _Damaged(
        [
            replace(records[0], image=b"no picture"),
            records[1],
            replace(records[2], regions=cut),
            *records[3:],
        ]
    )
    text = _page(broken, drawing, samples=6)
    for kind, place in (
        (UNREADABLE, "file 7 is cut"),
        (NO_PICTURE, records[0].image_id),
        (NO_MASKS, records[2].image_id),
    ):
        assert _counted(text, kind) == 1
        assert f"{kind}: where</summary><ul><li>{place}" in text
    assert text.count("<article>") == 3 * len(ASKED_TASKS)


def test_a_part_of_a_collection_is_said_to_be_one(
    records: list[Record], drawing: ConversationSampling
) -> None:
    text = _page(records, drawing, limit=3, samples=9)
    assert "<b>6</b>pictures" in text
    assert "<b>3</b>pictures looked at" in text
    for i, one in enumerate(records):
        assert (f"{one.image_id} (64 x 64)" in text) == (i % 2 == 0)


def test_several_collections_begin_with_a_table_of_all(
    records: list[Record], drawing: ConversationSampling
) -> None:
    few = RecordCollection("few", records[:2], 9, {"bad box": ["here"]})
    plain = RecordCollection("plain", [_of(Annotation("caption", "Black."))], 9)
    text = page_of("all", [few, plain], 1, drawing).html()
    assert _counted(text, "few") == 2
    assert _counted(text, "plain") == 1
    assert "<td>plain</td>" not in _page(records, drawing)
