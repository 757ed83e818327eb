"""A judge reads a question and two answers and gives each a score: over HTTP, resumable.

    judge = Judge("http://localhost:8000/v1", "some-model")
    reviews = review_all(cases, judge, out / "reviews.jsonl")
    score_reviews(cases, reviews, "compat").scores["relative score"]

Any endpoint that speaks OpenAI's chat completions will do. The key, where one is needed, comes from
the environment. Every review is written as soon as it is there, and is not asked for again.

Protocol: LLaVA-Bench (in the wild). The judge sees no picture but a description of it, the
question, the reference answer (assistant 1) and ours (assistant 2); the first line of its review
holds their two scores, 1 to 10. The request's words are our own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from glamm_jax.errors import GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.metrics.result import MetricResult, Mode

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE, MAX_TOKENS = 0.2, 1024
LONGEST_WAIT = 60.0  # seconds between two attempts
BUSY = (408, 409, 425, 429)  # worth another attempt, as all of 500 and above
RELATIVE = "relative score"
MALFORMED, OUT_OF_RANGE, UNANSWERED = "malformed review", "score out of range", "missing prediction"
LOWEST, HIGHEST = 1, 10
FAILED = (-1.0, -1.0)  # what LLaVA's own script takes for the scores of a malformed review
SYSTEM = "You compare the answers of two assistants, precisely and without favour."
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


class JudgeError(GLaMMError):
    """The judge does not answer, or refuses to. Says what it said and what to do."""


@dataclass(frozen=True)
class ReviewCase:
    """A question with two answers to it; context describes the picture in words."""

    id: str
    category: str
    question: str
    context: str
    reference: str
    answer: str

    @property
    def request(self) -> str:
        """What the judge reads."""
        return REQUEST.format(
            context=self.context,
            question=self.question,
            reference=self.reference,
            answer=self.answer,
        )


@dataclass(frozen=True)
class Review:
    """What the judge wrote. scores: of the reference and of our answer; None where malformed."""

    id: str
    text: str

    @property
    def scores(self) -> tuple[float, float] | None:
        """The two numbers of the first line, if it holds two numbers and nothing else."""
        found = _FIRST_LINE.fullmatch(self.text.strip().partition("\n")[0])
        return (float(found[1]), float(found[2])) if found else None


@dataclass(frozen=True)
class LLMJudge:
    """An endpoint and a model of it.

    url: what comes before `/chat/completions`. timeout, wait: seconds; `wait` doubles with every
        attempt unless the server says how long. key_variable: of the environment.

    Raises: JudgeError when the address is none.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 120.0
    attempts: int = 6
    wait: float = 1.0

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise JudgeError(f"{self.url!r} is no address of a judge; say http://HOST:PORT/v1")

    def complete(self, request: str) -> str:
        """The reply to a request.

        Raises: JudgeError when it is refused, or when no attempt is answered.
        """
        why = ""
        for attempt in range(self.attempts):
            try:
                return self._reply(request)
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(300).decode("utf-8", "replace").strip()
                why = f"{error.code} {error.reason}: {said}"
                if error.code not in BUSY and error.code < 500:
                    advice = f"; its key is read from ${self.key_variable}"
                    raise JudgeError(
                        f"{self.url} refuses: {why}{advice if error.code in (401, 403) else ''}"
                    ) from error
                told = error.headers.get("Retry-After", "")
                pause = float(told) if told.isdecimal() else self.wait * 2**attempt
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                why, pause = f"{type(error).__name__}: {error}", self.wait * 2**attempt
            if attempt + 1 < self.attempts:
                time.sleep(min(pause, LONGEST_WAIT))
        raise JudgeError(
            f"{self.url}: no answer in {self.attempts} attempts; the last said {why}. "
            "Reviews so far are kept: run the same command again to go on"
        )

    def _reply(self, request: str) -> str:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request}]
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": TEMPERATURE,
            "max_tokens": MAX_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        post = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(post, timeout=self.timeout) as response:
            reply = json.loads(response.read())["choices"][0]["message"]["content"]
        if not isinstance(reply, str):
            raise TypeError(f"a reply without words: {reply!r}")
        return reply


def review_all(
    cases: Sequence[ReviewCase],
    judge: LLMJudge,
    path: Path,
    watch: Callable[[Sequence[ReviewCase]], Iterable[ReviewCase]] = lambda cases: cases,
) -> list[Review]:
    """A review of every case, in their order; `path` holds those of this and earlier runs.

    A review counts as long as judge, question and answers are the same; a torn last line, of a run
    that was killed, is asked again.

    watch: what the cases that are still open go through, such as a progress bar.
    Raises: JudgeError when the judge gives up; what it reviewed is kept.
    """
    done = _read(path)
    keys = {case.id: _key(case, judge.model) for case in cases}
    left = [case for case in cases if keys[case.id] not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for case in watch(left):
            review = Review(case.id, judge.complete(case.request))
            line = {"key": keys[case.id], "judge": judge.model, "id": case.id, "text": review.text}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            done[keys[case.id]] = review
    return [done[keys[case.id]] for case in cases]


def score_reviews(
    cases: Sequence[ReviewCase], reviews: Sequence[Review], mode: Mode
) -> MetricResult:
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
    return MetricResult(scores, each, ratios, {kind: tuple(ids) for kind, ids in notes.items()})


def _key(case: ReviewCase, model: str) -> str:
    told = json.dumps([model, case.id, case.request])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Review]:
    """Reviews by their keys; a torn last line is cut off, so that the next one stands alone."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole, end, _ = text.rpartition("\n")
    if whole + end != text:
        write_atomic(path, whole + end)
    done = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found = json.loads(line)
            done[found["key"]] = Review(found["id"], found["text"])
        except (ValueError, LookupError, TypeError) as error:
            raise JudgeError(
                f"{path}: line {number} is no review ({error!r}); remove it, and its question is "
                "asked again"
            ) from error
    return done


def _problem(review: Review) -> str:
    if review.scores is None:
        return MALFORMED
    return "" if all(LOWEST <= score <= HIGHEST for score in review.scores) else OUT_OF_RANGE


def _ratio(each: Mapping[str, Mapping[str, float]], above: str, below: str) -> float:
    total = sum(columns.get(below, 0.0) for columns in each.values())
    return sum(columns.get(above, 0.0) for columns in each.values()) / total if total else math.nan
