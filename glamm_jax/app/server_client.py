"""Client of the API server: chat completions whose text arrives while it is generated.

    for event in ServerClient("http://127.0.0.1:8000").chat(request):
        ...                 # Waiting, TextPiece, ..., Completion

The server is reached directly: proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from glamm_jax.errors import GLaMMError

MAX_BODY = 64 << 20  # bytes of an answer
MAX_ERROR_BODY = 1 << 20
MAX_MESSAGE = 1000  # characters of an error message that are shown
POLL_SECONDS = 1.0  # between two `Waiting` while nothing arrives
READY_SECONDS = 10.0  # for the answer whether a server is ready
MAX_SILENCE = 600.0  # seconds; the first answer of a server compiles its programs
MAX_QUEUE_SECONDS = 300.0  # how long a question waits for a place in the server's queue
RETRY_SECONDS = 2.0  # if the server does not say how long to wait
TOO_MANY_REQUESTS = 429
_INTERRUPTED = "The server ended the connection before the answer was complete; see its log."


class ServerError(GLaMMError):
    """The server cannot be reached, refuses a request, or sends what is not an answer."""


class ServerBusyError(ServerError):
    """The queue of the server is full. `retry_after` is the time to wait in seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Waiting:
    """Nothing arrived for a second.

    Attributes:
        seconds: since the question was sent.
        is_queued: the server's queue is full, and the question is sent again.
    """

    seconds: float
    is_queued: bool = False


@dataclass(frozen=True)
class TextPiece:
    """A piece of the answer's text, to be appended."""

    text: str


@dataclass(frozen=True)
class Completion:
    """The end of an answer.

    Attributes:
        fields: those of the last messages: raw, groundings, prompt_groundings, problems.
        finish_reason: as the server says.
    """

    fields: dict[str, Any] = field(repr=False)
    finish_reason: str = ""


Event = Waiting | TextPiece | Completion


class ServerClient:
    """Requests to one server. Any number of threads may use it."""

    def __init__(self, url: str, api_key: str = ""):
        """Take the address of a server.

        Args:
            url: such as http://127.0.0.1:8000.
            api_key: that the server wants; empty: none.

        Raises:
            ServerError: the address is no http or https URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ServerError(f"{url}: the port is not a number from 0 to 65535") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(
                f"{url!r} is not the address of a server; one is http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/")
        self._is_tls, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def is_ready(self) -> bool:
        """Return whether the server answers questions now; False if it cannot be reached."""
        exchange = _Exchange(self._connection(timeout=READY_SECONDS))
        try:
            self._response(exchange, "GET", "/ready", None, {}).read(MAX_ERROR_BODY)
        except (ServerError, OSError, http.client.HTTPException):
            return False
        finally:
            exchange.close()
        return True

    def chat(self, request: Mapping[str, Any]) -> Iterator[Event]:
        """Ask for a chat completion; a full queue of the server is waited for.

        When the iterator is closed, the connection is, too, and the server stops to generate.

        Args:
            request: body of the request without `stream`.

        Yields:
            `Waiting` each second in which nothing arrives, pieces of the text, a `Completion`.

        Raises:
            ServerError: the server cannot be reached, refuses the request, ends the connection, is
                silent or has a full queue for too long.
        """
        started = time.monotonic()
        while True:
            try:
                yield from self._chat_once(request, started)
                return
            except ServerBusyError as error:
                waited = time.monotonic() - started
                if waited + error.retry_after > MAX_QUEUE_SECONDS:
                    raise ServerError(
                        f"The server is busy: {error}. The question waited {waited:.0f} seconds; "
                        "ask again later."
                    ) from error
                again = time.monotonic() + error.retry_after
            while (now := time.monotonic()) < again:
                yield Waiting(now - started, is_queued=True)
                time.sleep(min(POLL_SECONDS, again - now))

    def _chat_once(self, request: Mapping[str, Any], started: float) -> Iterator[Event]:
        """Send one request. A thread reads, so that a silent server can be left at any time."""
        events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        exchange = _Exchange(self._connection())

        def read() -> None:
            try:
                self._read_chat(exchange, json.dumps({**request, "stream": True}), events.put)
                events.put(None)
            except (OSError, http.client.HTTPException) as error:
                events.put(ServerError(f"{_INTERRUPTED} ({error or type(error).__name__})"))
            except Exception as error:  # raised in the thread that waits for the events
                events.put(error)
            finally:
                exchange.close()

        thread = threading.Thread(target=read, name="glamm-jax chat", daemon=True)
        thread.start()
        try:
            silence = time.monotonic()
            while True:
                try:
                    event = events.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    now = time.monotonic()
                    if now - silence > MAX_SILENCE:
                        raise ServerError(
                            f"The server sent nothing for {MAX_SILENCE:.0f} seconds."
                        ) from None
                    yield Waiting(now - started)
                    continue
                if event is None:
                    return
                if isinstance(event, Exception):
                    raise event
                silence = time.monotonic()
                yield event
        finally:
            exchange.interrupt()

    def _read_chat(self, exchange: _Exchange, body: str, put: Callable[[Event], None]) -> None:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        response = self._response(exchange, "POST", "/v1/chat/completions", body, headers)
        fields: dict[str, Any] = {}
        finish_reason = ""
        for data in server_sent_events(response, MAX_BODY):
            if data == "[DONE]":
                put(Completion(fields, finish_reason))
                return
            choice = _first_choice(data)
            delta = dict(choice.get("delta") or {})
            text = delta.pop("content", None)
            if text:
                put(TextPiece(str(text)))
            fields.update(delta)
            finish_reason = str(choice.get("finish_reason") or finish_reason)
        raise ServerError(_INTERRUPTED)

    def _connection(self, timeout: float = MAX_SILENCE) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout)

    def _response(
        self,
        exchange: _Exchange,
        method: str,
        path: str,
        body: str | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        """Return the response, if its status is that of success."""
        try:
            response = exchange.send(method, self._path + path, body, self._headers | headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if response.status < 400:
            return response
        message = _error_message(response.read(MAX_ERROR_BODY))
        if response.status == TOO_MANY_REQUESTS:
            raise ServerBusyError(message or "its queue is full", _retry_after(response))
        if not message:
            raise ServerError(
                f"{self.url} answered {response.status} {response.reason}. Is it the address of "
                "a GLaMM-JAX server?"
            )
        raise ServerError(message)

    def _unreachable(self, error: Exception) -> ServerError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServerError(
            f"The server {self.url} cannot be reached: {reason}. Is it running? "
            "`glamm-jax serve --model MODEL` starts one."
        )


class _Exchange:
    """A request and its response, which another thread may interrupt."""

    def __init__(self, connection: http.client.HTTPConnection):
        self._connection = connection
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._is_interrupted = False

    def send(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send the request, and return the response when its head has arrived."""
        self._connection.connect()
        self._socket = self._connection.sock  # the connection forgets it with the response
        if self._is_interrupted:
            self.interrupt()
        # A server that refuses a large body answers before it has read all of it.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(method, path, body and body.encode(), headers)
        self._response = self._connection.getresponse()
        return self._response

    def interrupt(self) -> None:
        """End the connection: the thread that reads from it gets an error or the end."""
        self._is_interrupted = True
        if self._socket is not None:
            with suppress(OSError):  # it has ended
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket; called by the thread that reads."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def server_sent_events(stream: Any, max_bytes: int) -> Iterator[str]:
    """Yield the data of server-sent events; comments and other fields are skipped.

    Args:
        stream: has `readline`.
        max_bytes: of all events together.

    Raises:
        ServerError: there are more bytes.
    """
    lines: list[str] = []
    remaining = max_bytes
    while raw := stream.readline(remaining + 1):
        remaining -= len(raw)
        if remaining < 0:
            raise ServerError(f"The answer of the server has more than {max_bytes >> 20} MiB.")
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                lines.append(value.removeprefix(" "))
        elif lines:
            yield "\n".join(lines)
            lines = []


def _first_choice(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServerError(_error_message(data.encode()) or "The server failed; see its log.")
        return dict(chunk["choices"][0]) if chunk["choices"] else {}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, ServerError):
            raise
        raise ServerError(f"The server sent something else than an answer: {data[:80]!r}") from None


def _error_message(body: bytes) -> str:
    """Return the message of an error in the form of the OpenAI API; "" for another body."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return str(message)[:MAX_MESSAGE]


def _retry_after(response: http.client.HTTPResponse) -> float:
    try:
        return min(60.0, max(0.1, float(response.headers["Retry-After"])))
    except (TypeError, ValueError):
        return RETRY_SECONDS
