"""Models behind endpoints follow the contract of all adapters."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glamm_jax.grand.adapters.endpoint.language import EndpointLLM
from glamm_jax.grand.adapters.endpoint.vision import (
    CHOICE_PROMPT,
    EndpointCaptioner,
    EndpointLandmarkClassifier,
    EndpointRegionCaptioner,
    EndpointTagger,
)
from glamm_jax.grand.roles import LANDMARKS, ChatMessage, LLMRequest
from tests.grand.adapters.contract import AdapterCase, AdapterContract
from tests.grand.adapters.endpoint_server import ScriptedEndpoint, scripted_endpoint
from tests.grand.adapters.tiny_onnx import photographs

KINDS: dict[str, type[Any]] = {
    "llm": EndpointLLM,
    "captioner": EndpointCaptioner,
    "tagger": EndpointTagger,
    "landmark_classifier": EndpointLandmarkClassifier,
    "region_captioner": EndpointRegionCaptioner,
}
IMAGES = photographs()
BOXES = [[(2.0, 3.0, 30.0, 31.5), (0.0, 0.0, 9.0, 9.0)], [], [(5.0, 5.0, 9.0, 20.0)], [], []]
REQUESTS = [
    LLMRequest(f"{i}", (ChatMessage("system", "Be short."), ChatMessage("user", f"Number {i}?")), i)
    for i in range(4)
]


def answer(body: dict[str, Any]) -> str:
    """An answer that depends on the image, the text and the seed."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return f"{content} seed {body['seed']}"
    url, text = content[0]["image_url"]["url"], content[1]["text"]
    assert url.startswith("data:image/png;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    number = int(pixels.sum())
    start, end = CHOICE_PROMPT.split("{choices}")
    if text.startswith(start):
        choices = text[len(start) : -len(end)].split(", ")
        return f"It is the {choices[number % len(choices)]}."
    return f"dog {number}, cat {pixels.shape[0]}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint() as state:
        state.answer = answer
        yield state


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, endpoint: ScriptedEndpoint) -> AdapterCase:
    kind = request.param
    make = partial(KINDS[kind], url=endpoint.url, model="model", name="tiny", concurrency=3)
    if kind == "llm":
        return AdapterCase(kind, make, REQUESTS, unusable=LLMRequest("none", (), 0))
    return AdapterCase(kind, make, IMAGES, [BOXES] if kind == "region_captioner" else ())


class TestEndpoints(AdapterContract):
    """All roles of endpoints."""


def test_the_kind_of_place_is_chosen_in_two_steps(endpoint: ScriptedEndpoint) -> None:
    role = EndpointLandmarkClassifier(url=endpoint.url, model="model")
    results = role(IMAGES)
    assert len({result.category for result in results}) > 1
    assert all(result.fine_category in LANDMARKS[result.category] for result in results)
