"""The HTTP application: routes, limits and keys.

app = make_app(engine, ServerOptions(model="miniworld-tiny"))   # an ASGI application
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from glamm_jax.errors import GLaMMError
from glamm_jax.inference.answer import Answer
from glamm_jax.inference.answer_rows import Question
from glamm_jax.json_files import JSONError, parse_json
from glamm_jax.serving.api_errors import CLIENT_CLOSED, APIError, api_error
from glamm_jax.serving.chat_request import ChatRequest, RequestLimits, parse_chat
from glamm_jax.serving.chat_response import END_OF_STREAM, ResponseHead, answer_fields, event
from glamm_jax.serving.engine import Engine
from glamm_jax.serving.jobs import EngineError, Job, QueueFullError
from glamm_jax.serving.streams import EventStream, read_body, unless_disconnected

logger = logging.getLogger(__name__)
Value = TypeVar("Value")
Handler = Callable[[Request], Awaitable[Response]]
DEFAULT_ANSWER = 512  # tokens


@dataclass(frozen=True)
class ServerOptions:
    """Limits of requests.

    Attributes:
        model: name of the model, as clients call it.
        max_body_bytes: largest body of a request.
        max_image_pixels: largest image.
        request_seconds: from the end of the request to the end of the answer.
        body_seconds: that a client may take to send its request.
        api_keys: one of which a client must send; none: everybody is served.
        threads: that decode images and encode masks.
    """

    model: str
    max_body_bytes: int = 20 << 20
    max_image_pixels: int = 1 << 24
    request_seconds: float = 300.0
    body_seconds: float = 60.0
    api_keys: tuple[str, ...] = ()
    threads: int = 2


def make_app(engine: Engine, options: ServerOptions) -> Starlette:
    """Return the ASGI application; the caller starts and stops the engine."""
    server = _Server(engine, options)
    routes = [
        Route("/v1/chat/completions", server.guarded(server.chat), methods=["POST"]),
        Route("/v1/models", server.guarded(server.models), methods=["GET"]),
        Route("/v1/models/{model}", server.guarded(server.model), methods=["GET"]),
        Route("/health", server.health, methods=["GET"]),
        Route("/ready", server.readiness, methods=["GET"]),
        Route("/metrics", server.metrics, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


class _Server:
    """The handlers of the routes."""

    def __init__(self, engine: Engine, options: ServerOptions):
        self.engine, self.options = engine, options
        self.threads = ThreadPoolExecutor(options.threads, thread_name_prefix="requests")
        self.num_requests = 0
        self.limits = RequestLimits(
            options.model,
            options.max_image_pixels,
            max_answer=engine.max_answer,
            default_answer=DEFAULT_ANSWER,
        )

    def guarded(self, handler: Handler) -> Handler:
        """Check the key, count the response, and turn errors into refusals."""

        async def respond(request: Request) -> Response:
            try:
                self._check_key(request)
                response = await handler(request)
            except (GLaMMError, EngineError) as error:
                response = _refusal(error)
            except Exception as error:
                logger.exception("a request failed")
                response = _refusal(error)
            path = request.scope["route"].path
            self.engine.metrics.responses.labels(path, str(response.status_code)).inc()
            return response

        return respond

    def _check_key(self, request: Request) -> None:
        keys = self.options.api_keys
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # All keys are compared, so that the time says nothing about them.
        found = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
        if keys and not (scheme.lower() == "bearer" and any(found)):
            raise APIError(
                "the key is missing or wrong: send the header Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )

    # ------------------------------------------------------------------------- answers

    async def chat(self, request: Request) -> Response:
        """Answer /v1/chat/completions."""
        admission = self._admission()
        admission.__enter__()
        is_stream = False
        try:
            parsed, job = await self._prepare(request)
            head = ResponseHead(self.options.model)
            if parsed.stream:
                is_stream = True
                pieces: asyncio.Queue[str] = asyncio.Queue()
                loop = asyncio.get_running_loop()
                post = partial(loop.call_soon_threadsafe, pieces.put_nowait)
                self._submit(job, post)
                return EventStream(self._events(job, pieces, head, parsed, admission))
            self._submit(job)
            answer = await self._wait(request, job)
            return JSONResponse(await self._in_thread(head.completion, job, answer))
        finally:
            if not is_stream:
                admission.__exit__(None, None, None)

    async def _prepare(self, request: Request) -> tuple[ChatRequest, Job]:
        body = await read_body(request, self.options.max_body_bytes, self.options.body_seconds)
        return await self._in_thread(self._parse, body)

    def _parse(self, body: bytes) -> tuple[ChatRequest, Job]:
        try:
            fields = parse_json(body, "the body")
        except JSONError as error:
            raise APIError(str(error), code="invalid_json") from error
        parsed = parse_chat(fields, self.limits)
        return parsed, self._job(parsed.question)

    def _job(self, question: Question) -> Job:
        return self.engine.prepare(question)

    def _submit(self, job: Job, on_text: Callable[[str], Any] | None = None) -> None:
        self.engine.submit(job, self.options.request_seconds, on_text)

    async def _wait(self, request: Request, job: Job) -> Answer:
        """Wait for an answer; a client that leaves gives it up."""
        try:
            return await unless_disconnected(request.receive, asyncio.wrap_future(job.future))
        finally:
            job.cancel()

    async def _in_thread(self, work: Callable[..., Value], *arguments: Any) -> Value:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, work, *arguments)

    async def _events(
        self,
        job: Job,
        pieces: asyncio.Queue[str],
        head: ResponseHead,
        parsed: ChatRequest,
        admission: Any,
    ) -> AsyncIterator[bytes]:
        """The events of a stream: pieces of the text, the masks, the reason of the end."""
        answered = asyncio.wrap_future(job.future)
        try:
            yield event(head.chunk({"role": "assistant", "content": ""}))
            piece = asyncio.ensure_future(pieces.get())
            while not answered.done():
                await asyncio.wait({piece, answered}, return_when=asyncio.FIRST_COMPLETED)
                if piece.done():
                    yield event(head.chunk({"content": piece.result()}))
                    piece = asyncio.ensure_future(pieces.get())
            piece.cancel()
            answer = await answered
            rest = [pieces.get_nowait() for _ in range(pieces.qsize())]
            if piece.done() and not piece.cancelled():
                rest.insert(0, piece.result())
            if rest:
                yield event(head.chunk({"content": "".join(rest)}))
            yield event(head.chunk(await self._in_thread(answer_fields, answer)))
            completion = head.completion(job, answer)["choices"][0]
            yield event(head.chunk({}, completion["finish_reason"]))
            if parsed.include_usage:
                yield event(head.usage_chunk(job))
        except (EngineError, GLaMMError) as error:
            yield event(api_error(error).body())
        finally:
            job.cancel()
            answered.cancel()
            admission.__exit__(None, None, None)
        yield END_OF_STREAM

    @contextmanager
    def _admission(self):
        """Refuse a request before its body is read, if its question could not wait."""
        limit = self.engine.options.slots + self.engine.options.max_queue
        if self.num_requests >= limit:
            raise QueueFullError(f"{self.num_requests} requests are being answered; try later")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    # -------------------------------------------------------------------------- the rest

    async def models(self, _: Request) -> Response:
        """List the only model."""
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        if request.path_params["model"] != self.options.model:
            raise APIError(
                f"there is no such model; this server has {self.options.model!r}",
                "model",
                status=404,
                code="model_not_found",
            )
        return JSONResponse(self._model_object())

    def _model_object(self) -> dict[str, Any]:
        return {
            "id": self.options.model,
            "object": "model",
            "created": 0,
            "owned_by": "glamm-jax",
            "max_model_len": self.engine.assistant.config.llama.max_positions,
        }

    async def health(self, _: Request) -> Response:
        """Say that the process and the engine's thread live."""
        alive = self.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 500)

    async def readiness(self, _: Request) -> Response:
        """Say whether questions are taken."""
        status = "ready"
        if not self.engine.ready.is_set():
            status = "starting"
        elif self.engine.is_draining:
            status = "draining"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, _: Request) -> Response:
        """Return the metrics."""
        return Response(self.engine.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _refusal(error: Exception) -> Response:
    refused = api_error(error)
    if refused.status == CLIENT_CLOSED:
        return Response(status_code=CLIENT_CLOSED)  # nobody reads it
    return JSONResponse(refused.body(), refused.status, headers=refused.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {404: "there is no such path", 405: "the path has no such method"}
    message = reasons.get(error.status_code, error.detail)
    refused = APIError(message, status=error.status_code, code="not_found")
    return JSONResponse(refused.body(), refused.status, headers=error.headers)
