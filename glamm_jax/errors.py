"""The root of the project's exceptions.

Every exception that this project raises for unusable input (a file, a configuration field, a
command-line argument) derives from `GLaMMError`; programs print it in one line and return 2
(`glamm_jax.cli.program`).
"""

from __future__ import annotations


class GLaMMError(ValueError):
    """Input that cannot be used. The message says what is wrong, where, and what to do."""


class ConfigError(GLaMMError):
    """A configuration field has a value that cannot be used."""


class FolderError(GLaMMError):
    """A folder cannot be read or written."""
