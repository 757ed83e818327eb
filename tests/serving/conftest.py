"""The shipped model behind an engine, and a server on the loopback address."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from glamm_jax.inference.chat import Assistant, load
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.serving.app import ServerOptions, make_app
from glamm_jax.serving.engine import Engine
from glamm_jax.serving.jobs import EngineOptions

MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"
OPTIONS = EngineOptions(slots=4, max_queue=20, prefill_rows=2, mask_images=2, warm_up_size=None)


def scene(number: int) -> np.ndarray:
    return render_scene(77_002, number, 64, EASY).image


def png(number: int = 0, size: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(scene(number)) if size is None else Image.new("RGB", size)
    image.save(stream, "PNG")
    return stream.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


class Gate:
    """Lets a test decide when an engine goes on."""

    def __init__(self, engine: Engine):
        self._open = threading.Event()
        self._open.set()
        cycle = engine._cycle

        def gated() -> None:
            self._open.wait()
            cycle()

        engine._cycle = gated  # pyright: ignore

    @contextmanager
    def closed(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


@contextmanager
def running(assistant: Assistant, options: EngineOptions = OPTIONS) -> Iterator[Engine]:
    engine = Engine(assistant, options)
    engine.start()
    assert engine.ready.wait(60)
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def listening(engine: Engine, options: ServerOptions) -> Iterator[str]:
    """Serve on a free port; yields the address."""
    config = uvicorn.Config(make_app(engine, options), port=0, log_level="error", lifespan="off")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.fixture(scope="session")
def assistant() -> Assistant:
    return load(MODEL)


@pytest.fixture(scope="module")
def engine(assistant: Assistant) -> Iterator[Engine]:
    with running(assistant) as engine:
        yield engine


@pytest.fixture(scope="module")
def gate(engine: Engine) -> Gate:
    return Gate(engine)
