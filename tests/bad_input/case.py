"""A case of bad input: a row of the table in docs/bad-input.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError
from glamm_jax.data.record_shards import ShardError
from glamm_jax.data.rle import MaskError
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.split_folder import ConversionError
from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.json_files import JSONError
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.weights.rules import WeightsError
from glamm_jax.weights.safetensors import TensorFileError

ERRORS = (
    *(ImageError, BoxError, MaskError, PromptError, TokenizerError),
    *(ConfigError, FolderError, TensorFileError, WeightsError),
    *(ConversionError, ShardError, SourceError, JSONError),
)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        topic: heading of its section.
        title: the input.
        run: takes an empty folder; returns a description of the result, or raises.
        expected: the description, or class and message of the error.
    """

    topic: str
    title: str
    run: Callable[[Path], str]
    expected: str


def outcome(case: Case, folder: Path) -> str:
    """Run a case; returns the description of its result, or class and message of its error."""
    try:
        return case.run(folder)
    except ERRORS as error:
        message = str(error).replace(f"{folder}/", "").replace(str(folder), "the folder")
        return f"{type(error).__name__}: {message}"
