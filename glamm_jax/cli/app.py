"""Start the web app: ask about images in a browser, draw boxes, see the mask of every phrase.

examples:
  glamm-jax app                                    # the shipped model, which knows drawn shapes
  glamm-jax app --model glamm                      # then open http://127.0.0.1:7860
  glamm-jax app --server http://127.0.0.1:8000     # a server that `glamm-jax serve` has started
  glamm-jax app --model glamm --host 0.0.0.0 --root-path /glamm      # behind a proxy
  glamm-jax app --model glamm --inpainting stable-diffusion-inpainting

The app needs Gradio: pip install 'glamm-jax[app]'. It sends questions to a server of the API
(`glamm-jax serve`): to the one that --server names, or to one of its own on a free port of the
loopback device, which it starts with --model and stops when it ends itself.

--inpainting names an inpainting model, a folder or a name that diffusers can load. Then the mask of
a phrase can be painted anew as a prompt says (the paper's conditional generation).

A server that wants a key gets that of the environment variable GLAMM_JAX_API_KEY.

Anybody who can reach the address can ask: the default is this machine only. The app has no
accounts; put a proxy with a login in front of it (docs/app.md).

Exit status: 0 ended by Ctrl-C or SIGTERM, 1 the server ended, 2 unusable input.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glamm_jax.app.inpainting import load_pipeline
from glamm_jax.app.page_settings import PageSettings
from glamm_jax.app.presets import ImageExample, file_example, scene_examples
from glamm_jax.app.server_client import ServerClient
from glamm_jax.cli.program import (
    checkout_root,
    make_parser,
    model_or_shipped,
    model_path,
    run_program,
)
from glamm_jax.cli.serve import KEY_VARIABLE
from glamm_jax.errors import ConfigError

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 1.0
MAX_BODY_BYTES = 48 << 20  # of a request: an upload of 32 MB in base64
STOP_SECONDS = 30.0  # for a server to finish its answers; then it is killed
SERVER_ENDED = 1


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax app") -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("app", lambda: run_app(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax app") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        type=model_path,
        metavar="MODEL",
        help="model folder; a server is started for it (default: the shipped model)",
    )
    source.add_argument("--server", metavar="URL", help="address of a running server")
    add = parser.add_argument
    add("--host", default=LOOPBACK, help="address to listen at (%(default)s: this machine only)")
    add("--port", type=int, default=7860, help="port of the app (%(default)s)")
    add("--root-path", default="", metavar="PATH", help="path under which a proxy serves the app")
    add(
        "--inpainting",
        metavar="MODEL",
        help="inpainting model of diffusers, for painting into masks",
    )
    return parser.parse_args(arguments)


def run_app(options: argparse.Namespace) -> int:
    """Serve the page until the program is told to end; returns the exit status."""
    if find_spec("gradio") is None:
        raise ConfigError(
            "the app needs Gradio, which is not installed: pip install 'glamm-jax[app]'"
        )
    check_port(options.host, options.port)
    pipeline = load_pipeline(options.inpainting) if options.inpainting else None
    try:
        with (
            _ending_by_signal(),
            _private_folder() as folder,
            _server(options) as (client, server),
        ):
            settings = PageSettings(client, folder, _examples(), pipeline)
            _serve_page(options, settings, server)
    except KeyboardInterrupt:
        print("\nthe app has ended", flush=True)
        return 0
    print("app: the server has ended; its message is above", file=sys.stderr)
    return SERVER_ENDED


def _serve_page(
    options: argparse.Namespace, settings: PageSettings, server: subprocess.Popen[Any] | None
) -> None:
    """Serve the page until its server ends."""
    from glamm_jax.app.page import launch_page  # imports Gradio

    page = launch_page(settings, options.host, options.port, options.root_path)
    try:
        print(f"the app is at http://{options.host}:{options.port}", flush=True)
        while server is None or server.poll() is None:
            time.sleep(POLL_SECONDS)
    finally:
        page.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Check that the app can listen there, before a model is loaded.

    Raises:
        ConfigError: another program does, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}, port {port}: {reason}; see --port") from error


def free_port() -> int:
    """Return a port of the loopback device that no program listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def _server(
    options: argparse.Namespace,
) -> Iterator[tuple[ServerClient, subprocess.Popen[Any] | None]]:
    """Yield the client of a running server, and its process if it was started here."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if options.server is not None:
        yield ServerClient(options.server, key), None
        return
    model = model_or_shipped(options.model)
    port = free_port()
    server_options = ("--port", str(port), "--max-body-bytes", str(MAX_BODY_BYTES))
    command = [sys.executable, "-m", "glamm_jax", "serve", "--model", str(model), *server_options]
    server = subprocess.Popen(command)
    try:
        print(f"starting the server of {model} ...", flush=True)
        client = ServerClient(f"http://{LOOPBACK}:{port}", key)
        while not client.is_ready():
            if server.poll() is not None:
                raise ConfigError(
                    f"the server ended with status {server.returncode}; its message is above"
                )
            time.sleep(POLL_SECONDS)
        yield client, server
    finally:
        stop_server(server)


def stop_server(server: subprocess.Popen[Any], seconds: float = STOP_SECONDS) -> None:
    """End a server: it may finish its answers, and is killed if that takes too long.

    Args:
        server: its process, which may have ended.
        seconds: how long it may take.
    """
    server.terminate()
    try:
        server.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder for uploads and downloads, which no other user can read and nobody keeps."""
    with tempfile.TemporaryDirectory(prefix="glamm-jax-app-", ignore_cleanup_errors=True) as name:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(name, "gradio")
        yield Path(name)


@contextmanager
def _ending_by_signal() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does, so that the server is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _examples() -> list[ImageExample]:
    root = checkout_root()
    picture = root / "docs" / "scene.png" if root else Path()
    return [*scene_examples(), *([file_example(picture)] if picture.is_file() else [])]


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.app"))
