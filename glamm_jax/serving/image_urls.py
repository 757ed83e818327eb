"""Images at http(s) URLs, for servers that allow them: public addresses, bounded size and time."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urlsplit

from glamm_jax.serving.api_errors import APIError

SECONDS = 10.0  # for the connection, and again for the content
PORTS = {"http": 80, "https": 443}
CHUNK = 1 << 16


def fetch_image(url: str, max_bytes: int, param: str) -> bytes:
    """Download an image; redirects are not followed.

    The address is resolved once, and must be a public one: a server must not be a way into the
    network in which it stands.

    Args:
        url: http(s)://...
        max_bytes: largest content.
        param: the field that has the URL, for the message.

    Raises:
        APIError: the URL cannot be used, or its content cannot be had.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
        host = parts.hostname or ""
        if not host or parts.username is not None:
            raise ValueError("it has no host, or a user name")
        return _download(parts, host, port, max_bytes)
    except APIError:
        raise
    except (KeyError, ValueError, OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise APIError(
            f"the image cannot be fetched: {reason}", param, code="image_unavailable"
        ) from error


def _download(parts: SplitResult, host: str, port: int, max_bytes: int) -> bytes:
    address = public_address(host, port)
    deadline = time.monotonic() + SECONDS
    # The connection goes to the address that was checked; the name is not resolved again.
    stream = socket.create_connection((address, port), timeout=SECONDS)
    try:
        if parts.scheme == "https":
            stream = ssl.create_default_context().wrap_socket(stream, server_hostname=host)
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
        connection.sock = stream
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "Connection": "close"})
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}; redirects are not followed")
        data = bytearray()
        while chunk := response.read1(CHUNK):
            data += chunk
            if len(data) > max_bytes:
                raise ValueError(f"it has more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"it took more than {SECONDS:g} seconds")
        return bytes(data)
    finally:
        stream.close()


def public_address(host: str, port: int) -> str:
    """Return the first address of a host, if all of its addresses are public.

    Raises:
        ValueError: one is private, local, or of a group.
        OSError: the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for address in addresses:
        parsed = ipaddress.ip_address(address)
        if not parsed.is_global or parsed.is_multicast:
            raise ValueError("its address is not a public one")
    return addresses[0]
