"""Flattened configurations: for comparing two of them and for showing one."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten_config(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a configuration in JSON's form to {dotted name: value}.

    Args:
        value: objects, lists and scalars; objects in a list are named by their index.
        prefix: of every name.
    """
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {
        name: inner
        for key, item in value.items()
        for name, inner in flatten_config(item, f"{prefix}{key}.").items()
    }


def changed_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], free: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) of the fields that differ.

    Args:
        old: a flattened configuration.
        new: another one; a missing name counts as None.
        free: prefixes of names that are not compared.
    """
    for name in {**old, **new}:
        if old.get(name) != new.get(name) and not name.startswith(free):
            yield name, old.get(name), new.get(name)
