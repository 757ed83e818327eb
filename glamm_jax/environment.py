"""Environment variables: temporary ones, and those that pass options to child processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Set by --allow-outside: annotations may name files outside of their folder.
ALLOW_OUTSIDE = "GLAMM_ALLOW_OUTSIDE"


def allows_outside() -> bool:
    """Return whether annotations may name files outside of their folder."""
    return os.environ.get(ALLOW_OUTSIDE) == "1"


@contextmanager
def environment_variables(**variables: str) -> Iterator[None]:
    """Set variables inside the context, for processes that are started there; then restore them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
