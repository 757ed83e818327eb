"""The HTTP application: routes, limits and keys.

app = make_app(engine, ServerOptions(model="miniworld-tiny"))   # an ASGI application
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
from glamm_jax.json_files import JSONError, parse_json
from glamm_jax.serving.api_errors import CLIENT_CLOSED, APIError, api_error
from glamm_jax.serving.chat_request import ChatRequest, RequestLimits, parse_chat
from glamm_jax.serving.chat_response import (
    END_OF_STREAM,
    FINISH_REASONS,
    ResponseHead,
    answer_fields,
    event,
)
from glamm_jax.serving.engine import Engine
from glamm_jax.serving.jobs import AnswerJob, EngineError, QueueFullError
from glamm_jax.serving.segmentations import (
    parse_segmentation,
    read_form,
    segmentation_response,
)
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
        allow_image_urls: fetch images from public http(s) URLs.
        threads: that decode images and encode masks.
    """

    model: str
    max_body_bytes: int = 20 << 20
    max_image_pixels: int = 1 << 24
    request_seconds: float = 300.0
    body_seconds: float = 60.0
    api_keys: tuple[str, ...] = ()
    allow_image_urls: bool = False
    threads: int = 2


def make_app(engine: Engine, options: ServerOptions) -> Starlette:
    """Return the ASGI application; the caller starts and stops the engine."""
    server = _Server(engine, options)
    routes = [
        Route("/v1/chat/completions", server.guarded(server.chat), methods=["POST"]),
        Route("/v1/images/segmentations", server.guarded(server.segment), methods=["POST"]),
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
            allow_urls=options.allow_image_urls,
            max_image_bytes=options.max_body_bytes,
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
        with self._admission() as admission:
            body = await read_body(request, self.options.max_body_bytes, self.options.body_seconds)
            parsed, job = await self._in_thread(self._parse, body)
            head = ResponseHead(self.options.model)
            if not parsed.stream:
                answer = await self._answer(request, job)
                return JSONResponse(await self._in_thread(head.completion, job, answer))
            pieces: asyncio.Queue[str] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            self._submit(job, partial(loop.call_soon_threadsafe, pieces.put_nowait))
            end = admission.pop_all()  # the stream goes on when this function has returned
            end.callback(job.cancel)
            return EventStream(self._events(job, pieces, head, parsed.include_usage), end.close)

    async def segment(self, request: Request) -> Response:
        """Answer /v1/images/segmentations."""
        with self._admission():
            body = await read_body(request, self.options.max_body_bytes, self.options.body_seconds)
            fields = await read_form(body, request.headers)
            parsed = await self._in_thread(parse_segmentation, fields, self.limits)
            job = await self._in_thread(self.engine.prepare, parsed.question)
            answer = await self._answer(request, job)
            return JSONResponse(
                await self._in_thread(
                    segmentation_response, answer, parsed.mask_format, self.limits
                )
            )

    def _parse(self, body: bytes) -> tuple[ChatRequest, AnswerJob]:
        try:
            fields = parse_json(body, "the body")
        except JSONError as error:
            raise APIError(str(error), code="invalid_json") from error
        parsed = parse_chat(fields, self.limits)
        return parsed, self.engine.prepare(parsed.question)

    def _submit(self, job: AnswerJob, on_text: Callable[[str], Any] | None = None) -> None:
        self.engine.submit(job, self.options.request_seconds, on_text)

    async def _answer(self, request: Request, job: AnswerJob) -> Answer:
        """Wait for an answer; a client that leaves gives it up."""
        self._submit(job)
        try:
            return await unless_disconnected(request.receive, asyncio.wrap_future(job.future))
        finally:
            job.cancel()

    async def _in_thread(self, work: Callable[..., Value], *arguments: Any) -> Value:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, work, *arguments)

    async def _events(
        self, job: AnswerJob, pieces: asyncio.Queue[str], head: ResponseHead, include_usage: bool
    ) -> AsyncIterator[bytes]:
        """The events of a stream: pieces of the text, the masks, the reason of the end."""
        answered = asyncio.wrap_future(job.future)
        # The last piece is in the queue before the answer is complete.
        answered.add_done_callback(lambda _: pieces.put_nowait(""))
        yield event(head.chunk({"role": "assistant", "content": ""}))
        while piece := await pieces.get():
            yield event(head.chunk({"content": piece}))
        try:
            answer = answered.result()
        except (EngineError, GLaMMError) as error:
            yield event(api_error(error).body())
        else:
            yield event(head.chunk(await self._in_thread(answer_fields, answer)))
            yield event(head.chunk({}, FINISH_REASONS[answer.finish]))
            if include_usage:
                yield event(head.usage_chunk(job))
        yield END_OF_STREAM

    def _admission(self) -> ExitStack:
        """Count a request; refuse it before its body is read, if its question could not wait.

        Returns:
            The end of the count.
        """
        limit = self.engine.options.slots + self.engine.options.max_queue
        if self.num_requests >= limit:
            raise QueueFullError(f"{self.num_requests} requests are being answered; try later")
        self.num_requests += 1
        admission = ExitStack()
        admission.callback(self._leave)
        return admission

    def _leave(self) -> None:
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
