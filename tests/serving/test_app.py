"""The server over the loopback address: OpenAI's client, streams, limits, keys, departures."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.grand.adapters.endpoint.client import EndpointError
from glamm_jax.grand.adapters.endpoint.vision import EndpointCaptioner
from glamm_jax.grand.roles import RoleImage
from glamm_jax.inference.chat import Assistant
from glamm_jax.serving.app import ServerOptions
from glamm_jax.serving.engine import Engine
from glamm_jax.text.questions import GCG_QUESTIONS
from tests.serving.conftest import OPTIONS, Gate, data_url, listening, png, running, scene

NAME = "miniworld-tiny"
OPTIONS_OF_SERVER = ServerOptions(NAME, max_body_bytes=1 << 20, max_image_pixels=1 << 16)


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with listening(engine, OPTIONS_OF_SERVER) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def ask(text: str, number: int = 3) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(png(number))}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


def send(
    address: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Return status, content and headers of a response; POST with a body, else GET."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    kind = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request("GET" if body is None else "POST", path, body, kind)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    is_json = "json" in response.headers.get("content-type", "")
    return response.status, json.loads(data) if is_json else data, response.headers


def form(**fields: str | bytes) -> tuple[bytes, str]:
    """Return a multipart form and its content type."""
    parts = b""
    for name, value in fields.items():
        is_file = isinstance(value, bytes)
        parts += f'--X\r\nContent-Disposition: form-data; name="{name}"'.encode()
        parts += b'; filename="a"\r\n\r\n' if is_file else b"\r\n\r\n"
        parts += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return parts + b"--X--\r\n", "multipart/form-data; boundary=X"


def wait_until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_openai_client_gets_text_and_masks(client: openai.OpenAI, assistant: Assistant) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=ask(GCG_QUESTIONS[0]), max_tokens=60
    )
    expected = assistant.chat(scene(3), GCG_QUESTIONS[0], max_tokens=60)
    [choice] = answer.choices
    message: Any = choice.message
    assert (message.content, message.raw) == (expected.text, expected.raw)
    assert choice.finish_reason == "stop"
    assert message.groundings and message.problems == []
    for grounding, other in zip(message.groundings, expected.groundings, strict=True):
        assert message.content[grounding["start"] : grounding["end"]] == grounding["phrase"]
        mask = rle.decode(grounding["segmentation"])
        assert other.mask is not None and (mask != other.mask).mean() < 0.001
        x, y, width, height = grounding["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum() == grounding["area"]
        assert grounding["score"] == pytest.approx(other.score, abs=1e-5)
        assert grounding["origin"] == "answer"
    usage = answer.usage
    assert usage is not None and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens > 64  # the patches of the image
    assert 10 < usage.completion_tokens < 60
    short = client.chat.completions.create(model=NAME, messages=ask("Is it?"), max_tokens=1)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None and short.usage.completion_tokens == 1


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    question = ask(GCG_QUESTIONS[0])
    complete: Any = client.chat.completions.create(model=NAME, messages=question).choices[0].message
    chunks = [
        *client.chat.completions.create(
            model=NAME,
            messages=question,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    pieces = [delta.content for delta in deltas if delta.content]
    assert len(pieces) > 1 and "".join(pieces) == complete.content
    [masks] = [delta for delta in deltas if hasattr(delta, "groundings")]
    assert (masks.groundings, masks.raw) == (complete.groundings, complete.raw)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1
    without = client.chat.completions.create(model=NAME, messages=question, stream=True)
    assert all(chunk.choices for chunk in without)


def test_a_conversation_goes_on_with_its_raw_answer(
    client: openai.OpenAI, assistant: Assistant
) -> None:
    first = ask("Where is <p> the star </p> [SEG]?")
    message: Any = client.chat.completions.create(model=NAME, messages=first).choices[0].message
    assert [x["phrase"] for x in message.prompt_groundings] == ["the star"]
    assert message.prompt_groundings[0]["origin"] == "prompt"
    answer: Any = {"role": "assistant", "content": message.content, "raw": message.raw}
    question: Any = {"role": "user", "content": "What is in region1 <bbox>?"}
    again = client.chat.completions.create(
        model=NAME,
        messages=[*first, answer, question],
        max_tokens=20,
        extra_body={"regions": [[4, 4, 40, 40]]},
    )
    expected = assistant.chat(
        scene(3),
        "What is in region1 <bbox>?",
        regions=[[4, 4, 40, 40]],
        history=[("Where is <p> the star </p> [SEG]?", message.raw)],
        max_tokens=20,
    )
    assert again.choices[0].message.content == expected.text


def test_the_openai_client_raises_with_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stop is not supported") as refused:
        client.chat.completions.create(model=NAME, messages=ask("a"), stop="x")
    assert refused.value.param == "stop"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.chat.completions.create(model="gpt", messages=ask("a"))
    with pytest.raises(openai.BadRequestError, match="the prompt is empty"):
        client.chat.completions.create(model=NAME, messages=ask(" "))
    with pytest.raises(openai.BadRequestError, match=r"box 0 .* is outside of the image"):
        client.chat.completions.create(
            model=NAME,
            messages=ask("What is <bbox>?"),
            extra_body={"regions": [[70, 70, 80, 80]]},
        )
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "glamm-jax"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


BODIES = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 5000, b'{"n": 1' + b"0" * 5000 + b"}"),
    *(b'{"messages": "\\ud800"}', b'{"a": NaN}', b"0" * 100_000, b'{"\\ud800": 1}'),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/images/segmentations"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_malformed_bodies_are_refused(address: str, path: str, body: bytes) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=X", "multipart/form-data", ""):
        status, content, _ = send(address, path, body, Content_Type=kind)
        assert 400 <= status < 500
        assert content["error"]["message"]
        assert content["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "damaged",
    [
        form(image=png(), prompt="a")[0][:-30],
        form(image=png(), prompt="a")[0].replace(b'name="', b"name="),
        form(image=png(), prompt="a" * 70_000)[0],
        form(image=png(), a="1", b="2", c="3", d="4", e="5", f="6", g="7", h="8")[0],
        form(image=png(), image2=png())[0],
        form(prompt="a")[0] + form(prompt="b")[0],
    ],
)
def test_malformed_forms_are_refused(address: str, damaged: bytes) -> None:
    kind = "multipart/form-data; boundary=X"
    status, content, _ = send(address, "/v1/images/segmentations", damaged, Content_Type=kind)
    assert status == 400
    assert content["error"]["message"]


def test_paths_and_methods_are_refused_in_the_same_form(address: str) -> None:
    assert send(address, "/v1/nothing")[1]["error"]["message"] == "there is no such path"
    status, content, _ = send(address, "/v1/chat/completions")
    assert status == 405 and "no such method" in content["error"]["message"]


def test_sizes_are_limited(address: str) -> None:
    status, content, _ = send(address, "/v1/chat/completions", b" " * ((1 << 20) + 1))
    assert status == 413 and "more than 1048576 bytes" in content["error"]["message"]
    large = {"type": "image_url", "image_url": {"url": data_url(png(size=(257, 256)))}}
    body = {"messages": [{"role": "user", "content": [large]}]}
    status, content, _ = send(address, "/v1/chat/completions", json.dumps(body).encode())
    assert status == 400
    assert content["error"]["code"] == "image_too_large"
    assert content["error"]["param"] == "messages[0].content[0].image_url.url"


def test_a_chunked_body_is_limited_too(address: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as stream:
        stream.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
        try:
            for _ in range(6):
                stream.sendall(chunk)
        except OSError:  # the server has closed the connection
            pass
        assert b" 413 " in stream.recv(100)


@pytest.mark.parametrize("mask_format", ["png", "rle"])
def test_segmentations_are_instances(address: str, assistant: Assistant, mask_format: str) -> None:
    body, kind = form(
        image=png(3), prompt="Where is <p> the star </p> [SEG]?", mask_format=mask_format
    )
    status, content, _ = send(address, "/v1/images/segmentations", body, Content_Type=kind)
    assert status == 200
    expected = assistant.chat(scene(3), "Where is <p> the star </p> [SEG]?")
    mask = expected.prompt_groundings[0].mask
    first = content["data"][0]
    if mask_format == "rle":
        found = rle.decode(first["mask"])
    else:
        image = Image.open(io.BytesIO(base64.b64decode(first["mask"])))
        assert image.mode == "L"
        found = np.asarray(image) == 255
    assert mask is not None and (found != mask).mean() < 0.001
    x0, y0, x1, y1 = first["box"]
    assert found[y0:y1, x0:x1].sum() == found.sum() > 0
    assert 0 < first["score"] < 1
    assert content["size"] == [64, 64]


def test_boxes_are_regions(address: str) -> None:
    body, kind = form(image=png(3), prompt="star", boxes="[[4, 4, 40, 40]]", box_labels="[1]")
    status, content, _ = send(address, "/v1/images/segmentations", body, Content_Type=kind)
    assert status == 200 and isinstance(content["data"], list)


def test_health_readiness_and_metrics(address: str, engine: Engine, gate: Gate) -> None:
    assert send(address, "/health")[:2] == (200, {"status": "ok"})
    assert send(address, "/ready")[:2] == (200, {"status": "ready"})
    with gate.closed():
        body = json.dumps({"messages": ask("Is it red?"), "max_tokens": 1}).encode()
        jobs = [
            engine.submit(engine.prepare(question))
            for question in [_question()] * OPTIONS.max_queue
        ]
        status, content, headers = send(address, "/v1/chat/completions", body)
        assert status == 429 and int(headers["Retry-After"]) > 0
        assert content["error"]["code"] == "queue_full"
        assert b"glamm_requests_waiting 20.0" in send(address, "/metrics")[1]
    for job in jobs:
        job.future.result(60)
    assert send(address, "/v1/chat/completions", body)[0] == 200
    text = send(address, "/metrics")[1].decode()
    assert 'glamm_http_responses_total{path="/v1/chat/completions",status="429"}' in text
    assert 'glamm_questions_total{outcome="answered"}' in text


def _question() -> Any:
    from glamm_jax.inference.answer_rows import Question

    return Question(scene(0), "Is it red?", max_tokens=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(
    address: str, engine: Engine, gate: Gate, stream: bool
) -> None:
    cancelled = engine.metrics.questions.labels("CancelledError")
    before = cancelled._value.get()
    body = json.dumps({"messages": ask(GCG_QUESTIONS[0]), "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    parts = urlsplit(address)
    with gate.closed():
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: engine.num_open == 1)
            [job] = engine._open
        wait_until(lambda: job.abandoned() is not None)
    wait_until(lambda: engine.num_open == 0)
    assert cancelled._value.get() == before + 1


def test_a_request_that_is_cut_leaves_nothing(address: str, engine: Engine) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
    assert send(address, "/health")[0] == 200
    assert engine.num_open == 0


def test_an_answer_that_takes_too_long_is_an_error(engine: Engine, gate: Gate) -> None:
    hurried = ServerOptions(NAME, request_seconds=0.05, body_seconds=0.2)
    with listening(engine, hurried) as address:
        body = {"messages": ask("Is it red?"), "max_tokens": 1}
        with gate.closed():
            parts = urlsplit(address)
            with socket.create_connection((parts.hostname, parts.port), timeout=30) as slow:
                slow.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
                )
                assert b" 408 " in slow.recv(100)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            streamed = http.client.HTTPConnection(parts.hostname or "", parts.port)
            streamed.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}))
            wait_until(lambda: engine.num_open == 2)
            time.sleep(0.1)
        response = connection.getresponse()
        assert response.status == 504
        assert json.load(response)["error"]["code"] == "timeout"
        events = streamed.getresponse().read().decode()
        assert '"code": "timeout"' in events and events.endswith("data: [DONE]\n\n")
        connection.close()
        streamed.close()


def test_keys_are_checked(engine: Engine) -> None:
    with listening(engine, ServerOptions(NAME, api_keys=("first", "second"))) as address:
        for header in ("", "Bearer third", "Basic first", "Bearer", "Bearer \xff"):
            status, content, headers = send(address, "/v1/models", Authorization=header)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
            assert content["error"]["code"] == "invalid_api_key"
        assert send(address, "/v1/models", Authorization="Bearer second")[0] == 200
        assert send(address, "/health")[0] == send(address, "/metrics")[0] == 200


def test_it_captions_photographs_for_the_annotation(
    engine: Engine, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [RoleImage(str(number), scene(number), number) for number in range(4)]
    with listening(engine, ServerOptions(NAME, api_keys=("first",))) as address:
        arguments: dict[str, Any] = {"url": f"{address}/v1", "model": NAME, "max_tokens": 60}
        with pytest.raises(EndpointError, match="status 401"):
            EndpointCaptioner(**arguments).setup()
        monkeypatch.setenv("TEST_KEY", "first")
        role = EndpointCaptioner(GCG_QUESTIONS[0], api_key_env="TEST_KEY", **arguments)
        role.setup()
        together = role(images)
        assert [role([image])[0] for image in images] == together
    expected = [
        assistant.chat(image.pixels, GCG_QUESTIONS[0], max_tokens=60).text.strip()
        for image in images
    ]
    assert together == expected
    usage = role.take_usage()
    assert usage["requests"] == 8
    assert usage["prompt_tokens"] > 8 * 64
    assert 80 < usage["completion_tokens"] < 480


def test_a_server_that_drains_says_so(assistant: Assistant) -> None:
    with running(assistant) as engine, listening(engine, OPTIONS_OF_SERVER) as address:
        assert engine.drain(10)
        assert send(address, "/ready")[:2] == (503, {"status": "draining"})
        assert send(address, "/health")[0] == 200
        body = json.dumps({"messages": ask("Is it red?"), "max_tokens": 1}).encode()
        status, content, headers = send(address, "/v1/chat/completions", body)
        assert status == 503 and content["error"]["type"] == "server_error"
        assert headers["Retry-After"]
        engine.stop()
        assert send(address, "/health")[0] == 500
