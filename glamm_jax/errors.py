"""The base class of the project's exceptions.

Every exception for unusable input (a file, a configuration field, a command-line argument) derives
from `GLaMMError`. Programs print it in one line and exit with status 2 (`glamm_jax.cli.program`).
"""

from __future__ import annotations


class GLaMMError(ValueError):
    """Unusable input. The message says what is wrong, where, and what to do."""


class ConfigError(GLaMMError):
    """A configuration field has an invalid value."""


class FolderError(GLaMMError):
    """A folder cannot be read or written."""


def printable(text: str) -> str:
    """Replace characters that cannot be encoded, such as the lone surrogates of JSON."""
    return text.encode("utf-8", "replace").decode("utf-8")


class GLaMMWarning(UserWarning):
    """Usable input that is perhaps not what the user meant. Programs print it in one line."""
