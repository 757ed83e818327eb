"""The client against a server on the loopback device: streams, errors, full queues, closing."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from glamm_jax.app import server_client
from glamm_jax.app.conversation import Conversation, picture_of
from glamm_jax.app.server_client import (
    Completion,
    ServerClient,
    ServerError,
    TextPiece,
    Waiting,
    server_sent_events,
)
from tests.app.loopback_server import LoopbackServer, serve

IMAGE = np.zeros((4, 6, 3), np.uint8)


def request(question: str = "What?") -> dict[str, Any]:
    return Conversation(picture_of(IMAGE)).request(question, {})


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with serve(LoopbackServer()) as running:
        yield running


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_pieces_of_text_then_the_completion(server: LoopbackServer) -> None:
    *pieces, end = [
        e for e in ServerClient(server.url).chat(request()) if not isinstance(e, Waiting)
    ]
    assert len(pieces) > 3
    assert isinstance(end, Completion)
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
    assert text.startswith("A left part is beside")
    assert [item["phrase"] for item in end.fields["groundings"]] == ["A left part", "a right part"]
    assert end.finish_reason == "stop"
    assert server.requests[0]["stream"] is True


def test_readiness(server: LoopbackServer) -> None:
    client = ServerClient(server.url + "/v1")  # as the openai client wants it
    assert client.is_ready()
    assert list(client.chat(request()))


def test_the_message_of_the_server_is_the_error(server: LoopbackServer) -> None:
    with pytest.raises(ServerError, match="the question <b>fails</b>"):
        list(ServerClient(server.url).chat(request("fail")))


def test_a_server_that_is_not_there_is_named() -> None:
    client = ServerClient("http://127.0.0.1:9")
    assert not client.is_ready()
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9 cannot be reached.*glamm-jax serve"):
        list(client.chat(request()))


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://host:port", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ServerError):
        ServerClient(url)


def test_another_kind_of_server_is_recognised(server: LoopbackServer) -> None:
    client = ServerClient(server.url + "/elsewhere")
    with pytest.raises(ServerError, match="no path /elsewhere/v1/chat/completions"):
        list(client.chat(request()))
    server.body = b"<html>not a stream</html>"
    with pytest.raises(ServerError, match="before the answer was complete"):
        list(ServerClient(server.url).chat(request()))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"data: {broken\n\n", "something else than an answer"),
        (b"data: [1]\n\n", "something else than an answer"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "something else than an answer"),
    ],
)
def test_damaged_streams_are_errors(server: LoopbackServer, body: bytes, message: str) -> None:
    server.body = body
    with pytest.raises(ServerError, match=message):
        list(ServerClient(server.url).chat(request()))


def test_a_cut_stream_is_an_error_behind_its_pieces(server: LoopbackServer) -> None:
    server.cut_after = 3
    events = ServerClient(server.url).chat(request())
    assert [next(events) for _ in range(3)]
    with pytest.raises(ServerError, match="before the answer was complete"):
        next(events)


def test_a_full_queue_is_waited_for(server: LoopbackServer) -> None:
    server.slots, server.seconds_per_word = 1, 0.05
    client = ServerClient(server.url)
    first = client.chat(request())
    assert isinstance(next(first), TextPiece)
    rest: list[Any] = []
    thread = threading.Thread(target=lambda: rest.extend(first))
    thread.start()
    events = list(client.chat(request()))
    thread.join()
    assert server.num_refused > 0
    assert any(isinstance(event, Waiting) and event.is_queued for event in events)
    assert isinstance(events[-1], Completion)
    assert isinstance(rest[-1], Completion)


def test_a_queue_that_stays_full_is_an_error(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_client, "MAX_QUEUE_SECONDS", 0.3)
    server.slots = 0
    with pytest.raises(ServerError, match=r"busy: the queue is full.*ask again later"):
        list(ServerClient(server.url).chat(request()))


def test_closing_the_iterator_closes_the_connection(server: LoopbackServer) -> None:
    server.seconds_per_word = 0.1
    events = ServerClient(server.url).chat(request())
    assert isinstance(next(events), TextPiece)
    events.close()
    assert wait_until(lambda: server.num_left == 1)


def test_waiting_is_reported_and_silence_ends(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_client, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(server_client, "MAX_SILENCE", 0.2)
    server.seconds_per_word = 1.0
    events = ServerClient(server.url).chat(request())
    assert isinstance(next(events), Waiting)
    with pytest.raises(ServerError, match=r"sent nothing for|timed out"):
        list(events)


def test_server_sent_events_are_joined_and_bounded() -> None:
    stream = ": comment\ndata: a\ndata: b\nid: 1\n\r\n\ndata:\u00e9\n\ndata: unfinished"
    assert list(server_sent_events(io.BytesIO(stream.encode()), 1000)) == ["a\nb", "\u00e9"]
    with pytest.raises(ServerError, match="more than 0 MiB"):
        list(server_sent_events(io.BytesIO(b"data: " + b"x" * 100), 50))


def test_an_error_of_any_length_is_shortened(server: LoopbackServer) -> None:
    message = json.dumps({"error": {"message": "x" * 100_000}})
    server.body = f"data: {message}\n\n".encode()
    with pytest.raises(ServerError) as caught:
        list(ServerClient(server.url).chat(request()))
    assert len(str(caught.value)) == server_client.MAX_MESSAGE


def test_the_key_is_sent(server: LoopbackServer) -> None:
    list(ServerClient(server.url, "secret").chat(request()))
    list(ServerClient(server.url).chat(request()))
    assert [body["authorization"] for body in server.requests] == ["Bearer secret", None]


def test_a_body_that_is_refused_before_its_end_gives_the_message() -> None:
    """As the server refuses an image that is too large."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                text = json.dumps({"error": {"message": "send a smaller image"}})
                head = f"HTTP/1.1 413 Large\r\nContent-Length: {len(text)}\r\n\r\n"
                connection.sendall((head + text).encode())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = ServerClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ServerError, match="send a smaller image"):
            list(client.chat({"messages": "x" * (8 << 20)}))
        thread.join()
