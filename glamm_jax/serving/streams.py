"""Requests whose client may leave: bodies of bounded size, and streams of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glamm_jax.serving.api_errors import APIError
from glamm_jax.serving.jobs import CancelledError

logger = logging.getLogger(__name__)
Value = TypeVar("Value")


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Return the body of a request.

    Args:
        request: whose body is not read yet.
        max_bytes: largest body.
        seconds: that the client may take to send it.

    Raises:
        APIError: it is too large or too slow.
        CancelledError: the client has left.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(part)
    except ClientDisconnect as error:
        raise CancelledError("the client left before the request was complete") from error
    except TimeoutError as error:
        raise APIError(
            f"the body did not arrive within {seconds:g} seconds", status=408, code="slow_body"
        ) from error
    return b"".join(parts)


def _too_large(max_bytes: int) -> APIError:
    return APIError(
        f"the body has more than {max_bytes} bytes: send a smaller image",
        status=413,
        code="body_too_large",
    )


async def unless_disconnected(receive: Receive, work: Awaitable[Value]) -> Value:
    """Wait for work; end it if the client leaves.

    Args:
        receive: of the request, whose body has been read.
        work: to wait for.

    Raises:
        CancelledError: the client has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CancelledError("the client left")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events, which ends when the client leaves.

    Args:
        events: to be sent.
        on_end: called at the end, also if nothing could be sent.
    """

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]):
        super().__init__(None, media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"  # nginx would collect the events
        self.events, self.on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            await unless_disconnected(receive, self._send_all(send))
        except (CancelledError, OSError):
            logger.info("the client of a stream left")
        finally:
            self.on_end()

    async def _send_all(self, send: Send) -> None:
        async for part in self.events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
