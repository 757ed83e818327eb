"""The judge reviews every case once, whatever fails; scores are ratios of sums."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.cli.eval import main
from glamm_jax.evaluation.judge_client import JudgeError, JudgePrices, JudgeReply, LLMJudge
from glamm_jax.evaluation.llm_judge import (
    Review,
    ReviewCase,
    review_all,
    score_reviews,
)
from glamm_jax.evaluation.scores import load_scores
from tests.evaluation.benchmark_folders import scenes, write_jpeg

CASES = [
    ReviewCase(f"{i}", "conv", f"question {i}?", "a tower", f"reference {i}", f"answer {i}")
    for i in range(4)
]


class FakeJudge:
    """A local endpoint. replies: what comes next, the last one for ever: a text, a status with its
    headers, bytes as they are, or seconds of silence."""

    def __init__(self, *replies: Any):
        self.replies, self.requests = list(replies), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers, json.loads(body)))
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, float):
            time.sleep(reply)
            reply = b"too late"
        status, headers = reply if isinstance(reply, tuple) else (200, {})
        if isinstance(reply, str):
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            content = {"choices": [{"message": {"content": reply}}], "usage": usage}
            reply = json.dumps(content).encode()
        data = reply if isinstance(reply, bytes) else b'{"error": "because"}'
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        with suppress(ConnectionError):  # the judge may have hung up
            handler.end_headers()
            handler.wfile.write(data)

    def prompts(self) -> list[str]:
        """The prompts of all requests, in order."""
        return [body["messages"][1]["content"] for _, _, body in self.requests]

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def judge_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a judge of replies; all are closed at the end."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers: list[FakeJudge] = []

    def make(*replies: Any, **options: Any) -> tuple[LLMJudge, FakeJudge]:
        servers.append(FakeJudge(*replies))
        judge = LLMJudge(servers[-1].url, "fake", wait=0.001, **options)
        return judge, servers[-1]

    yield make
    for server in servers:
        server.close()


def test_the_judge_reads_question_description_and_both_answers(
    judge_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, server = judge_of("8 7\nBecause.")
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    assert judge.complete(CASES[1].request) == JudgeReply("8 7\nBecause.", 100, 10)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer a secret"
    assert body["model"] == "fake"
    prompt = body["messages"][1]["content"]
    places = [prompt.index(x) for x in ("a tower", "question 1?", "reference 1", "answer 1\n")]
    assert places == sorted(places)


def test_an_endpoint_without_a_key_gets_none(judge_of: Any) -> None:
    judge, server = judge_of("8 7")
    replace(judge, url=server.url + "/chat/completions/").complete("x")
    ((path, headers, _),) = server.requests
    assert path == "/v1/chat/completions"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}),
        (500, {}),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        b"no JSON",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"[]",
        0.4,
    ],
)
def test_trouble_is_tried_again(judge_of: Any, trouble: Any) -> None:
    judge, server = judge_of(trouble, "8 7", timeout=0.2)
    assert judge.complete("x").text == "8 7"
    assert len(server.requests) == 2


def test_a_refusal_is_not_tried_again_and_says_why(judge_of: Any) -> None:
    judge, server = judge_of((401, {}))
    with pytest.raises(JudgeError, match=r"refuses: 401 .*because.*\$OPENAI_API_KEY"):
        judge.complete("x")
    assert len(server.requests) == 1


def test_a_judge_that_stays_silent_is_given_up(judge_of: Any) -> None:
    judge, server = judge_of((500, {}), attempts=3)
    with pytest.raises(JudgeError, match=r"no answer in 3 attempts.*500.*run the same command"):
        judge.complete("x")
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    server = FakeJudge("8 7")
    server.close()
    with pytest.raises(JudgeError, match=r"no answer in 2 attempts.*ConnectError"):
        LLMJudge(server.url, "fake", wait=0.001, attempts=2).complete("x")


def test_an_address_that_is_none_is_said_at_once() -> None:
    with pytest.raises(JudgeError, match="'localhost:8000' is not a judge's address"):
        LLMJudge("localhost:8000", "fake")


def test_reviews_go_on_where_they_stopped(judge_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / "reviews.jsonl"
    judge, server = judge_of("8 7", "9 5", (400, {}))
    with pytest.raises(JudgeError, match="refuses: 400"):
        review_all(CASES, judge, path)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "torn')
    judge, server = judge_of("6 6", "7 7", "8 8")
    reviews = review_all(CASES, judge, path)
    assert [review.scores for review in reviews] == [(8, 7), (9, 5), (6, 6), (7, 7)]
    assert [review.id for review in reviews] == [case.id for case in CASES]
    assert [case.request for case in CASES[2:]] == server.prompts()
    again, server = judge_of("1 1")
    assert review_all(CASES, again, path) == reviews
    assert not server.requests


def test_a_new_answer_or_another_judge_is_reviewed_anew(judge_of: Any, tmp_path: Path) -> None:
    judge, server = judge_of("8 7")
    review_all(CASES, judge, tmp_path / "reviews.jsonl")
    changed = [replace(CASES[0], answer="another"), *CASES[1:]]
    review_all(changed, judge, tmp_path / "reviews.jsonl")
    assert len(server.requests) == 5
    review_all(changed, replace(judge, model="other"), tmp_path / "reviews.jsonl")
    assert len(server.requests) == 9


def test_the_same_content_is_requested_once_and_its_tokens_are_counted(
    judge_of: Any, tmp_path: Path
) -> None:
    judge, server = judge_of("8 7", b'{"choices": [{"message": {"content": "9 5"}}]}')
    cases = [CASES[0], replace(CASES[0], id="again"), CASES[1]]
    reviews = review_all(cases, judge, tmp_path / "reviews.jsonl")
    assert [(x.id, x.scores) for x in reviews] == [("0", (8, 7)), ("again", (8, 7)), ("1", (9, 5))]
    assert len(server.requests) == judge.usage.requests == 2
    assert (judge.usage.prompt_tokens, judge.usage.completion_tokens) == (100, 10)
    assert judge.usage.cost(JudgePrices(2.0, 50.0)) == pytest.approx((200 + 500) / 1e6)
    text = judge.usage.describe(JudgePrices(2000.0, 50000.0))
    assert text == ("2 requests, 100 tokens read, 10 written, cost 0.7000; no count of 1 requests")
    lines = [json.loads(x) for x in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    assert [line["prompt_tokens"] for line in lines] == [100, None]
    other, server = judge_of("1 1")  # another evaluation with the same file
    assert review_all(cases[::-1], other, tmp_path / "reviews.jsonl") == reviews[::-1]
    assert not server.requests


@pytest.mark.parametrize("line", ["broken", "{}", "[]"])
def test_a_broken_line_is_named(judge_of: Any, tmp_path: Path, line: str) -> None:
    judge, _ = judge_of("8 7")
    review_all(CASES[:1], judge, tmp_path / "reviews.jsonl")
    with (tmp_path / "reviews.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(JudgeError, match=r"reviews\.jsonl: line 2 is not a review"):
        review_all(CASES, judge, tmp_path / "reviews.jsonl")


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 7\nBecause.", (8, 7)),
        ("  8.5,7 \nBecause.", (8.5, 7)),
        ("\n10 1", (10, 1)),
        ("8", None),
        ("8 7 6", None),
        ("Assistant 1: 8, assistant 2: 7", None),
        ("", None),
        ("8/10 7/10", None),
        ("nan inf", None),
    ],
)
def test_only_two_numbers_on_the_first_line_are_scores(text: str, scores: Any) -> None:
    assert Review("0", text).scores == scores


JUDGED = [
    ReviewCase(f"{i}", category, "?", "a tower", "reference", answer)
    for i, (category, answer) in enumerate(
        [("conv", "x"), ("conv", "x"), ("detail", ""), ("complex", "x")]
    )
]


def _reviews(*texts: str) -> list[Review]:
    return [Review(case.id, text) for case, text in zip(JUDGED, texts, strict=True)]


def test_a_score_is_the_sum_of_ours_over_the_sum_of_the_references() -> None:
    scored = score_reviews(JUDGED, _reviews("10 5", "5 5", "8 4", "8 10"), "compat")
    assert scored.scores == {
        "relative score": 24 / 31,
        "conv": 10 / 15,
        "detail": 4 / 8,
        "complex": 10 / 8,
    }
    above, below = scored.ratios["conv"]
    assert [row.get(above) for row in scored.per_item.values()] == [5, 5, None, None]
    assert [row.get(below) for row in scored.per_item.values()] == [10, 5, None, None]
    assert scored.notes == {"missing prediction": ("2",)}


def test_malformed_reviews_count_against_both_in_compat_and_are_left_out_in_strict() -> None:
    reviews = _reviews("10 5", "I cannot say.", "8 4", "11 10")
    compat, strict = (score_reviews(JUDGED, reviews, mode) for mode in ("compat", "strict"))
    assert compat.scores["relative score"] == (5 - 1 + 4 + 10) / (10 - 1 + 8 + 11)
    assert strict.scores["relative score"] == (5 + 4) / (10 + 8)
    assert math.isnan(strict.scores["complex"])
    for scored in (compat, strict):
        assert scored.notes["malformed review"] == ("1",)
        assert scored.notes["score out of range"] == ("3",)


def test_no_question_is_no_number() -> None:
    assert math.isnan(score_reviews([], [], "strict").scores["relative score"])


def test_the_program_prints_tokens_and_cost_and_uses_the_cache_of_another_evaluation(
    judge_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = write_llava_bench(tmp_path / "bench")
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([{"image_id": "2.jpg", "caption": "A star."}]))
    _, server = judge_of("8 4")
    for out in ("first", "second"):
        options = ["--predictions", answers, "--data", bench, "--out", tmp_path / out]
        options += ["--judge", server.url, "--judge-model", "fake", "--captions"]
        options += ["--judge-cache", tmp_path / "cache.jsonl", "--judge-price", "100", "1000"]
        assert main(["conversation", "--split", "val", *map(str, options)]) == 0
        scores = load_scores(tmp_path / out / "scores.json")
        assert scores.modes["strict"].scores["relative score"] == 0.5
    first, second = re.findall(r"^judge: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert first == "1 requests, 100 tokens read, 10 written, cost 0.0200"
    assert second == "0 requests, 0 tokens read, 0 written, cost 0.0000"
    assert len(server.requests) == 1


def write_llava_bench(folder: Path) -> Path:
    """One question of LLaVA-Bench."""
    lines = {
        "questions": {"question_id": 0, "image": "2.jpg", "text": "What?", "category": "conv"},
        "context": {"id": "2", "image": "2.jpg", "caption": "A meadow."},
        "answers_gpt4": {"question_id": 0, "text": "A star.", "category": "conv"},
    }
    write_jpeg(folder / "images" / "2.jpg", scenes(1)[0].image)
    for name, line in lines.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    return folder
