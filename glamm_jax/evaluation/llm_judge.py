"""Reviews of answers by a language model, resumable, each requested once.

    cases = [ReviewCase("0", "detail", "What is it?", "A dog on a lawn.", "A dog.", "A brown dog.")]
    judge = LLMJudge("http://localhost:8000/v1", "some-model")
    reviews = review_all(cases, judge, Path("out/reviews.jsonl"))
    score_reviews(cases, reviews, "compat").scores["relative score"]

Every review is written to the file as soon as it arrives, under a hash of what was requested:
judge, instructions and text. The same content is not requested again, in whatever evaluation it
occurs, as long as it has the same file.

Protocol: LLaVA-Bench (in the wild). The judge reads a description of the image, the question, the
reference answer (assistant 1) and the model's answer (assistant 2). The first line of its review
has their scores, 1 to 10. The text of the request is this project's own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from glamm_jax.evaluation.judge_client import (
    MAX_TOKENS,
    SYSTEM,
    TEMPERATURE,
    JudgeError,
    LLMJudge,
)
from glamm_jax.files import write_atomic
from glamm_jax.json_files import JSONError, JSONObject, parse_json
from glamm_jax.line_log import open_log
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath, make_folder

RELATIVE = "relative score"
MALFORMED, OUT_OF_RANGE, UNANSWERED = "malformed review", "score out of range", "missing prediction"
MIN_SCORE, MAX_SCORE = 1, 10
MALFORMED_SCORES = (-1.0, -1.0)  # of a malformed review in LLaVA's own script
REQUEST = """[Description of the picture]
{context}

[Question]
{question}

[Answer of assistant 1]
{reference}
[End of the answer of assistant 1]

[Answer of assistant 2]
{answer}
[End of the answer of assistant 2]

A user looked at a picture and asked the question above. The assistants saw the picture; you have \
its description. Judge how helpful, relevant, accurate and detailed each answer is, and give each \
assistant one score from 1 to 10, the higher the better. Neither the order nor the length of the \
answers should matter.
The first line of your reply must be the two scores and nothing else: that of assistant 1, a \
space, that of assistant 2. Explain them from the second line on."""
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_FIRST_LINE = re.compile(rf"\s*({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})\s*")


@dataclass(frozen=True)
class ReviewCase:
    """A question with two answers to it.

    Attributes:
        id: of the item.
        category: of the question.
        question: its text.
        context: a description of the image.
        reference: the reference answer.
        answer: the model's answer.
    """

    id: str
    category: str
    question: str
    context: str
    reference: str
    answer: str

    @property
    def request(self) -> str:
        """The text that the judge reads."""
        return REQUEST.format(
            context=self.context,
            question=self.question,
            reference=self.reference,
            answer=self.answer,
        )


@dataclass(frozen=True)
class Review:
    """The text that the judge wrote about a case."""

    id: str
    text: str

    @property
    def scores(self) -> tuple[float, float] | None:
        """Scores of the reference and of the answer; None unless the first line is two numbers."""
        match = _FIRST_LINE.fullmatch(self.text.strip().partition("\n")[0])
        return (float(match[1]), float(match[2])) if match else None


def review_all(
    cases: Sequence[ReviewCase],
    judge: LLMJudge,
    path: AnyPath,
    progress: Callable[[Sequence[ReviewCase]], Iterable[ReviewCase]] = lambda cases: cases,
) -> list[Review]:
    """Return a review of every case, in their order.

    A review in the file is used for every case of the same content. A truncated
    last line, as when the process was killed, is requested again.

    Args:
        cases: to be reviewed.
        judge: that reviews them.
        path: file of the reviews so far; new ones are appended.
        progress: wraps the cases that have no review yet, such as a progress bar.

    Raises:
        JudgeError: the judge does not answer; the reviews so far are in the file.
    """
    done = _read_reviews(path)
    keys = {case.id: _key(case, judge.model) for case in cases}
    # The first case of every content.
    missing = {keys[case.id]: case for case in reversed(cases) if keys[case.id] not in done}
    make_folder(path.parent)
    with closing(open_log(path)) as log:
        for case in progress([*missing.values()][::-1]):
            reply = judge.complete(case.request)
            line = {"key": keys[case.id], "judge": judge.model, "id": case.id, "text": reply.text}
            tokens = {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
            }
            log.write(json.dumps(line | tokens))
            done[keys[case.id]] = reply.text
    return [Review(case.id, done[keys[case.id]]) for case in cases]


def score_reviews(
    cases: Sequence[ReviewCase], reviews: Sequence[Review], mode: Mode
) -> MetricResult:
    """Divide the sum of the answers' scores by that of the references', in total and by category.

    compat: a malformed review counts -1 for both, as in LLaVA's script. strict: it is left out, and
    so is one with a score outside 1 to 10. A ratio without any review is NaN.

    Args:
        cases: that were reviewed.
        reviews: of the cases, in their order.
        mode: of counting.
    """
    per_item: dict[str, dict[str, float]] = {}
    notes: dict[str, list[str]] = {}
    for case, review in zip(cases, reviews, strict=True):
        if not case.answer:
            notes.setdefault(UNANSWERED, []).append(case.id)
        problem = ""
        if review.scores is None:
            problem = MALFORMED
        elif not all(MIN_SCORE <= score <= MAX_SCORE for score in review.scores):
            problem = OUT_OF_RANGE
        if problem:
            notes.setdefault(problem, []).append(case.id)
        if problem and mode == "strict":
            continue
        reference, answer = review.scores or MALFORMED_SCORES
        per_item[case.id] = {
            "ours": answer,
            "reference": reference,
            f"ours, {case.category}": answer,
            f"reference, {case.category}": reference,
        }
    categories = dict.fromkeys(case.category for case in cases)
    ratios = {RELATIVE: ("ours", "reference")} | {
        category: (f"ours, {category}", f"reference, {category}") for category in categories
    }
    scores = {metric: _ratio(per_item, *columns) for metric, columns in ratios.items()}
    return MetricResult(scores, per_item, ratios, {kind: tuple(ids) for kind, ids in notes.items()})


def _key(case: ReviewCase, model: str) -> str:
    content = json.dumps([model, TEMPERATURE, MAX_TOKENS, SYSTEM, case.request])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_reviews(path: AnyPath) -> dict[str, str]:
    """Read the texts of reviews by their keys; a truncated last line is removed from the file."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    complete, end, _ = text.rpartition("\n")
    if complete + end != text:
        write_atomic(path, complete + end)
    reviews = {}
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            fields = JSONObject(parse_json(line, f"line {number}"), f"line {number}")
            reviews[fields.text("key")] = fields.text("text")
        except JSONError as error:
            raise JudgeError(
                f"{path}: line {number} is not a review ({error!r}); remove it, and its case is "
                "reviewed again"
            ) from error
    return reviews


def _ratio(per_item: Mapping[str, Mapping[str, float]], numerator: str, denominator: str) -> float:
    total = sum(columns.get(denominator, 0.0) for columns in per_item.values())
    return sum(x.get(numerator, 0.0) for x in per_item.values()) / total if total else math.nan
