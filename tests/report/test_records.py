"""The page about records shows every task and everything that was dropped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.data.miniworld import FULL, record, scene
from glamm_jax.data.miniworld.annotations import jpeg
from glamm_jax.data.record import TASKS, Annotation, Link, Record, Region
from glamm_jax.report.records import MAX_NAMED, MAX_SHOWN, WHAT_IS_SAID, Collection, page_of
from glamm_jax.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record(scene(0, i, 64, FULL)) for i in range(6)]


def _page(records: list[Record], defects: dict[str, list[str]] | None = None, samples: int = 2):
    found = Collection("somewhere, train", records, len(records), defects or {})
    return page_of("somewhere", [found], samples).html()


def test_every_task_has_its_samples(records: list[Record]) -> None:
    text = _page(records)
    for task in TASKS:
        assert f">{WHAT_IS_SAID[task]}</h3>" in text
    assert text.count("<article>") == 2 * len(TASKS)
    for said in records[0].annotations:
        if said.task in ("caption", "vqa"):
            for line in (said.text, *said.turns):
                assert line in text


def test_a_task_that_nothing_is_said_for_has_no_heading(records: list[Record]) -> None:
    plain = [replace(one, annotations=(Annotation("caption", "x"),)) for one in records]
    text = _page(plain)
    assert text.count("<article>") == 2
    assert f">{WHAT_IS_SAID['gcg']}</h3>" not in text


def test_samples_are_spread_and_never_more_than_there_are(records: list[Record]) -> None:
    text = _page(records, samples=3)
    for one in records[::2]:
        assert f"{one.image_id} (64 x 64)" in text
    assert _page(records, samples=100).count("<article>") == 6 * len(TASKS)


def test_regions_have_one_colour_in_all_texts_of_a_card() -> None:
    one = Record(
        image=jpeg(np.zeros((10, 10, 3), np.uint8)),
        image_id="x",
        source="s",
        split="train",
        height=10,
        width=10,
        regions=(Region((0, 0, 5, 5)), Region((5, 5, 9, 9))),
        annotations=(
            Annotation("referring", "a dog", (Link(1),)),
            Annotation("referring", "a cat", (Link(0),)),
            Annotation("referring", "the animal on the right", (Link(1),)),
        ),
    )
    text = _page([one])
    marks = re.findall(r'<mark style="--c:#(\w+)">', text)
    assert marks == ["e69f00", "56b4e9", "e69f00"]
    assert text.count("<rect") >= 2  # boxes, where there are no masks


def test_what_is_not_shown_is_counted(records: list[Record]) -> None:
    said = tuple(Annotation("caption", f"caption {i}") for i in range(MAX_SHOWN + 3))
    text = _page([replace(records[0], annotations=said)])
    assert f"<p>caption {MAX_SHOWN - 1} <small>" in text
    assert f"<p>caption {MAX_SHOWN} " not in text
    assert "and 3 more" in text


def test_what_was_dropped_is_named_by_kind(records: list[Record]) -> None:
    defects = {"bad box": ["image 3"], "bad span": [f"line {i}" for i in range(MAX_NAMED + 2)]}
    text = _page(records, defects)
    assert text.index("bad span</td>") < text.index("bad box</td>")
    assert "image 3" in text
    assert f"line {MAX_NAMED - 1}<" in text
    assert f"line {MAX_NAMED}<" not in text
    assert "and 2 more" in text
    assert "Nothing." in _page(records)


def test_with_a_tokenizer_lengths_are_tokens(records: list[Record], goldens: Path) -> None:
    tokenizer = load_tokenizer(goldens / "tokenizer")
    found = Collection("somewhere", records[:1], 1)
    text = page_of("somewhere", [found], 1, tokenizer).html()
    dense = records[0].annotations[0].text
    assert f"{len(tokenizer.encode(dense, add_special=False))} tokens" in text
    assert "words" not in text
    assert f"{len(dense.split())} words" in _page(records[:1])


def test_a_picture_that_cannot_be_read_costs_its_own_card_only(records: list[Record]) -> None:
    cut = tuple(replace(region, mask=b"cut") for region in records[1].regions)
    broken = [
        replace(records[0], image=b"no picture"),
        replace(records[1], regions=cut),
        *records[2:],
    ]
    text = _page(broken, samples=6)
    with_masks = 3  # of the tasks
    assert text.count("cannot be shown") == len(TASKS) + with_masks
    assert text.count("<article>") == 6 * len(TASKS)


def test_a_part_of_a_collection_is_said_to_be_one(records: list[Record]) -> None:
    text = page_of("x", [Collection("x", records, 1000)], 1).html()
    assert "<b>1,000</b>pictures" in text
    assert "<b>6</b>pictures looked at" in text
