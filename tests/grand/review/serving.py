"""The review page of a run, served in a thread."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from glamm_jax.grand.review.decisions import DecisionLog
from glamm_jax.grand.review.queue import ReviewQueue
from glamm_jax.grand.review.reviewing import ReviewDesk
from glamm_jax.grand.review.segmenting import BoxSegmenter
from glamm_jax.grand.review.server import (
    ReviewAddress,
    make_review_app,
)
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.http_server import listen
from tests.grand.review.conftest import ROLES

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ReviewClient:
    """Sends requests to a review page."""

    port: int
    run: AnnotationRun

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        """Return status, headers, and the body: parsed if it is JSON."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=30)
        own = {"Content-Type": "application/json"} if body is not None else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**own, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, response.headers, json.loads(content) if is_json else content

    def decisions(self) -> list[dict[str, Any]]:
        """The lines of the file of decisions."""
        path = Path(self.run.path) / "review" / "decisions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def oracle_segmenter(run: AnnotationRun) -> BoxSegmenter:
    """The segmenter that answers from the truth."""
    roles = read_roles(ROLES / "oracle.toml", photographs=Path(run.root))
    assert roles.segmenter is not None
    return BoxSegmenter(roles.segmenter)


@contextmanager
def review_server(run: AnnotationRun, *, has_segmenter: bool = True) -> Iterator[ReviewClient]:
    """Serve the page of a run on a free port."""
    queue = ReviewQueue(run, DecisionLog(run.path))
    segmenter = oracle_segmenter(run) if has_segmenter else None
    desk = ReviewDesk(run, queue, segmenter, "ann")
    with listen(LOOPBACK, 0) as listener:
        port = listener.getsockname()[1]
        app = make_review_app(desk, ReviewAddress(LOOPBACK, port, ("review.example.org",)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        queue.start().join()
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield ReviewClient(port, run)
        finally:
            server.should_exit = True
            thread.join(30)
