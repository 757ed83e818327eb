"""LLaVA-Bench is read from its files, and reviews are worth sums over sums."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from glamm_jax.evaluation.judge import Case, Review
from glamm_jax.evaluation.llava_bench import BenchError, read_cases, score_reviews

CASES = [
    Case(f"{i}", category, "?", "a tower", "reference", answer)
    for i, (category, answer) in enumerate(
        [("conv", "x"), ("conv", "x"), ("detail", ""), ("complex", "x")]
    )
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "questions.jsonl": [
            {"question_id": 0, "image": "001.jpg", "text": "What?", "category": "conv"},
            {"question_id": 1, "image": "001.jpg", "text": "Why?", "category": "complex"},
        ],
        "context.jsonl": [{"id": "001", "image": "001.jpg", "caption": ["A tower.", "At night."]}],
        "answers_gpt4.jsonl": [
            {"question_id": 1, "text": "For this."},
            {"question_id": 0, "text": "That."},
        ],
    }
    for name, lines in files.items():
        text = "\n".join(map(json.dumps, lines)) + "\n\n"
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def _reviews(*texts: str) -> list[Review]:
    return [Review(case.id, text) for case, text in zip(CASES, texts, strict=True)]


def test_questions_meet_their_answers_and_descriptions(folder: Path) -> None:
    first, second = read_cases(folder, {"0": "This."})
    assert first == Case("0", "conv", "What?", "A tower.\nAt night.", "That.", "This.")
    assert (second.reference, second.answer) == ("For this.", "")


@pytest.mark.parametrize("name", ["questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"])
def test_a_missing_or_broken_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text('{"image":\n', "utf-8")
    with pytest.raises(BenchError, match=f"{name}: line 1 is no JSON"):
        read_cases(folder, {})
    (folder / name).unlink()
    with pytest.raises(BenchError, match=f"{name}: no such file"):
        read_cases(folder, {})


@pytest.mark.parametrize("name", ["context.jsonl", "answers_gpt4.jsonl"])
def test_a_question_without_its_counterpart_is_an_error(folder: Path, name: str) -> None:
    (folder / name).write_text("", "utf-8")
    with pytest.raises(BenchError, match=r"do not fit together: no '(001\.jpg|0)'"):
        read_cases(folder, {})


def test_a_score_is_the_sum_of_ours_over_the_sum_of_the_references() -> None:
    scored = score_reviews(CASES, _reviews("10 5", "5 5", "8 4", "8 10"), "compat")
    assert scored.scores == {
        "relative score": 24 / 31,
        "conv": 10 / 15,
        "detail": 4 / 8,
        "complex": 10 / 8,
    }
    above, below = scored.ratios["conv"]
    assert [row.get(above) for row in scored.each.values()] == [5, 5, None, None]
    assert [row.get(below) for row in scored.each.values()] == [10, 5, None, None]
    assert scored.notes == {"missing prediction": ("2",)}


def test_malformed_reviews_count_against_both_in_compat_and_are_left_out_in_strict() -> None:
    reviews = _reviews("10 5", "I cannot say.", "8 4", "11 10")
    compat, strict = (score_reviews(CASES, reviews, mode) for mode in ("compat", "strict"))
    assert compat.scores["relative score"] == (5 - 1 + 4 + 10) / (10 - 1 + 8 + 11)
    assert strict.scores["relative score"] == (5 + 4) / (10 + 8)
    assert math.isnan(strict.scores["complex"])
    for scored in (compat, strict):
        assert scored.notes["malformed review"] == ("1",)
        assert scored.notes["score out of range"] == ("3",)


def test_no_question_is_no_number() -> None:
    assert math.isnan(score_reviews([], [], "strict").scores["relative score"])
