"""Endpoints: retries, limits, keys, usage."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glamm_jax.cli import annotate
from glamm_jax.grand.adapters.endpoint.client import EndpointError
from glamm_jax.grand.adapters.endpoint.language import EndpointLLM
from glamm_jax.grand.adapters.endpoint.vision import (
    EndpointCaptioner,
    EndpointTagger,
    choice_in,
    read_tags,
)
from glamm_jax.grand.prompts import default_prompts, parse_request
from glamm_jax.grand.role_files import RoleFileError, read_roles
from glamm_jax.grand.roles import ChatMessage, LLMAnswer, LLMRequest, RoleError, RoleImage, Tag
from glamm_jax.grand.run_folder import AnnotationRun
from tests.grand.adapters.endpoint_server import (
    ScriptedEndpoint,
    completion,
    error,
    scripted_endpoint,
)
from tests.grand.scripted_roles import CAPTION, CONTEXT, write_roles

KEY = "sk-secret-0123456789"


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint() as state:
        yield state


def request_of(number: int = 0) -> LLMRequest:
    return LLMRequest(f"{number}", (ChatMessage("user", f"Number {number}?"),), number)


def model(endpoint: ScriptedEndpoint, **options: Any) -> EndpointLLM:
    return EndpointLLM(url=endpoint.url, model="model", **({"wait": 0.01} | options))


# ------------------------------------------------------------------ retries and limits


def test_a_request_is_that_of_the_api(endpoint: ScriptedEndpoint) -> None:
    role = model(endpoint, temperature=0.7, max_tokens=9, extra={"top_p": 0.5})
    conversation = (ChatMessage("system", "a"), ChatMessage("user", "b"))
    (answer,) = role([LLMRequest("x", conversation, 42)])
    assert answer == LLMAnswer("A dog.", "stop")
    assert endpoint.bodies == [
        {
            "model": "model",
            "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
            "max_tokens": 9,
            "temperature": 0.7,
            "seed": 42,
            "top_p": 0.5,
        }
    ]
    role = model(endpoint, temperature=-1.0, max_tokens=0, send_seed=False)
    role([request_of()])
    assert {*endpoint.bodies[1]} == {"model", "messages"}


@pytest.mark.parametrize(
    "failure",
    [
        error(429, "too many"), error(500, "broken"), error(503, "starting"), error(408, "slow"),
        (200, {}, b"no JSON"), (200, {}, b'{"choices": []}'), (200, {}, b"[1]"),
        (200, {}, b'{"choices": [{"message": {"content": 7}}]}'), (200, {}, b"\xff\xfe"), None,
    ],
)  # fmt: skip
def test_what_may_pass_is_requested_again(failure: Any, endpoint: ScriptedEndpoint) -> None:
    endpoint.failures = [failure, failure]
    role = model(endpoint, timeout=0.2)
    assert role([request_of()]) == [LLMAnswer("A dog.", "stop")]
    usage = role.take_usage()
    assert (usage["requests"], usage["retries"]) == (3, 2)
    assert "failures" not in usage


def test_the_pauses_double_and_are_those_of_the_seed(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[list[float]] = []
    for seed in (1, 1, 2):
        slept: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr("glamm_jax.grand.adapters.endpoint.client.sleep", slept.append)
            endpoint.failures = [error(500, "broken")] * 4
            model(endpoint, wait=8.0)([request_of(seed)])
        pauses.append(slept)
    assert pauses[0] == pauses[1] != pauses[2]
    for k, pause in enumerate(pauses[0]):
        assert 4.0 * 2**k <= pause <= 8.0 * 2**k


def test_the_server_says_how_long_to_wait(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("glamm_jax.grand.adapters.endpoint.client.sleep", slept.append)
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    endpoint.failures = [
        error(429, "", Retry_After=text) for text in ("2.5", later, "99999", "soon")
    ]
    model(endpoint)([request_of()])
    assert slept[0] == 2.5
    assert 25 <= slept[1] <= 30
    assert slept[2] == 120.0
    assert slept[3] <= 0.08


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        (
            [error(500, "broken")] * 2,
            "model",
            "no answer in 2 attempts; the last: status 500: b",
        ),
        ([error(400, "too long")], "input", "status 400: too long"),
        ([error(404, "no such model")], "model", "status 404: no such model"),
        ([error(401, "who?")], "model", "status 401: who?; give api_key_env"),
        ([error(302, "elsewhere", Location="http://127.0.0.1:1/")], "model", "status 302"),
        ([completion("", "content_filter")], "output", "the answer ended with 'content_filter'"),
    ],
)
def test_what_does_not_pass_is_an_error_of_one_request(
    failures: Any, kind: str, message: str, endpoint: ScriptedEndpoint
) -> None:
    endpoint.failures = list(failures)
    role = model(endpoint, concurrency=1, attempts=2)
    first, second = role([request_of(0), request_of(1)])
    assert isinstance(first, RoleError)
    assert first.kind == kind
    assert message in first.message
    assert second == LLMAnswer("A dog.", "stop")


def test_an_answer_that_was_cut_says_so(endpoint: ScriptedEndpoint) -> None:
    endpoint.failures = [completion("A d", "length"), completion(None, "stop")]
    role = model(endpoint)
    assert role([request_of()]) == [LLMAnswer("A d", "length")]
    assert role([request_of()]) == [LLMAnswer("", "stop")]


def test_requests_are_sent_in_parallel_up_to_a_limit(endpoint: ScriptedEndpoint) -> None:
    endpoint.delay = 0.05
    endpoint.answer = lambda body: body["messages"][0]["content"]
    answers = model(endpoint, concurrency=4)([request_of(i) for i in range(12)])
    assert [x.text for x in answers] == [f"Number {i}?" for i in range(12)]
    assert endpoint.busy[1] == 4
    assert endpoint.times[-1] - endpoint.times[0] < 12 * 0.05


def test_the_rate_is_shared_by_all_workers(endpoint: ScriptedEndpoint) -> None:
    roles = [model(endpoint, requests_per_minute=1200) for _ in range(2)]
    for role in roles:
        role([request_of(i) for i in range(4)])
    gaps = [b - a for a, b in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert len(gaps) == 7
    assert sum(gaps) >= 7 * 0.05 - 0.02


# ------------------------------------------------------------------ keys


def test_the_key_is_that_of_the_variable_and_is_shown_nowhere(
    endpoint: ScriptedEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.key = KEY
    role = model(endpoint, api_key_env="TEST_KEY")
    with pytest.raises(EndpointError, match="the environment variable TEST_KEY has no key"):
        role.setup()
    monkeypatch.setenv("TEST_KEY", KEY)
    role.setup()
    assert role([request_of()]) == [LLMAnswer("A dog.", "stop")]
    wrong = KEY.replace("0", "1")
    monkeypatch.setenv("TEST_KEY", wrong)
    messages = []
    with pytest.raises(EndpointError, match=r"status 401: wrong key: .*\$TEST_KEY") as refused:
        role.setup()
    messages.append(str(refused.value))
    (result,) = role([request_of()])
    assert isinstance(result, RoleError)
    messages.append(result.message)
    monkeypatch.setenv("TEST_KEY", f"{wrong}\nX-Other: 1")
    with pytest.raises(EndpointError, match="has characters that no key has") as refused:
        role.setup()
    messages += [str(refused.value), repr(role.__dict__), role.fingerprint, role.name]
    messages += [caplog.text, *capfd.readouterr()]
    assert not any("secret" in text for text in messages), messages


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f'api_key_env = "{KEY}"', "api_key_env is not the name of an environment variable"),
        (f'api_key = "{KEY}"', "no key 'api_key'; did you mean api_key_env?"),
        (f'url = "https://{KEY}@host/v1"', "keys belong in api_key_env"),
        (f'url = "https://host/v1?key={KEY}"', "keys belong in api_key_env"),
        ('url = "localhost:80"', "url = 'localhost:80' is not an address"),
        ('url = "http://host:port/v1"', "url is not an address"),
        ('model = ""', "the name of the model at the endpoint is missing"),
        ("concurrency = 0", "concurrency = 0 is not a whole number of at least 1"),
        ("timeout = 0", "timeout = 0 is not a possible number"),
        ("requests_per_minute = -1", "requests_per_minute = -1 is not"),
        ("price_prompt = -1.0", "price_prompt = -1.0 is not a price"),
        ('extra = { model = "a" }', "extra: model cannot be set"),
        ("extra = { start = 2026-01-01 }", "extra has a value that JSON does not have"),
        ('prompts = "a"', "no key 'prompts'; did you mean prompt?"),
        ("image_side = 0", "image_side = 0 is not a whole number"),
    ],
)
def test_a_mistake_in_a_file_of_roles_is_named_without_the_key(
    line: str, message: str, tmp_path: Path
) -> None:
    lines = {"url": 'url = "http://host/v1"', "model": 'model = "model"'}
    lines[line.split(" ")[0]] = line
    path = tmp_path / "roles.toml"
    path.write_text("\n".join(['[captioners.a]\nclass = "endpoint"', *lines.values()]))
    with pytest.raises(RoleFileError, match=message) as refused:
        read_roles(path)
    assert KEY not in str(refused.value)


def test_an_endpoint_that_is_not_there_is_named(endpoint: ScriptedEndpoint) -> None:
    role = EndpointLLM(url="http://127.0.0.1:9/v1", model="model", attempts=2, wait=0.01)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/v1: .*refused; is the server running"):
        role.setup()
    role = EndpointLLM(url=endpoint.url, model="other")
    with pytest.raises(EndpointError, match="has no model 'other'; there are: model"):
        role.setup()
    EndpointLLM(url=endpoint.url.replace("/v1", "/v2"), model="other").setup()  # lists none


def test_the_fingerprint_is_that_of_model_and_prompt() -> None:
    base = {"url": "http://a/v1", "model": "m"}
    first = EndpointCaptioner(**base).fingerprint
    for same in ({"url": "http://b/v1"}, {"concurrency": 3}, {"attempts": 2}, {"name": "x"}):
        assert EndpointCaptioner(**base | same).fingerprint == first
    for other in ({"model": "n"}, {"prompt": "Hello"}, {"temperature": 0.5}, {"image_side": 64}):
        assert EndpointCaptioner(**base | other).fingerprint != first


# ------------------------------------------------------------------ usage


def test_usage_is_counted_and_paid(endpoint: ScriptedEndpoint) -> None:
    endpoint.failures = [error(500, "broken"), error(400, "no")]
    role = model(endpoint, concurrency=1, price_prompt=2.0, price_completion=10.0)
    role([request_of(i) for i in range(3)])
    usage = role.take_usage()
    # The first request twice; the second is refused.
    seconds = usage.pop("seconds")
    assert 0 < seconds < 5
    assert usage == {
        "requests": 4, "retries": 1, "failures": 1, "prompt_tokens": 200, "completion_tokens": 14,
        "cost": pytest.approx((200 * 2 + 14 * 10) / 1e6),
    }  # fmt: skip
    assert role.take_usage() == {}


def test_a_run_records_and_prints_the_usage(
    endpoint: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, roles = tmp_path / "photos", write_roles(tmp_path / "roles.toml")
    photos.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(photos / f"{i}.png")
    scripted, _, _ = roles.read_text().rpartition("[llm]")
    roles.write_text(
        f'{scripted}[llm]\nclass = "endpoint"\nurl = "{endpoint.url}"\nmodel = "model"\n'
        'name = "writer"\nwait = 0.01\nprice_prompt = 2.0\nprice_completion = 10.0\n'
    )
    endpoint.answer = answer_like_a_writer
    endpoint.failures = [error(429, "too many", Retry_After="0")]
    run = ["run", str(photos), "--out", str(tmp_path / "run"), "--roles", str(roles)]
    run += ["--trust-roles", "--workers", "1"]
    assert annotate.main(run) == 0
    # Caption, checklist and context of three images, and one more attempt.
    expected = ["writer", "10", "1", "900", "63"]
    for command in (None, ["status", str(tmp_path / "run")], run):
        if command is not None:
            assert annotate.main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        row = next(line.split() for line in lines if line.startswith("writer"))
        assert row[:5] == expected
        assert row[-1] == "0.0024"
        header = next(line for line in lines if line.startswith("model"))
        assert "prompt tokens" in header
    written = AnnotationRun.open(tmp_path / "run")
    captions = [scene.sections["dense_caption"] for scene in written.scenes()]
    assert [section["verified"] for section in captions] == [True] * 3


def answer_like_a_writer(body: dict[str, Any]) -> str:
    messages = tuple(ChatMessage(x["role"], x["content"]) for x in body["messages"])
    kind = parse_request(messages, default_prompts()).kind
    return {"checklist": "OBJECT: a dog", "context": CONTEXT}.get(kind, CAPTION)


# ------------------------------------------------------------------ answers


def test_tags_are_read_from_lists() -> None:
    assert read_tags("Dog, cat; dog\n- red cup.") == [
        Tag("dog", 1.0), Tag("cat", 1.0), Tag("red cup", 1.0),
    ]  # fmt: skip
    assert read_tags("1. Dog\n2) Cat") == [Tag("dog", 1.0), Tag("cat", 1.0)]
    for text in ("", "I see a dog and a cat in front of a house"):
        assert isinstance(read_tags(text), RoleError)


def test_a_choice_is_read_from_a_sentence() -> None:
    assert choice_in("It is a ROAD, no airport.", ("Airport", "Road")) == "Road"
    assert isinstance(choice_in("Nothing.", ("Airport", "Road")), RoleError)


def test_a_large_image_is_made_smaller(endpoint: ScriptedEndpoint) -> None:
    image = RoleImage("a", np.full((30, 200, 3), 7, np.uint8))
    EndpointTagger(url=endpoint.url, model="model", image_side=100)([image])
    content = endpoint.bodies[0]["messages"][0]["content"]
    sent = base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(sent)).size == (100, 15)
