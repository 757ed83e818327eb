"""Requests to an OpenAI-compatible endpoint: in parallel, with retries, limits and a key.

    client = EndpointClient(EndpointOptions("http://127.0.0.1:8000/v1", "vicuna-13b"))
    client.open()                                   # is it there, and does it have the model?
    client.chat([ChatCall(({"role": "user", "content": "Hello"},), seed=0)])

An answer that may come later is requested again: after the seconds that the server states, or after
a time that doubles. The key is read from an environment variable, and is in no message.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any
from urllib.parse import urlsplit

from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.grand.adapters.endpoint.usage import TokenPrices, UsageMeter
from glamm_jax.grand.roles import LLMAnswer, RoleError
from glamm_jax.grand.stages import one_line
from glamm_jax.json_files import JSONError, JSONObject, parse_json

RETRIED_STATUSES = frozenset((408, 409, 425, 429))  # and all from 500 on
INPUT_STATUSES = frozenset((400, 413, 415, 422))  # this request cannot be answered
KEY_STATUSES = frozenset((401, 403))
LONGEST_WAIT = 120.0  # seconds between two attempts
MAX_REPLY = 16 << 20  # bytes
MAX_ERROR = 2000  # bytes of an error's body that are read
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What an answer ends with -> finish_reason of LLMAnswer.
_FINISHED = {"stop": "stop", "length": "length", None: "stop", "eos": "stop"}


class EndpointError(GLaMMError):
    """An endpoint cannot be used. Names its address and says why."""


@dataclass(frozen=True)
class EndpointOptions:
    """How an endpoint is used.

    Attributes:
        url: address, such as "https://HOST/v1"; without `/chat/completions`.
        model: name of the model at the endpoint.
        api_key_env: name of the environment variable with the key; "": no key is sent.
        max_tokens: of an answer; 0: the field is left out.
        temperature: of the sampling; None: the field is left out.
        send_seed: whether requests have a seed.
        extra: further fields of each request, such as {"top_p": 0.95}.
        concurrency: requests at a time, of each worker.
        requests_per_minute: of all workers of this machine together; 0: any.
        timeout: seconds without a byte of the answer.
        attempts: for one request.
        wait: seconds before the second attempt; they double with each further one.
        prices: of tokens.
    """

    url: str
    model: str
    api_key_env: str = ""
    max_tokens: int = 512
    temperature: float | None = 0.0
    send_seed: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    requests_per_minute: float = 0.0
    timeout: float = 120.0
    attempts: int = 6
    wait: float = 1.0
    prices: TokenPrices = field(default_factory=TokenPrices)

    def __post_init__(self) -> None:
        self._check_address()
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError('model = "NAME": the name of the model at the endpoint is missing')
        if self.api_key_env and not _VARIABLE.fullmatch(self.api_key_env):
            # Not shown: it may be the key itself.
            raise ConfigError(
                "api_key_env is not the name of an environment variable; a key is never written "
                "into a file: export it, and give its name"
            )
        for name, low in (("max_tokens", 0), ("concurrency", 1), ("attempts", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name} = {value!r} is not a whole number of at least {low}")
        numbers = {name: getattr(self, name) for name in ("requests_per_minute", "timeout", "wait")}
        if self.temperature is not None:
            numbers["temperature"] = self.temperature
        for name, value in numbers.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf") or (name == "timeout" and not value):
                raise ConfigError(f"{name} = {value!r} is not a possible number")
        if not isinstance(self.extra, dict):
            raise ConfigError("extra is not a table of fields")
        for name in self.extra:
            if name in ("model", "messages", "stream", "n"):
                raise ConfigError(f"extra: {name} cannot be set")

    def _check_address(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
            has_key = parts.username is not None or parts.password is not None
            _ = parts.port
        except (ValueError, AttributeError, TypeError):
            raise ConfigError('url is not an address; use url = "http://HOST:PORT/v1"') from None
        if has_key or (is_address and (parts.query or parts.fragment)):
            # Not shown: it may have a key.
            raise ConfigError("url has a user, a query or a fragment; keys belong in api_key_env")
        if not is_address:
            raise ConfigError(f"url = {self.url!r} is not an address; use http://HOST:PORT/v1")

    @property
    def base(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/").removesuffix("/chat/completions")

    @property
    def identity(self) -> str:
        """What results depend on: not the address, and not how often and how fast one asks."""
        content = [self.model, self.max_tokens, self.temperature, self.send_seed, self.extra]
        try:
            return json.dumps(content, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra has a value that JSON does not have: {error}") from error


@dataclass(frozen=True)
class ChatCall:
    """A request.

    Attributes:
        messages: in the form of the API.
        seed: of the sampling, and of the random part of waiting times.
    """

    messages: tuple[dict[str, Any], ...]
    seed: int


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another address would get the key."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass; `seconds` is what the server wants us to wait."""

    def __init__(self, problem: str, seconds: float | None = None):
        super().__init__(problem)
        self.seconds = seconds


class EndpointClient:
    """Sends requests; can be sent to another process before it is opened.

    Attributes:
        options: as given.
        meter: counts what the requests took.
    """

    def __init__(self, options: EndpointOptions):
        """Remember the options; nothing is sent."""
        self.options = options
        self.meter = UsageMeter(options.prices)
        self._opener = urllib.request.build_opener(_NoRedirects())

    def __reduce__(self) -> tuple[Any, ...]:
        return EndpointClient, (self.options,)

    def open(self) -> None:
        """Check that the endpoint answers, takes the key, and has the model, if it lists models.

        Raises:
            EndpointError: it does not.
        """
        where = f"{self.options.base}/models"
        self._key()
        for attempt in range(self.options.attempts):
            try:
                status, reply = self._exchange(where, None)
                break
            except _TryAgainError as error:
                if attempt + 1 == self.options.attempts:
                    raise EndpointError(
                        f"{self.options.base}: {error}; is the server running?"
                    ) from error
                sleep(self._pause(error, attempt, 0))
        else:
            raise AssertionError
        if status in KEY_STATUSES:
            raise EndpointError(f"{self.options.base}: {_refusal(status, reply)}{self._key_advice}")
        if status >= 300:  # a server without a list of models
            return
        try:
            models = parse_json(reply, where)["data"]
            names = [model["id"] for model in models]
        except (JSONError, LookupError, TypeError):
            return
        if names and self.options.model not in names:
            shown = ", ".join(map(str, names[:10]))
            raise EndpointError(
                f"{self.options.base}: has no model {self.options.model!r}; there are: {shown}"
            )

    def chat(self, calls: Sequence[ChatCall]) -> list[LLMAnswer | RoleError]:
        """Send requests in parallel; returns an answer or an error for each, in order."""
        if len(calls) <= 1:
            return [self._answer(call) for call in calls]
        with ThreadPoolExecutor(min(self.options.concurrency, len(calls))) as pool:
            return list(pool.map(self._answer, calls))

    def _answer(self, call: ChatCall) -> LLMAnswer | RoleError:
        options = self.options
        try:
            body = json.dumps(self._body(call)).encode()
        except (TypeError, ValueError) as error:
            return RoleError("input", one_line(f"the request is not JSON: {error}"))
        problem = ""
        for attempt in range(options.attempts):
            _wait_for_turn(options.base, options.requests_per_minute)
            started = monotonic()
            counts = {"requests": 1, "retries": int(attempt > 0)}
            try:
                status, reply = self._exchange(f"{options.base}/chat/completions", body)
                if status >= 300:  # a redirection, too, is no answer
                    self.meter.add({"failures": 1})
                    kind = "input" if status in INPUT_STATUSES else "model"
                    advice = self._key_advice if status in KEY_STATUSES else ""
                    return RoleError(kind, one_line(f"{_refusal(status, reply)}{advice}"))
                answer, tokens = _read_reply(reply)
                counts |= tokens
                return answer
            except _TryAgainError as error:
                problem = str(error)
                if attempt + 1 < options.attempts:
                    pause = self._pause(error, attempt, call.seed)
                    sleep(pause)
            finally:
                self.meter.add(counts | {"seconds": monotonic() - started})
        self.meter.add({"failures": 1})
        return RoleError(
            "model", one_line(f"no answer in {options.attempts} attempts; the last: {problem}")
        )

    def _body(self, call: ChatCall) -> dict[str, Any]:
        options = self.options
        body: dict[str, Any] = {"model": options.model, "messages": list(call.messages)}
        if options.max_tokens:
            body["max_tokens"] = options.max_tokens
        if options.temperature is not None:
            body["temperature"] = options.temperature
        if options.send_seed:
            body["seed"] = call.seed
        return body | options.extra

    def _key(self) -> str:
        """Return the key, or "" if none is sent."""
        name = self.options.api_key_env
        if not name:
            return ""
        key = os.environ.get(name, "").strip()
        if not key:
            raise EndpointError(f"the environment variable {name} has no key; export it")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(f"the environment variable {name} has characters that no key has")
        return key

    @property
    def _key_advice(self) -> str:
        name = self.options.api_key_env
        return f"; the key is that of ${name}" if name else '; give api_key_env = "VARIABLE"'

    def _exchange(self, address: str, body: bytes | None) -> tuple[int, bytes]:
        """Return status and body of a response that is final.

        Raises:
            _TryAgainError: it is not, or there is none.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(address, body, headers)
        try:
            with self._opener.open(request, timeout=self.options.timeout) as response:
                reply = response.read(MAX_REPLY + 1)
                if len(reply) > MAX_REPLY:
                    raise _TryAgainError(f"the answer has more than {MAX_REPLY} bytes")
                return response.status, reply
        except urllib.error.HTTPError as error:
            with error:
                status, reply, delay = error.code, b"", _retry_after(error.headers)
                with suppress(OSError, http.client.HTTPException):
                    reply = error.read(MAX_ERROR)
            reply = _without(reply, key)
            if status in RETRIED_STATUSES or status >= 500:
                raise _TryAgainError(_refusal(status, reply), delay) from None
            return status, reply
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            text = f"{type(reason).__name__}: {reason}" if not isinstance(reason, str) else reason
            raise _TryAgainError(_without(text.encode(), key).decode()) from None

    def _pause(self, error: _TryAgainError, attempt: int, seed: int) -> float:
        """Return the seconds before the next attempt, with a random part, so that not all meet."""
        if error.seconds is not None:
            return min(error.seconds, LONGEST_WAIT)
        share = random.Random(f"{seed} {attempt}").uniform(0.5, 1.0)
        return min(self.options.wait * 2**attempt, LONGEST_WAIT) * share


def _read_reply(reply: bytes) -> tuple[LLMAnswer | RoleError, dict[str, int]]:
    """Return the answer and its tokens.

    Raises:
        _TryAgainError: it is not an answer of the API.
    """
    try:
        fields = JSONObject(parse_json(reply, "the answer"), "the answer")
        choices = fields.objects("choices")
        if not choices:
            raise JSONError("the answer has no choices")
        message = choices[0].object("message")
        text, reason = message.text("content", ""), choices[0].text("finish_reason", None)
        usage = fields.object("usage", None)
        tokens = {
            name: usage.integer(name, 0, 0)
            for name in ("prompt_tokens", "completion_tokens")
            if usage is not None
        }
    except JSONError as error:
        raise _TryAgainError(one_line(error)) from None
    if reason not in _FINISHED:
        return RoleError("output", one_line(f"the answer ended with {reason!r}")), tokens
    return LLMAnswer(text, _FINISHED[reason]), tokens


def _refusal(status: int, reply: bytes) -> str:
    """Return status and message of an error of the API."""
    try:
        error = parse_json(reply, "error")["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (JSONError, LookupError, TypeError):
        text = reply.decode("utf-8", "replace")
    return f"status {status}: {one_line(text)}"


def _retry_after(headers: Any) -> float | None:
    """Return the seconds of a header Retry-After: a number, or a date."""
    text = headers.get("Retry-After", "").strip()
    try:
        return (
            max(0.0, float(text))
            if re.fullmatch(r"\d+(\.\d*)?", text)
            else max(0.0, parsedate_to_datetime(text).timestamp() - time())
        )
    except (TypeError, ValueError, OverflowError):
        return None


def _without(text: bytes, key: str) -> bytes:
    """Return a text of a server without the key that it may repeat."""
    return text.replace(key.encode(), b"***") if key else text


_turn_lock = threading.Lock()


def _wait_for_turn(address: str, requests_per_minute: float) -> None:
    """Wait until a request may be sent.

    The time of the next one is in a file, so that all workers of the machine share the limit.
    """
    if not requests_per_minute:
        return
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"glamm-jax-turns-{os.getuid()}-{digest}"
    with _turn_lock:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time()
            try:
                turn = float(file.read(64) or b"0")
            except ValueError:
                turn = 0.0
            interval = 60.0 / requests_per_minute
            # A time far ahead is of another clock.
            turn = max(now, turn) if turn < now + 3600 else now
            file.seek(0)
            file.truncate()
            file.write(repr(turn + interval).encode())
    sleep(max(0.0, turn - now))
