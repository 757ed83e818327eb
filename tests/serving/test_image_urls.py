"""Images at URLs: public addresses only, of bounded size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from glamm_jax.serving import image_urls
from glamm_jax.serving.api_errors import APIError
from glamm_jax.serving.image_urls import fetch_image, public_address


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "0.0.0.0"),
        *("224.0.0.1", "localhost", "::ffff:127.0.0.1", "fd00::1", "100.64.0.1"),
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(APIError, match="not a public one") as refused:
        fetch_image(f"http://{host}:80/a.png", 100, "url")
    assert refused.value.param == "url"


@pytest.mark.parametrize("url", ["http://", "http://a:b@c/", "ftp://a/b", "http://a:99999/"])
def test_urls_that_cannot_be_used_are_refused(url: str) -> None:
    with pytest.raises(APIError, match="cannot be fetched"):
        fetch_image(url, 100, "url")


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a?b=1")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * (5000 if self.path == "/large" else 3))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine, whose address counts as public."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(image_urls, "public_address", lambda host, port: "127.0.0.1")
    yield f"http://images.example:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_content_is_fetched_within_its_limits(pages: str) -> None:
    assert fetch_image(f"{pages}/a?b=1", 100, "url") == b"xxx"
    with pytest.raises(APIError, match="more than 100 bytes"):
        fetch_image(f"{pages}/large", 100, "url")
    with pytest.raises(APIError, match="status 302; redirects are not followed"):
        fetch_image(f"{pages}/moved", 100, "url")


def test_a_public_address_is_returned() -> None:
    assert public_address("8.8.8.8", 443) == "8.8.8.8"
