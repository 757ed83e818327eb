"""A language model as a judge of answers, over HTTP, resumable.

    cases = [ReviewCase("0", "detail", "What is it?", "A dog on a lawn.", "A dog.", "A brown dog.")]
    judge = LLMJudge("http://localhost:8000/v1", "some-model")
    reviews = review_all(cases, judge, Path("out/reviews.jsonl"))
    score_reviews(cases, reviews, "compat").scores["relative score"]

The endpoint has to support OpenAI's chat completions. Its key, if it needs one, is read from the
environment. Every review is written to the file as soon as it arrives, and is not requested again.

Protocol: LLaVA-Bench (in the wild). The judge reads a description of the image, the question, the
reference answer (assistant 1) and the model's answer (assistant 2). The first line of its review
has their scores, 1 to 10. The text of the request is this project's own.
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
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException

from glamm_jax.errors import GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.json_files import JSONError, JSONObject, parse_json
from glamm_jax.line_log import open_log
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath, make_folder

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE, MAX_TOKENS = 0.2, 1024
LONGEST_WAIT = 60.0  # seconds between two attempts
RETRIED_STATUSES = (408, 409, 425, 429)  # and all of 500 and above
RELATIVE = "relative score"
MALFORMED, OUT_OF_RANGE, UNANSWERED = "malformed review", "score out of range", "missing prediction"
MIN_SCORE, MAX_SCORE = 1, 10
MALFORMED_SCORES = (-1.0, -1.0)  # of a malformed review in LLaVA's own script
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

MAX_REPLY_BYTES = 1 << 20


class JudgeError(GLaMMError):
    """A judge that does not answer, or a file of reviews that cannot be read."""


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


@dataclass(frozen=True)
class LLMJudge:
    """A model at an endpoint.

    Attributes:
        url: of the endpoint, without `/chat/completions`.
        model: its name.
        key_variable: environment variable with the key.
        timeout: of a request, in seconds.
        attempts: for one request.
        wait: seconds before the second attempt; it doubles with every further attempt, unless the
            server says how long to wait.

    Raises:
        JudgeError: the url is not one.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 120.0
    attempts: int = 6
    wait: float = 1.0

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise JudgeError(f"{self.url!r} is not a judge's address; use http://HOST:PORT/v1")

    def complete(self, request: str) -> str:
        """Send a request and return the reply.

        Raises:
            JudgeError: the request is refused, or no attempt is answered.
        """
        problem = ""
        for attempt in range(self.attempts):
            try:
                return self._reply(request)
            except urllib.error.HTTPError as error:
                with error:
                    body = error.read(300).decode("utf-8", "replace").strip()
                problem = f"{error.code} {error.reason}: {body}"
                if error.code not in RETRIED_STATUSES and error.code < 500:
                    advice = f"; its key is read from ${self.key_variable}"
                    raise JudgeError(
                        f"{self.url} refuses: {problem}{advice if error.code in (401, 403) else ''}"
                    ) from error
                delay = error.headers.get("Retry-After", "")
                pause = float(delay) if delay.isdecimal() else self.wait * 2**attempt
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
                problem, pause = f"{type(error).__name__}: {error}", self.wait * 2**attempt
            if attempt + 1 < self.attempts:
                time.sleep(min(pause, LONGEST_WAIT))
        raise JudgeError(
            f"{self.url}: no answer in {self.attempts} attempts; the last problem: {problem}. "
            "Reviews so far are saved: run the same command again to resume"
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
            reply = parse_json(response.read(MAX_REPLY_BYTES), "reply")["choices"][0]["message"][
                "content"
            ]
        if not isinstance(reply, str):
            raise TypeError(f"a reply without text: {reply!r}")
        return reply


def review_all(
    cases: Sequence[ReviewCase],
    judge: LLMJudge,
    path: AnyPath,
    progress: Callable[[Sequence[ReviewCase]], Iterable[ReviewCase]] = lambda cases: cases,
) -> list[Review]:
    """Return a review of every case, in their order.

    A review in the file is used as long as judge, question and answers are the same. A truncated
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
    missing = [case for case in cases if keys[case.id] not in done]
    make_folder(path.parent)
    with closing(open_log(path)) as log:
        for case in progress(missing):
            review = Review(case.id, judge.complete(case.request))
            line = {"key": keys[case.id], "judge": judge.model, "id": case.id, "text": review.text}
            log.write(json.dumps(line))
            done[keys[case.id]] = review
    return [done[keys[case.id]] for case in cases]


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
    content = json.dumps([model, case.id, case.request])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read_reviews(path: AnyPath) -> dict[str, Review]:
    """Read reviews by their keys; a truncated last line is removed from the file."""
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
            reviews[fields.text("key")] = Review(fields.text("id"), fields.text("text"))
        except JSONError as error:
            raise JudgeError(
                f"{path}: line {number} is not a review ({error!r}); remove it, and its case is "
                "reviewed again"
            ) from error
    return reviews


def _ratio(per_item: Mapping[str, Mapping[str, float]], numerator: str, denominator: str) -> float:
    total = sum(columns.get(denominator, 0.0) for columns in per_item.values())
    return sum(x.get(numerator, 0.0) for x in per_item.values()) / total if total else math.nan
