"""Answers: phrases with their positions and masks, whatever a model writes; JSON and overlay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.inference.answer import (
    Answer,
    GroundedText,
    ScoredMask,
    attach_masks,
    attach_masks_to_turns,
)
from glamm_jax.report.mask_overlay import PALETTE

HEIGHT, WIDTH = 6, 9


def mask(number: int) -> ScoredMask:
    """A mask that identifies its number: the left half of row `number`."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[number, : WIDTH // 2] = True
    return ScoredMask(rle.encode(pixels), number / 10)


def masks(count: int) -> list[ScoredMask]:
    return [mask(number) for number in range(count)]


def which(text: GroundedText) -> list[tuple[str, int | None]]:
    """Each phrase and the number of its mask."""
    rows = [None if g.mask is None else int(g.mask.any(1).argmax()) for g in text.groundings]
    return [(g.phrase, row) for g, row in zip(text.groundings, rows, strict=True)]


def answer(raw: str, count: int, question: str = "What?", num_prompt_masks: int = 0) -> Answer:
    grounded, problems = attach_masks(raw, masks(num_prompt_masks + count)[num_prompt_masks:])
    return Answer(
        grounded.raw,
        grounded.text,
        grounded.groundings,
        question=attach_masks(question, masks(num_prompt_masks))[0],
        history=(),
        image=np.full((HEIGHT, WIDTH, 3), 200, np.uint8),
        regions=np.array([[1.0, 1, 4, 3]]),
        finish="end",
        problems=problems,
    )


def test_phrases_stand_at_their_places_with_their_masks_and_scores() -> None:
    text, problems = attach_masks("<p> A dog </p> [SEG] on <p> the grass </p> [SEG].", masks(2))
    assert text.text == "A dog on the grass."
    assert [text.text[g.start : g.end] for g in text.groundings] == ["A dog", "the grass"]
    assert which(text) == [("A dog", 0), ("the grass", 1)]
    assert [g.score for g in text.groundings] == [0.0, 0.1]
    assert problems == ()


@pytest.mark.parametrize(
    ("raw", "count", "expected", "problem"),
    [
        ("<p> a </p> b", 0, [("a", None)], "phrase 0 'a' has no [SEG]"),
        ("<p> a </p> b [SEG] c", 1, [("a", None), ("", 0)], "[SEG] 0 belongs to no phrase"),
        ("<p> a [SEG] b", 1, [("", 0)], "<p> at 0 is never closed"),
        ("a </p> [SEG]", 1, [("", 0)], "</p> at 2 has no <p> before it"),
        ("<p> a </p> [SEG] [SEG]", 2, [("a", 0), ("a", 1)], "phrase 0 'a' has 2 [SEG]"),
        ("<p> </p> [SEG]", 1, [("", 0)], "phrase 0 is empty"),
        ("[SEG] <p> a </p> [SEG]", 2, [("", 0), ("a", 1)], "[SEG] 0 belongs to no phrase"),
        ("<p> a </p> [SEG]", 0, [("a", None)], "the answer has 1 [SEG] and 0 masks"),
    ],
)
def test_what_is_malformed_is_read_as_far_as_it_goes_and_reported(
    raw: str, count: int, expected: list, problem: str
) -> None:
    text, problems = attach_masks(raw, masks(count))
    assert which(text) == expected
    assert problem in problems


@given(
    st.lists(st.sampled_from(["<p>", "</p>", "[SEG]", "a", " ", "b <", "'", "\n"])).map("".join),
    st.integers(0, 4),
)
def test_nothing_that_a_model_writes_fails(raw: str, count: int) -> None:
    text, _ = attach_masks(raw, masks(count))
    assert len([g for g in text.groundings if g.mask is not None]) <= count
    assert all(0 <= g.start <= g.end <= len(text.text) for g in text.groundings)


def test_every_turn_takes_the_masks_of_its_own_segs() -> None:
    turns = ["Where is <p> a </p> [SEG]?", "Here.", "<p> b </p> [SEG] [SEG]", "And [SEG]?"]
    grounded = [text for text, _ in attach_masks_to_turns(turns, masks(4))]
    assert [which(text) for text in grounded] == [
        [("a", 0)],
        [],
        [("b", 1), ("b", 2)],
        [("", 3)],
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools sets shapes in place
def test_json_gives_the_masks_back_through_pycocotools(tmp_path: Path) -> None:
    result = answer("<p> a </p> [SEG] <p> b </p>", 1, "<p> q </p> [SEG]", num_prompt_masks=1)
    result.save(tmp_path / "new" / "answer.json")
    read = json.loads((tmp_path / "new" / "answer.json").read_text("utf-8"))
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["answer.json"]
    [first, second] = read["groundings"]
    decoded = coco.decode(first["mask"])
    np.testing.assert_array_equal(decoded, rle.decode(mask(1).runs))
    assert (first["phrase"], first["start"], first["end"], first["score"]) == ("a", 0, 1, 0.1)
    assert (first["area"], first["box_xyxy_pixel"]) == (4, [0, 1, 4, 2])
    assert (second["phrase"], second["mask"], second["area"]) == ("b", None, 0)
    assert read["prompt_groundings"][0]["phrase"] == "q"
    assert (read["image_size"], read["regions_xyxy_pixel"]) == ([6, 9], [[1.0, 1.0, 4.0, 3.0]])
    assert (read["question"], read["text"], read["finish"]) == ("q", "a b", "end")
    assert read["problems"] == ["phrase 1 'b' has no [SEG]"]


def test_an_empty_mask_has_no_box() -> None:
    empty = ScoredMask(rle.encode(np.zeros((HEIGHT, WIDTH), bool)), 0.5)
    shown = attach_masks("<p> a </p> [SEG]", [empty])[0].groundings[0].to_json()
    assert (shown["area"], shown["box_xyxy_pixel"], shown["score"]) == (0, None, 0.5)


def test_a_phrase_has_one_colour_and_colours_go_on_from_question_to_answer() -> None:
    result = answer("<p> a </p> [SEG] [SEG] and [SEG]", 3, "<p> q </p> [SEG]", num_prompt_masks=1)
    assert [layer.phrase for layer in result.coloured_text().layers] == ["a", "[SEG] 3"]
    np.testing.assert_array_equal(
        result.coloured_text().layers[0].mask, rle.decode(mask(1).runs) | rle.decode(mask(2).runs)
    )
    picture = np.asarray(result.overlay())
    below = picture[480 * HEIGHT // WIDTH :]
    shown = [bool((below == colour).all(-1).any()) for colour in PALETTE[:4]]
    assert shown == [True, True, True, False]


def test_the_picture_is_written_as_png(tmp_path: Path) -> None:
    answer("Yes.", 0).save_overlay(tmp_path / "answer.png")
    with Image.open(tmp_path / "answer.png") as picture:
        assert picture.format == "PNG"
    assert [entry.name for entry in tmp_path.iterdir()] == ["answer.png"]


def test_a_turn_carries_the_words_as_the_model_saw_them() -> None:
    assert answer("<p> a </p> [SEG]", 1).turn == ("What?", "<p> a </p> [SEG]")
