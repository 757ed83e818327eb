"""A server on the loopback device that speaks the API of `glamm-jax serve`, without a model.

The answer has the digest of the image and the number of the question, so that a test sees whose
answer it is; its masks are the left and the right half of the image.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.data import rle

MODEL = "halves"


@dataclass
class LoopbackServer:
    """Options of the server, and what it has seen.

    Attributes:
        seconds_per_word: of the streamed text.
        slots: requests that are answered at once; others get 429.
        cut_after: words after which the connection is closed.
        requests: bodies of all chat requests.
        num_left: clients that closed the connection before the end.
        num_refused: requests that got 429.
    """

    seconds_per_word: float = 0.0
    slots: int = 64
    cut_after: int = -1
    body: bytes = b""  # sent instead of an answer
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    num_left: int = 0
    num_refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    num_active: int = 0


def image_digest(data: bytes) -> str:
    """The name of an image in an answer: of its pixels, not of its file."""
    return hashlib.sha256(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).hexdigest()[:8]


def halves(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    left = np.zeros((height, width), bool)
    left[:, : width // 2] = True
    return left, ~left


@contextmanager
def serve(server: LoopbackServer) -> Iterator[LoopbackServer]:
    """Run the server in threads."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/ready":
                self._send(200, {"status": "ready"})
            else:
                self._send(404, {"error": {"message": f"no path {self.path}"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.startswith("/v1/"):
                self._send(404, {"error": {"message": f"no path {self.path}"}})
                return
            body["authorization"] = self.headers["Authorization"]
            with server.lock:
                server.requests.append(body)
                is_free = server.num_active < server.slots
                server.num_active += is_free
                server.num_refused += not is_free
            if not is_free:
                error = {"message": "the queue is full", "code": "queue_full"}
                self._send(429, {"error": error}, {"Retry-After": "0.2"})
                return
            try:
                self._answer(body)
            except (BrokenPipeError, ConnectionResetError):
                with server.lock:
                    server.num_left += 1
            finally:
                with server.lock:
                    server.num_active -= 1

        def _answer(self, body: dict[str, Any]) -> None:
            users = [m for m in body["messages"] if m["role"] == "user"]
            texts = [part["text"] for m in users for part in m["content"] if "text" in part]
            if "fail" in texts[-1]:
                self._send(400, {"error": {"message": "the question <b>fails</b>", "code": "x"}})
                return
            if sum(text.count("<bbox>") for text in texts) != len(body["regions"]):
                self._send(400, {"error": {"message": "number of boxes and of <bbox> differ"}})
                return
            url = users[0]["content"][0]["image_url"]["url"]
            data = base64.b64decode(url.partition(",")[2])
            with Image.open(io.BytesIO(data)) as image:
                masks = halves(*image.size)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if server.body:
                self.wfile.write(server.body)
                return
            text = f"A left part is beside a right part of {image_digest(data)} in {len(users)}."
            words = text.split(" ")
            for i, word in enumerate(words):
                if i == server.cut_after:
                    return
                time.sleep(server.seconds_per_word)
                self._event({"content": word + " " * (i + 1 < len(words))})
            phrases = ("A left part", "a right part")
            groundings = [
                {
                    "phrase": phrase,
                    "start": text.index(phrase),
                    "end": text.index(phrase) + len(phrase),
                    "score": 0.75,
                    "segmentation": rle.encode(mask),
                    "bbox": [0, 0, 1, 1],
                }
                for phrase, mask in zip(phrases, masks, strict=True)
            ]
            raw = text
            for phrase in phrases:
                raw = raw.replace(phrase, f"<p> {phrase} </p> [SEG]")
            final = {"groundings": groundings, "prompt_groundings": [], "raw": raw, "problems": []}
            self._event(final)
            self._event({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            chunk = {"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def _send(self, status: int, body: dict[str, Any], headers: Any = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

    httpd = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
