"""Conditional generation with a stand-in that is called as a pipeline of diffusers is."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glamm_jax.app import inpainting
from glamm_jax.app.inpainting import (
    INSTALL,
    InpaintingError,
    InpaintingPipeline,
    inpaint,
    load_pipeline,
    pipeline_hint,
)
from tests.app.answers import HEIGHT, IMAGE, LEFT, RIGHT, WIDTH


class RedPipeline:
    """Paints the mask red, and changes all other pixels slightly, as a decoder of latents does."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        prompt: str | None = None,
        image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
    ) -> SimpleNamespace:
        assert image is not None
        assert mask_image is not None
        assert image.size == mask_image.size == (width, height)
        assert not (image.width % 8 or image.height % 8)
        self.calls.append({"prompt": prompt, "size": image.size, "mode": mask_image.mode})
        pixels = np.asarray(image).astype(int) + 3
        pixels[np.asarray(mask_image) > 127] = (255, 0, 0)
        return SimpleNamespace(images=[Image.fromarray(pixels.clip(0, 255).astype(np.uint8))])


def test_the_mask_is_painted_and_nothing_else() -> None:
    pipeline = RedPipeline()
    painted = inpaint(pipeline, IMAGE, LEFT, "a red wall")
    np.testing.assert_array_equal(painted[RIGHT], IMAGE[RIGHT])
    inner = painted[:, : WIDTH // 2 - 3]
    assert (np.abs(inner.astype(int) - (255, 0, 0)) < 10).all()
    assert pipeline.calls == [{"prompt": "a red wall", "size": (512, 344), "mode": "L"}]


def test_a_tall_image_keeps_its_proportions() -> None:
    pipeline = RedPipeline()
    image = np.zeros((1000, 10, 3), np.uint8)
    assert inpaint(pipeline, image, np.ones((1000, 10), bool), "x").shape == image.shape
    assert pipeline.calls[0]["size"] == (8, 512)


def test_nothing_to_paint_is_an_error() -> None:
    with pytest.raises(InpaintingError, match="Write what"):
        inpaint(RedPipeline(), IMAGE, LEFT, " ")
    with pytest.raises(InpaintingError, match="mask is empty"):
        inpaint(RedPipeline(), IMAGE, np.zeros((HEIGHT, WIDTH), bool), "x")


def test_a_pipeline_that_fails_is_an_error() -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(InpaintingError, match="out of memory"):
        inpaint(broken, IMAGE, LEFT, "x")


def test_the_stand_in_takes_what_the_protocol_gives() -> None:
    parameters = inspect.signature(InpaintingPipeline.__call__).parameters
    assert set(parameters) - {"self"} <= set(inspect.signature(RedPipeline.__call__).parameters)


def test_without_diffusers_the_error_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpainting, "find_spec", lambda _: None)
    with pytest.raises(InpaintingError) as caught:
        load_pipeline("model")
    assert INSTALL in str(caught.value)
    assert INSTALL in pipeline_hint()


def test_with_diffusers_the_page_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpainting, "find_spec", lambda _: object())
    assert "--inpainting" in pipeline_hint()
    assert INSTALL not in pipeline_hint()
