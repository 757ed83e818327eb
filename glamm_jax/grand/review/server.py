"""The web server of the review page, for the machine that it runs on.

    app = make_review_app(desk, ReviewAddress("127.0.0.1", 8765))       # an ASGI application
    serve_review(app, listener)                                         # until a signal

The page and its files come from this package; it loads nothing else, and a content policy forbids
it to. A request must name the server by a name that it goes by (so that no other site's name can be
pointed at it), and must not come from a page of another origin.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from glamm_jax.errors import GLaMMError, printable
from glamm_jax.grand.review.decisions import DecisionConflictError
from glamm_jax.grand.review.reviewing import NoSuchImageError, ReviewDesk
from glamm_jax.http_server import CLOSE_SECONDS, SignalServer
from glamm_jax.json_files import JSONError, JSONObject, parse_json

PAGE = Path(__file__).parent / "page"
# Path of the page -> file, media type.
FILES = {
    "/": ("review.html", "text/html"),
    "/review.css": ("review.css", "text/css"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("elements", "editing", "state", "picture", "captions", "regions", "review")
    },
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_BODY_BYTES = 64 << 20
MAX_SESSION = 64  # characters


@dataclass(frozen=True)
class ReviewAddress:
    """Where the server listens, and the names that it goes by.

    Attributes:
        host: address that it listens at.
        port: of the address.
        names: further names of this server in addresses of the page.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{_authority(self.host, self.port)}/"

    @property
    def hosts(self) -> frozenset[str]:
        """The values of the header Host that are answered."""
        names = ("localhost", "127.0.0.1", "::1", self.host, *self.names)
        return frozenset(
            form.lower() for name in names for form in (_authority(name, self.port), name)
        )


def _authority(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def make_review_app(desk: ReviewDesk, address: ReviewAddress) -> Starlette:
    """Return the ASGI application.

    Args:
        desk: that answers.
        address: of the server.
    """
    handlers = _Handlers(desk, address.hosts)
    routes = [Route(path, handlers.guarded(handlers.file)) for path in FILES]
    gets = {"run": handlers.run, "next": handlers.next, "list": handlers.listing}
    gets |= {"image": handlers.image, "pixels": handlers.pixels}
    routes += [Route(f"/api/{name}", handlers.guarded(handler)) for name, handler in gets.items()]
    for name, work in (("decide", desk.decide), ("mask", desk.mask)):
        handler = handlers.guarded(partial(handlers.post, work))
        routes.append(Route(f"/api/{name}", handler, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


class _RefusedError(GLaMMError):
    """A request from another page, or to another name."""


class _Handlers:
    """The handlers of the routes."""

    def __init__(self, desk: ReviewDesk, hosts: frozenset[str]):
        self._desk, self._hosts = desk, hosts

    def guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """Refuse foreign requests, and turn errors into messages."""

        async def respond(request: Request) -> Response:
            try:
                self._check_origin(request)
                response = await handler(request)
            except GLaMMError as error:
                response = JSONResponse({"error": printable(str(error))}, _status(error))
            response.headers.update(HEADERS)
            return response

        return respond

    def _check_origin(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if host not in self._hosts:
            raise _RefusedError(
                f"this server does not go by the name {host!r}; start it with --allow-host"
            )
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() != f"{request.url.scheme}://{host}":
            raise _RefusedError(f"requests of pages of {origin} are refused")
        site = request.headers.get("sec-fetch-site", "none")
        is_visit = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not is_visit:
            raise _RefusedError("requests of other pages are refused")

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        name, media_type = FILES[request.url.path]
        return Response((PAGE / name).read_bytes(), media_type=media_type)

    async def run(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._desk.run))

    async def next(self, request: Request) -> Response:
        query = request.query_params
        work = partial(
            self._desk.next, query.get("state", ""), _session(request), query.get("current")
        )
        return JSONResponse(await run_in_threadpool(work))

    async def listing(self, request: Request) -> Response:
        query = request.query_params
        numbers = (_number(query.get(name, "0"), name) for name in ("offset", "limit"))
        work = partial(self._desk.listing, query.get("state", ""), *numbers)
        return JSONResponse(await run_in_threadpool(work))

    async def image(self, request: Request) -> Response:
        work = partial(self._desk.image, request.query_params.get("image", ""), _session(request))
        return JSONResponse(await run_in_threadpool(work))

    async def pixels(self, request: Request) -> Response:
        image_id = request.query_params.get("image", "")
        data = await run_in_threadpool(self._desk.pixels, image_id)
        return Response(data, media_type="image/jpeg")

    async def post(self, work: Callable[[JSONObject], Any], request: Request) -> Response:
        """Answer a request with a JSON object."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise JSONError("the request is not application/json")
        body = await _read_body(request)

        def answer() -> Any:
            where = "the request"
            return work(JSONObject(parse_json(body, where), where))

        return JSONResponse(await run_in_threadpool(answer))


async def _read_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise JSONError(f"the request has more than {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _session(request: Request) -> str:
    return request.query_params.get("session", "")[:MAX_SESSION]


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise JSONError(f"{name} = {text[:20]!r} is not a whole number")
    return int(text)


def _status(error: GLaMMError) -> int:
    if isinstance(error, _RefusedError):
        return 403
    if isinstance(error, NoSuchImageError):
        return 404
    return 409 if isinstance(error, DecisionConflictError) else 400


async def _http_error(request: Request, error: Any) -> Response:
    status = error.status_code
    return JSONResponse({"error": f"{request.method} is not answered here"}, status)


# ------------------------------------------------------------------ the process


def serve_review(app: Starlette, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        app: as `make_review_app` returns it.
        listener: as `glamm_jax.http_server.listen` returns it.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=CLOSE_SECONDS,
        server_header=False,
        lifespan="off",
    )
    asyncio.run(SignalServer(config).serve([listener]))
