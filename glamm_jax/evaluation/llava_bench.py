"""LLaVA-Bench (in the wild): its files, and what the reviews of a judge are worth.

cases = read_cases(folder, {"0": "It is Tokyo Tower.", ...})     question id -> our answer
score_reviews(cases, review_all(cases, judge, path), "compat").scores["relative score"]

questions.jsonl      {"question_id": 0, "image": "001.jpg", "text": "...", "category": "conv"}
context.jsonl        {"image": "001.jpg", "caption": "..."}
answers_gpt4.jsonl   {"question_id": 0, "text": "..."}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.evaluation.judge import Case, Review
from glamm_jax.metrics.scored import Mode, Scored

QUESTIONS, CONTEXT, REFERENCES = "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"
RELATIVE = "relative score"
MALFORMED, OUT_OF_RANGE, UNANSWERED = "malformed review", "score out of range", "missing prediction"
LOWEST, HIGHEST = 1, 10
FAILED = (-1.0, -1.0)  # what LLaVA's own script takes for the scores of a malformed review


class BenchError(ValueError):
    """A folder is not LLaVA-Bench. Names the file and says why."""


def read_cases(folder: Path, answers: Mapping[str, str]) -> list[Case]:
    """Every question with its reference and our answer, in the order of the questions.

    A question without an answer of ours is judged with an empty one.

    Raises: BenchError when a file, a reference or a picture's description is missing.
    """
    questions, contexts, references = (
        _lines(folder / name) for name in (QUESTIONS, CONTEXT, REFERENCES)
    )
    try:
        described = {line["image"]: _words(line["caption"]) for line in contexts}
        answered = {str(line["question_id"]): line["text"] for line in references}
        return [
            Case(
                id=str(line["question_id"]),
                category=line["category"],
                question=line["text"],
                context=described[line["image"]],
                reference=answered[str(line["question_id"])],
                answer=answers.get(str(line["question_id"]), ""),
            )
            for line in questions
        ]
    except KeyError as error:
        names = f"{QUESTIONS}, {CONTEXT} and {REFERENCES}"
        raise BenchError(f"{folder}: {names} do not fit together: no {error}") from error


def score_reviews(cases: Sequence[Case], reviews: Sequence[Review], mode: Mode) -> Scored:
    """Sum of our scores over the sum of the reference's: of all, and of each category.

    compat: a malformed review counts -1 for both, as in LLaVA's script. strict: it is left out, and
    so is one with a score outside 1 to 10. What is not there to be divided by is not a number.
    """
    each: dict[str, dict[str, float]] = {}
    notes: dict[str, list[str]] = {}
    for case, review in zip(cases, reviews, strict=True):
        if not case.answer:
            notes.setdefault(UNANSWERED, []).append(case.id)
        problem = _problem(review)
        if problem:
            notes.setdefault(problem, []).append(case.id)
        if problem and mode == "strict":
            continue
        reference, own = review.scores or FAILED
        each[case.id] = {
            "ours": own,
            "reference": reference,
            f"ours, {case.category}": own,
            f"reference, {case.category}": reference,
        }
    categories = dict.fromkeys(case.category for case in cases)
    ratios = {RELATIVE: ("ours", "reference")} | {
        category: (f"ours, {category}", f"reference, {category}") for category in categories
    }
    scores = {figure: _ratio(each, *columns) for figure, columns in ratios.items()}
    return Scored(scores, each, ratios, {kind: tuple(ids) for kind, ids in notes.items()})


def _problem(review: Review) -> str:
    if review.scores is None:
        return MALFORMED
    return "" if all(LOWEST <= score <= HIGHEST for score in review.scores) else OUT_OF_RANGE


def _ratio(each: Mapping[str, Mapping[str, float]], above: str, below: str) -> float:
    total = sum(columns.get(below, 0.0) for columns in each.values())
    return sum(columns.get(above, 0.0) for columns in each.values()) / total if total else math.nan


def _words(caption: str | Sequence[str]) -> str:
    return caption if isinstance(caption, str) else "\n".join(caption)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise BenchError(f"{path}: no such file; LLaVA-Bench (in the wild) has one")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise BenchError(f"{path}: line {number} is no JSON: {error}") from error
    return found
