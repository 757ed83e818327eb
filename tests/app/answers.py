"""Answers of a server, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from glamm_jax.app.conversation import Conversation, picture_of
from glamm_jax.app.served_answer import ServedAnswer, read_answer
from glamm_jax.app.server_client import Completion
from glamm_jax.data import rle
from tests.app.loopback_server import halves

HEIGHT, WIDTH = 40, 60
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
LEFT, RIGHT = halves(WIDTH, HEIGHT)


def grounding(text: str, phrase: str, mask: np.ndarray | None, **changes: Any) -> dict[str, Any]:
    """A grounding as the server sends it."""
    start = text.index(phrase)
    runs = None if mask is None else rle.encode(mask)
    fields = {"phrase": phrase, "start": start, "end": start + len(phrase), "score": 0.5}
    return fields | {"segmentation": runs} | changes


def answer(
    text: str, *groundings: dict[str, Any], question: str = "What?", **fields: Any
) -> ServedAnswer:
    """An answer whose groundings are those of the text."""
    completion = Completion({"groundings": list(groundings), "raw": text, **fields}, "stop")
    return read_answer(text, completion, question, (HEIGHT, WIDTH))


def conversation(*texts_and_groundings: tuple[str, list[dict[str, Any]]]) -> Conversation:
    """A conversation about `IMAGE` with these answers."""
    result = Conversation(picture_of(IMAGE))
    for text, groundings in texts_and_groundings:
        result = result.with_answer("What?", answer(text, *groundings))
    return result
