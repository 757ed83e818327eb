"""Adapters of transformers follow the contract, with tiny models that are read from folders.

Sums are rounded differently in batches of different sizes; the tolerances are for that.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from glamm_jax.grand.adapters.registry import adapter_class  # noqa: E402
from glamm_jax.grand.roles import (  # noqa: E402
    ChatMessage,
    LabelQuestion,
    LLMRequest,
    PhraseQuery,
    RoleImage,
)
from tests.grand.adapters.contract import (  # noqa: E402
    NO_PIXELS,
    AdapterCase,
    AdapterContract,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 2e-5
SIZES = ((40, 60), (40, 60), (64, 64), (50, 33))


def images() -> list[RoleImage]:
    """Return images of several sizes; two of them have the same."""
    generator = np.random.default_rng(0)
    return [
        RoleImage(f"{k}.png", generator.integers(0, 256, (*size, 3), np.uint8), seed=k + 7)
        for k, size in enumerate(SIZES)
    ]


CAPTION = "A dog, a traffic light and a cat stand near a tree."
BOXES = [
    [(3.0, 4.0, 30.5, 28.0), (10.0, 0.0, 33.0, 40.0)],
    [(0.0, 0.0, 9.0, 9.0), (0.5, 0.5, 9.5, 9.0), (20.0, 10.0, 60.0, 40.0)],
    [],
    [(0.0, 0.0, 33.0, 50.0)],
]
COLUMNS: dict[str, list[Any]] = {
    "open_detector": [
        ["dog", "traffic light"],
        ["cats in tall trees"],
        [],
        ["Dog.", "an old tree", "x"],
    ],
    "region_classifier": BOXES,
    "region_captioner": BOXES,
    "segmenter": BOXES,
    "label_chooser": [
        [LabelQuestion(box, ("dog", "cat", f"label {k}")) for k, box in enumerate(group)]
        for group in BOXES
    ],
    "phrase_grounder": [
        [PhraseQuery(CAPTION, "a traffic light", (7, 22)), PhraseQuery(CAPTION, "A dog", (0, 5))],
        [PhraseQuery(CAPTION, text, None) for text in ("two horses", "ten horses", "")],
        [],
        [PhraseQuery("A cat.", "A cat", (0, 5)), PhraseQuery(CAPTION, "a tree", (44, 50))],
    ],
}
CONVERSATIONS = ("What is this?", "A" * 60, "Describe the scene graph.\nGroup 0: dog")


def requests() -> list[LLMRequest]:
    """Return requests of several lengths."""
    return [
        LLMRequest(
            f"{k}.png", (ChatMessage("system", "Be brief."), ChatMessage("user", text)), seed=k
        )
        for k, text in enumerate(CONVERSATIONS)
    ]


class Kind(NamedTuple):
    """A model in a role, with options that let a tiny model have results."""

    role: str
    model: str
    options: dict[str, Any]


EVERY_BOX = {"threshold": 0.0}
KINDS = {
    "rt_detr": Kind("detector", "rt_detr", EVERY_BOX),
    "d_fine": Kind("detector", "d_fine", EVERY_BOX),
    "owlv2": Kind("open_detector", "owlv2", EVERY_BOX | {"max_classes": 2}),
    "grounding_dino": Kind("open_detector", "grounding_dino", EVERY_BOX),
    "siglip2_tags": Kind("tagger", "siglip2", EVERY_BOX),
    "clip_tags": Kind("tagger", "clip", EVERY_BOX),
    "siglip2_labels": Kind("label_chooser", "siglip2", {}),
    "clip_labels": Kind("label_chooser", "clip", {}),
    "siglip2_regions": Kind("region_classifier", "siglip2", {}),
    "dpt": Kind("depth_estimator", "dpt", {}),
    "depth_anything": Kind("depth_estimator", "depth_anything", {}),
    "sam_boxes": Kind("segmenter", "sam", {"prompts_per_call": 2}),
    "sam_hq_boxes": Kind("segmenter", "sam_hq", {}),
    "sam_everything": Kind(
        "region_proposer",
        "sam",
        {
            "points_per_side": 3,
            "prompts_per_call": 4,
            "min_iou": 0.1,
            "min_stability": 0.5,
            "stability_offset": 0.02,
        },
    ),
    "blip2": Kind("captioner", "blip2", {"max_new_tokens": 8}),
    "llava": Kind("captioner", "llava", {"max_new_tokens": 8, "temperature": 1.0}),
    "florence": Kind("captioner", "florence", {"max_new_tokens": 24, "temperature": 2.0}),
    "llava_regions": Kind("region_captioner", "llava", {"max_new_tokens": 8}),
    "florence_regions": Kind("region_captioner", "florence", {"max_new_tokens": 8}),
    "florence_dense": Kind(
        "dense_captioner", "florence", {"max_new_tokens": 60, "temperature": 2.0}
    ),
    "llava_place": Kind("landmark_classifier", "llava", {}),
    "grounding_dino_phrases": Kind("phrase_grounder", "grounding_dino", EVERY_BOX),
    "florence_phrases": Kind("phrase_grounder", "florence", {"max_new_tokens": 12}),
    "llama": Kind("llm", "llama", {"max_new_tokens": 12, "batch_size": 2}),
}


def tensor_bytes() -> int:
    """Return the bytes of all tensors that exist in this process."""
    storages = {}
    for value in gc.get_objects():
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextmanager
def limited(adapter: Any, number: int) -> Iterator[None]:
    """Let the first layer that sees the images, or the requests, refuse more of them."""

    def check(module: Any, inputs: tuple[Any, ...]) -> None:
        if inputs[0].shape[0] > number:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    named = dict(adapter._network.named_modules())
    layers = [m for name, m in named.items() if "patch_embed" in name and not [*m.children()]]
    layers = layers or [m for m in named.values() if isinstance(m, torch.nn.Conv2d)]
    layers = layers or [m for m in named.values() if isinstance(m, torch.nn.Embedding)]
    hook = layers[0].register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> AdapterCase:
    kind = KINDS[request.param]
    make = partial(
        adapter_class("transformers", kind.role),
        name=request.param,
        model=str(tiny_model(kind.model)),
        device="cpu",
        **kind.options,
    )
    is_llm = kind.role == "llm"
    too_long = LLMRequest("x", (ChatMessage("user", "word " * 20_000),), 0)
    columns = [COLUMNS[kind.role]] if kind.role in COLUMNS else []
    return AdapterCase(
        kind.role,
        make,
        requests() if is_llm else images(),
        columns,
        unusable=too_long if is_llm else NO_PIXELS,
        tolerance=TOLERANCE,
        limited=limited,
        allocated=tensor_bytes,
    )


class TestTransformers(AdapterContract):
    """All families of models."""

    def test_there_are_results_and_they_differ(self, case: AdapterCase) -> None:
        """So that the comparisons of the other tests compare something."""
        assert any(len(result) > 0 for result in case.results)
        texts = {repr(result) for result in case.results}
        assert len(texts) > 1 or case.role == "landmark_classifier"
