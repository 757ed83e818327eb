"""This library's own models follow the contract of all adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import jax
import numpy as np
import pytest

from glamm_jax.grand.adapters.jax_models import model_role
from glamm_jax.grand.adapters.registry import adapter_class
from glamm_jax.grand.roles import ChatMessage, LLMRequest, PhraseQuery, RoleImage
from glamm_jax.miniworld import EASY, render_scene
from tests.grand.adapters.contract import AdapterCase, AdapterContract

MODEL = Path(__file__).resolve().parents[3] / "checkpoints/miniworld-tiny"
BOXES = [(5.0, 6.0, 40.0, 50.0), (30.0, 20.0, 60.0, 60.0)]
PHRASES = [PhraseQuery("A circle and a square.", "A circle", (0, 8))]
GCG = "Describe the image in detail. Mark each thing that you mention with a segmentation mask."
OPTIONS: dict[str, dict[str, Any]] = {
    "segmenter": {},
    "region_proposer": {"points_per_side": 3, "min_iou": 0.0, "min_stability": 0.0},
    "captioner": {"max_tokens": 16},
    "region_captioner": {"max_tokens": 16},
    "dense_captioner": {"max_tokens": 48, "prompt": GCG},
    "phrase_grounder": {"max_tokens": 16},
    "llm": {"max_tokens": 8},
}
COLUMNS = {
    "segmenter": [[BOXES, [], BOXES[:1]]],
    "region_captioner": [[BOXES, [], BOXES[:1]]],
    "phrase_grounder": [[PHRASES, [], PHRASES]],
}


def _images() -> list[RoleImage]:
    scenes = [render_scene(1, number, 96, EASY) for number in range(3)]
    heights = (96, 70, 96)
    return [
        RoleImage(f"image-{i}", np.ascontiguousarray(scene.image[:height]))
        for i, (scene, height) in enumerate(zip(scenes, heights, strict=True))
    ]


def _requests() -> list[LLMRequest]:
    texts = ("What is this?", "Describe the circle and all the other things.", "Hi")
    return [LLMRequest(f"r{i}", (ChatMessage("user", x),), i) for i, x in enumerate(texts)]


@contextmanager
def _limited(adapter: Any, number: int) -> Iterator[None]:
    """Let the device have no memory for more items than a number."""
    call = type(adapter).__call__

    def limited(self: Any, items: Any, *columns: Any) -> Any:
        if len(items) > number:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 2147483648 bytes.")
        return call(self, items, *columns)

    patch = pytest.MonkeyPatch()
    patch.setattr(type(adapter), "__call__", limited)
    try:
        yield
    finally:
        patch.undo()


def _allocated() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


DEFAULT = ("segmenter", "llm")  # the others are slow tests


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(role, marks=() if role in DEFAULT else pytest.mark.slow) for role in OPTIONS
    ],
)
def case(request: pytest.FixtureRequest) -> AdapterCase:
    role = request.param
    is_text = role == "llm"
    unusable = LLMRequest("long", (ChatMessage("user", "word " * 3000),), 0)
    return AdapterCase(
        role,
        partial(adapter_class("glamm", role), model=str(MODEL), **OPTIONS[role]),
        _requests() if is_text else _images(),
        COLUMNS.get(role, []),
        **({"unusable": unusable} if is_text else {}),
        tolerance=1e-3,  # masks and probabilities of float32 in batches of other shapes
        limited=_limited,
        allocated=_allocated,
    )


class TestOwnModels(AdapterContract):
    """All roles but the kind of place, which the shipped model cannot name."""

    def test_memory_is_released(self, case: AdapterCase, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_role, "_LOADED", WeakValueDictionary())  # share no weights
        super().test_memory_is_released(case)
