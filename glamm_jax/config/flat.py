"""Configurations as flat dictionaries of dotted names, to compare and to display them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flatten_config(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted name: value} of a configuration in JSON form.

    The elements of a list of objects are named by their index; any other list is one value.

        {"optim": {"peak_lr": 1e-4}, "data": {"mixture": [{"weight": 2}], "sizes": [3, 4]}}
        -> {"optim.peak_lr": 1e-4, "data.mixture.0.weight": 2, "data.sizes": [3, 4]}
    """
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flatten_config(item, f"{prefix}{key}.").items()
    }


def changed_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) of every field that differs.

    Args:
        old: a flat configuration; a field that it lacks has the value None.
        new: another one, likewise.
        ignored: prefixes of the names to skip.
    """
    for name in {**old, **new}:
        if old.get(name) != new.get(name) and not name.startswith(ignored):
            yield name, old.get(name), new.get(name)
