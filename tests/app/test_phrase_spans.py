"""Phrases that overlap become pieces that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.app.phrase_spans import Piece, pieces


def test_a_text_without_phrases_is_one_piece() -> None:
    assert pieces("A dog", []) == [Piece("A dog", None)]
    assert pieces("", []) == []


def test_a_phrase_inside_of_another_stays_visible() -> None:
    assert pieces("A red dog.", [(0, 9), (2, 5)]) == [
        Piece("A ", 0, True),
        Piece("red", 1, True),
        Piece(" dog", 0, False),
        Piece(".", None),
    ]


def test_phrases_that_overlap_share_no_character() -> None:
    assert pieces("a b c", [(0, 3), (2, 5)]) == [
        Piece("a ", 0, True),
        Piece("b", 0, False),
        Piece(" c", 1, True),
    ]


def test_equal_phrases_are_shown_once() -> None:
    assert pieces("dog", [(0, 3), (0, 3)]) == [Piece("dog", 0, True)]


def test_a_phrase_of_no_characters_has_its_place() -> None:
    assert pieces("It is.", [(5, 5), (6, 6)]) == [
        Piece("It is", None),
        Piece("", 0, True),
        Piece(".", None),
        Piece("", 1, True),
    ]
    assert pieces("", [(0, 0)]) == [Piece("", 0, True)]


@pytest.mark.parametrize("span", [(2, 1), (-5, 0), (9, 12)])
def test_spans_outside_do_not_change_the_text(span: tuple[int, int]) -> None:
    assert "".join(piece.text for piece in pieces("A dog", [span])) == "A dog"


@given(st.text(max_size=20), st.lists(st.tuples(st.integers(-3, 25), st.integers(-3, 25))))
def test_the_pieces_are_the_text(text: str, spans: list[tuple[int, int]]) -> None:
    result = pieces(text, spans)
    assert "".join(piece.text for piece in result) == text
    assert all(piece.text or piece.phrase is not None for piece in result)
    firsts = [piece.phrase for piece in result if piece.is_first]
    assert len(firsts) == len(set(firsts))
