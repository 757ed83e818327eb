"""Change fields of a configuration by name: `with_overrides(config, ["optim.peak_lr=1e-4"])`.

The text behind the equals sign is read as the field's type: numbers, true and false, one of the
field's choices, `none` where that is allowed, tuples with commas between (`0.9,0.95`). A tuple of
configurations is entered by number: `data.mixture.0.dataset=shards/glamm_grand/1.0.0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from glamm_jax.errors import ConfigError

Config = TypeVar("Config")


def with_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """The configuration with every `a.b=c` applied, checked once when all are in place.

    Raises: ConfigError naming an unknown key with the nearest one, a value that is not of the
    field's type, or what the changed configuration says of itself.
    """
    changes: dict[str, Any] = {}
    kinds = dict(_leaves(config))
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"override {text!r}: write name=value")
        if key not in kinds:
            raise ConfigError(_unknown(key, kinds))
        changes[key] = _parse(value, kinds[key], key)
    return _replaced(config, changes)


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every field that holds a value and not further fields."""
    hints = get_type_hints(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{each.name}.")
        elif _holds_configs(value):
            for number, one in enumerate(value):
                yield from _leaves(one, f"{prefix}{each.name}.{number}.")
        else:
            yield prefix + each.name, hints[each.name]


def _holds_configs(value: Any) -> bool:
    return isinstance(value, tuple) and any(is_dataclass(one) for one in value)


def _unknown(key: str, known: Iterable[str]) -> str:
    """Says that a key does not exist, and which is nearest: the whole of it, or its last word."""
    known = list(known)
    near = get_close_matches(key, known, n=1)
    if not near:
        last = {name.rpartition(".")[2]: name for name in known}
        near = [last[word] for word in get_close_matches(key.rpartition(".")[2], last, n=1)]
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no configuration field {key!r}{hint}"


def _parse(text: str, kind: Any, key: str) -> Any:
    """The text as a value of this type."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if text.lower() == "none" and NoneType in options:
            return None
        (kind,) = (option for option in options if option is not NoneType)
        return _parse(text, kind, key)
    if origin is Literal:
        if text not in options:
            raise ConfigError(f"{key}={text}: choose from {options}")
        return text
    if origin is tuple:
        return _parse_tuple(text, options, key)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    name = getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{key}={text}: not {name}" + "; it cannot be set" * is_dataclass(kind))


def _parse_tuple(text: str, options: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    """Values with commas between, as many as the type says (`...`: any number)."""
    parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
    if options[-1] is Ellipsis:
        options = (options[0],) * len(parts)
    if len(parts) != len(options):
        raise ConfigError(f"{key}={text}: {len(options)} values with commas between")
    return tuple(_parse(part, kind, key) for part, kind in zip(parts, options, strict=True))


def _replaced(config: Any, changes: dict[str, Any]) -> Any:
    """The configuration rebuilt from its innermost changed field outwards."""
    if isinstance(config, tuple):
        parts = {int(number): below for number, below in _by_owner(changes).items()}
        return tuple(_replaced(one, parts.get(i, {})) for i, one in enumerate(config))
    new = {key: value for key, value in changes.items() if "." not in key}
    for owner, below in _by_owner(changes).items():
        new[owner] = _replaced(getattr(config, owner), below)
    return replace(config, **new)


def _by_owner(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Changes of fields that lie deeper, by the field on the way to them."""
    inner: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        owner, dot, rest = key.partition(".")
        if dot:
            inner.setdefault(owner, {})[rest] = value
    return inner
