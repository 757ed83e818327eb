"""The SVG of an answer: masks as paths, texts in the colours of their masks, all text escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from glamm_jax.report.html_page import hex_colour
from glamm_jax.report.mask_overlay import ColouredText, MaskLayer
from glamm_jax.report.svg_overlay import svg_overlay

SVG = "{http://www.w3.org/2000/svg}"


def left(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


def parsed(*passages: ColouredText, boxes: np.ndarray | None = None) -> ElementTree.Element:
    image = np.full((40, 60, 3), 200, np.uint8)
    return ElementTree.fromstring(svg_overlay(image, passages, boxes))


def test_a_mask_is_a_path_of_its_colour_with_its_phrase() -> None:
    root = parsed(
        ColouredText("Where is it?", [MaskLayer("it", ~left(), 9, 11)]),
        ColouredText("On the left.", [MaskLayer("the left", left(), 3, 11)]),
    )
    first, second = root.iter(f"{SVG}path")
    assert (first.get("fill"), second.get("fill")) == (hex_colour(0), hex_colour(1))
    assert second.get("d") == "M0 0H30V40H0Z"
    assert second.get("transform") == "scale(8 8)"  # small images are enlarged to 480 pixels
    assert second.findtext(f"{SVG}title") == "the left"
    assert " ".join(text.text or "" for text in root.iter(f"{SVG}text")) == (
        "Where is it? On the left."
    )
    assert float(root.get("height") or 0) > 320  # the texts are below the image


def test_boxes_are_numbered() -> None:
    root = parsed(boxes=np.array([[0.0, 0.0, 30.0, 20.0], [30.0, 0.0, 60.0, 40.0]]))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["1", "2"]


def test_text_of_a_model_is_escaped() -> None:
    text = "</text><script>alert(1)</script>\x00&\ud800"
    root = parsed(ColouredText(text, [MaskLayer(text, left(), 0, len(text))]))
    assert not list(root.iter(f"{SVG}script"))
    assert root.findtext(f"{SVG}path/{SVG}title") == (
        "</text><script>alert(1)</script>\N{REPLACEMENT CHARACTER}&?"
    )


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match="mask 0 is"):
        parsed(ColouredText("a", [MaskLayer("a", left(3, 4), 0, 1)]))
