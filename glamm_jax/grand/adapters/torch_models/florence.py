"""The texts of Florence-2: its tasks, and boxes as tokens <loc_0> to <loc_999>.

Source: arXiv:2311.06242; the documentation of transformers, Florence-2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glamm_jax.grand.adapters.torch_models.adapter import clipped
from glamm_jax.grand.record import Box

FLORENCE = "florence2"  # model_type
CAPTION = "<CAPTION>"
DENSE_CAPTIONS = "<DENSE_REGION_CAPTION>"
REGION_DESCRIPTION = "<REGION_TO_DESCRIPTION>"
PHRASE_GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
BINS = 1000  # of the width and of the height
_REGION = re.compile(r"([^<>]*)((?:<loc_\d+>){4,})")
_LOCATION = re.compile(r"<loc_(\d+)>")
_TOKEN = re.compile(r"</?[a-z_]+\d*>")  # of the control and location tokens


class FlorenceRegion(NamedTuple):
    """A text and a box of an answer."""

    text: str
    box: Box


def location_text(box: Box, size: tuple[int, int]) -> str:
    """Return a box as Florence-2 reads it.

    Args:
        box: x0 y0 x1 y1 in pixels.
        size: height and width of the image.
    """
    height, width = size
    return "".join(
        f"<loc_{min(int(value * BINS / side), BINS - 1)}>"
        for value, side in zip(clipped(box, size), (width, height) * 2, strict=True)
    )


def parse_regions(answer: str, size: tuple[int, int]) -> list[FlorenceRegion]:
    """Return the boxes of an answer with the text before them; a box ends in the middle of its bin.

    Boxes without area are left out.

    Args:
        answer: with its location tokens.
        size: height and width of the image.
    """
    height, width = size
    regions = []
    text = ""
    for words, locations in _REGION.findall(answer):
        text = words.strip() or text  # several boxes may follow a text
        bins = [int(number) for number in _LOCATION.findall(locations)]
        for k in range(0, len(bins) - 3, 4):
            x0, y0, x1, y1 = (
                (min(number, BINS - 1) + 0.5) * side / BINS
                for number, side in zip(bins[k : k + 4], (width, height) * 2, strict=True)
            )
            if x0 < x1 and y0 < y1:
                regions.append(FlorenceRegion(text, (x0, y0, x1, y1)))
    return regions


def plain_text(answer: str) -> str:
    """Return an answer without control and location tokens."""
    return " ".join(_TOKEN.sub(" ", answer).split())
