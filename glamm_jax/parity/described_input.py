"""Inputs that `info.json` describes in words: `blocky('clip_l_336',(1,3,336,336),14,salt)`."""

from __future__ import annotations

import re

import numpy as np

from glamm_jax.parity import golden_weights
from glamm_jax.parity.report import GoldenError, Recorded

_CALL = re.compile(
    r"(?P<kind>blocky|normal)\('(?P<name>[^']+)',\s*(?P<shape>\([^)]*\)|\w+)"
    r"(?:,\s*(?P<block>\d+))?(?P<salt>,\s*salt)?\)"
)


def described(
    text: str, salt: str, shape: tuple[int, ...] | None = None, **fields: object
) -> np.ndarray:
    """The array that the first call in a description draws.

    Args:
        shape: takes the place of a shape that is described by letters.
        fields: values of {braces} in the name, such as a level.

    Raises: GoldenError when there is no call, or its shape cannot be known.
    """
    match = _CALL.search(text)
    if match is None:
        raise GoldenError(f"components/info.json: no input can be drawn from {text!r}")
    name = match["name"].format(**fields) if fields else match["name"]
    numbers = re.findall(r"\d+", match["shape"])
    symbolic = re.search(r"[A-Za-z]", match["shape"]) is not None
    if symbolic and shape is None:
        raise GoldenError(f"components/info.json: the shape in {text!r} is not known")
    drawn_shape = tuple(shape) if symbolic and shape else tuple(int(n) for n in numbers)
    salt = salt if match["salt"] else ""
    if match["kind"] == "blocky":
        return golden_weights.blocky(name, drawn_shape, int(match["block"]), salt)
    return golden_weights.normal(name, drawn_shape, salt)


def compared_input(recorded: Recorded, array: str, text: str, salt: str) -> np.ndarray:
    """A described input that is also recorded: drawn whole, compared with what is recorded."""
    drawn = described(text, salt, recorded.shape(array))
    recorded.compare(array, drawn, "input")
    return drawn
