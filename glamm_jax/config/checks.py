"""Validation of configuration fields; the error names the field and its value."""

from __future__ import annotations

from typing import Any, get_args

from glamm_jax.errors import ConfigError


def require(condition: bool, owner: object, name: str, message: str) -> None:
    """Raise an error about a field unless a condition holds.

    Args:
        condition: the condition.
        owner: the configuration.
        name: name of the field.
        message: what is wrong with its value.

    Raises:
        ConfigError: the condition does not hold.
    """
    if not condition:
        value = getattr(owner, name)
        raise ConfigError(f"{type(owner).__name__}.{name} = {value!r}: {message}")


def require_positive(owner: object, *names: str) -> None:
    """Check that the named fields are positive.

    Raises:
        ConfigError: a field is 0 or negative.
    """
    for name in names:
        require(getattr(owner, name) > 0, owner, name, "must be positive")


def require_choice(owner: object, name: str, choices: Any) -> None:
    """Check that a field has one of the values of a `Literal`.

    Args:
        owner: the configuration.
        name: name of the field.
        choices: the `Literal` type.

    Raises:
        ConfigError: it has another value.
    """
    allowed = get_args(choices)
    require(getattr(owner, name) in allowed, owner, name, f"choose from {allowed}")
