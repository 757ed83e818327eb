"""A server on the loopback address that answers requests by rules, and fails as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class ScriptedEndpoint:
    """The state of a server.

    Attributes:
        url: of the server.
        answer: the text of the answer to a request.
        failures: replies to the next requests, instead of answers; None: no reply in time.
        key: that requests must have; "": any.
        bodies: of all requests for answers, in the order of their arrival.
        times: of their arrival, in seconds.
        busy: requests that are answered now, and the largest number so far.
    """

    url: str = ""
    answer: Callable[[dict[str, Any]], str] = lambda body: "A dog."
    failures: list[Reply | None] = field(default_factory=list)
    key: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    busy: list[int] = field(default_factory=lambda: [0, 0])
    delay: float = 0.0


def error(status: int, message: str, **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


def completion(text: str | None, finish_reason: str | None = "stop") -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


@contextmanager
def scripted_endpoint() -> Iterator[ScriptedEndpoint]:
    """Serve on a free port."""
    state = ScriptedEndpoint()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            if self._is_refused():
                return
            names = {"data": [{"id": "model"}]} if self.path == "/v1/models" else {}
            self._send((200 if names else 404, {}, json.dumps(names).encode()))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self._is_refused():
                return
            with lock:
                state.bodies.append(json.loads(body))
                state.times.append(time.monotonic())
                state.busy[0] += 1
                state.busy[1] = max(state.busy)
                reply = state.failures.pop(0) if state.failures else ()
            time.sleep(state.delay)
            with lock:
                state.busy[0] -= 1
            if reply is None:
                time.sleep(1.0)
                self.close_connection = True
            else:
                self._send(reply or completion(state.answer(json.loads(body))))

        def _is_refused(self) -> bool:
            given = self.headers.get("Authorization", "")
            if state.key and given != f"Bearer {state.key}":
                self._send(error(401, f"wrong key: {given}"))
                return True
            return False

        def _send(self, reply: Reply) -> None:
            status, headers, content = reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...  # a client that did not wait

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
