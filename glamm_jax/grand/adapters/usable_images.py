"""Images that a model can process, and errors in the places of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glamm_jax.grand.roles import RoleError, RoleImage


def answer_usable(
    images: Sequence[RoleImage], answer: Callable[..., list[Any]], *columns: Sequence[Any]
) -> list[Any]:
    """Return the answers to the images, with an error for each whose pixels cannot be used.

    Args:
        images: the batch.
        answer: gets the usable images and their elements of `columns`, at least one image; returns
            their answers.
        columns: further inputs, each as long as the batch.
    """
    results: list[Any] = [_input_error(image) for image in images]
    places = [i for i, error in enumerate(results) if error is None]
    if places:
        answers = answer(*([column[i] for i in places] for column in (images, *columns)))
        for place, result in zip(places, answers, strict=True):
            results[place] = result
    return results


def _input_error(image: RoleImage) -> RoleError | None:
    shape, dtype = image.pixels.shape, image.pixels.dtype
    if dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and image.pixels.size:
        return None
    return RoleError("input", f"pixels of shape {shape} and type {dtype} are no RGB image")
