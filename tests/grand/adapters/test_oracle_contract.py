"""Oracles follow the contract of all adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.grand.adapters import NOISE, ORACLES
from glamm_jax.grand.roles import ChatMessage, LLMRequest, RoleError, RoleImage
from glamm_jax.miniworld.truth_folder import open_truth
from tests.grand.adapters.contract import AdapterCase, AdapterContract, check_result, check_same
from tests.grand.oracle_calls import KINDS, OPTIONS, columns, read_image


@contextmanager
def _limited(adapter: Any, number: int) -> Iterator[None]:
    """Let an oracle fail for lack of memory, as a model would."""
    answer_each = adapter.answer_each

    def limited(images: Any, *arguments: Any) -> Any:
        if len(images) > number:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return answer_each(images, *arguments)

    adapter.answer_each = limited
    try:
        yield
    finally:
        del adapter.answer_each


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, scene_folder: Path) -> AdapterCase:
    kind, ids = request.param, open_truth(scene_folder).image_ids[:5]
    options = OPTIONS.get(kind, {})
    return AdapterCase(
        kind,
        partial(ORACLES[kind], scene_folder, "model", NOISE["easy"], **options),
        [read_image(scene_folder, image_id) for image_id in ids],
        columns(kind, scene_folder, ids),
        limited=_limited,
    )


class TestOracles(AdapterContract):
    """All oracles that get images."""


def test_a_difference_of_results_is_seen(scene_folder: Path) -> None:
    ids = open_truth(scene_folder).image_ids[:2]
    images = [read_image(scene_folder, image_id) for image_id in ids]
    for kind in KINDS:
        role: Any = ORACLES[kind](scene_folder, "model")
        first, second = role(images, *columns(kind, scene_folder, ids))
        check_same([first, second], [first, second], 0.0)
        if kind != "landmark_classifier":
            with pytest.raises(AssertionError):
                check_same([first, second], [second, first], 0.0)
        with pytest.raises(AssertionError):
            check_same([first, second], [first, RoleError("model", "")], 0.0)


def test_an_invalid_result_is_seen() -> None:
    request = LLMRequest("a", (ChatMessage("user", "b"),), 0)
    with pytest.raises(AssertionError):
        check_result("llm", "text", request, [])
    with pytest.raises(AssertionError):
        check_result("writer", "text", request, [])
    assert isinstance(AdapterCase("llm", dict, [request]).unusable, RoleImage)
