"""Fields of a request, each with its type and range; the error names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from glamm_jax.json_files import show
from glamm_jax.serving.api_errors import APIError

MAX_REGIONS = 256


def number(fields: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """Return a finite number; None: the field is absent or null.

    Args:
        fields: of the request.
        name: of the field.
        low: smallest value.
        high: largest value.

    Raises:
        APIError: it is no number, or out of the range.
    """
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise APIError(f"{name} must be a number, not {show(value)}", name)
    if not (low <= value <= high) or not math.isfinite(value):
        raise APIError(f"{name} must be from {low:g} to {high:g}, not {show(value)}", name)
    return float(value)


def integer(fields: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Return an integer; None: the field is absent or null.

    Args:
        fields: of the request.
        name: of the field.
        low: smallest value.
        high: largest value.

    Raises:
        APIError: it is no integer, or out of the range.
    """
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise APIError(f"{name} must be an integer, not {show(value)}", name)
    if not low <= value <= high:
        raise APIError(f"{name} must be from {low} to {high}, not {show(value)}", name)
    return value


def boolean(fields: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    """Return a boolean, False if the field is absent or null.

    Args:
        fields: of the request.
        name: of the field.
        param: its path in the request, if it is not a field of the request itself.

    Raises:
        APIError: it is no boolean.
    """
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise APIError(f"{param or name} must be true or false, not {show(value)}", param or name)


def boxes(value: Any, param: str) -> list[list[float]]:
    """Return a list of boxes [x0, y0, x1, y1]; none if it is absent or null.

    Raises:
        APIError: it is no such list.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise APIError(f"{param} must be a list of boxes [x0, y0, x1, y1]", param)
    if len(value) > MAX_REGIONS:
        raise APIError(f"{param} has {len(value)} boxes; at most {MAX_REGIONS} are taken", param)
    for index, box in enumerate(value):
        valid = isinstance(box, list) and len(box) == 4
        if not valid or not all(type(x) in (int, float) and abs(x) < 1e9 for x in box):
            raise APIError(
                f"{param}[{index}] must be four numbers x0, y0, x1, y1 in pixels, not {show(box)}",
                f"{param}[{index}]",
            )
    return value
