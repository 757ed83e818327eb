"""How a configuration checks itself: a field with an impossible value is named, with the value."""

from __future__ import annotations

from typing import Any, get_args

from glamm_jax.errors import ConfigError


def require(condition: bool, owner: object, name: str, message: str) -> None:
    """Raises: ConfigError naming `owner`'s field `name` unless the condition holds."""
    if not condition:
        value = getattr(owner, name)
        raise ConfigError(f"{type(owner).__name__}.{name} = {value!r}: {message}")


def require_positive(owner: object, *names: str) -> None:
    """Raises: ConfigError naming the first field that is not above zero."""
    for name in names:
        require(getattr(owner, name) > 0, owner, name, "must be positive")


def require_choice(owner: object, name: str, choices: Any) -> None:
    """Raises: ConfigError when the field is none of a Literal's values."""
    allowed = get_args(choices)
    require(getattr(owner, name) in allowed, owner, name, f"choose from {allowed}")
