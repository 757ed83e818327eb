"""The folder of an export: written beside its destination, then renamed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder, sync, write_atomic
from glamm_jax.grand.export.summary import SUMMARY_FILE, ExportSummary
from glamm_jax.json_files import JSONError, read_object


@contextmanager
def export_folder(out: Path, summary: ExportSummary, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out`, with the summary in it.

    Args:
        out: the folder to create.
        summary: of the export; it is complete when the context ends.
        overwrite: replace an earlier export of the same format. It stays until the new one is
            complete. Any other folder is an error.

    Raises:
        FolderError: the folder exists, is being written, or cannot be written.
    """
    replaces = overwrite and out.exists()
    if replaces:
        check_replaceable(out, summary.format)
    target = out.with_name(f"{out.name}.new") if replaces else out
    with atomic_folder(target) as folder:
        yield folder
        write_summary(folder, summary)
    if replaces:
        old = out.with_name(f".{out.name}.old")
        try:
            if old.exists():  # an earlier process was killed
                shutil.rmtree(old)
            out.rename(old)
            target.rename(out)
            sync(out.parent)
            shutil.rmtree(old)
        except OSError as error:
            raise FolderError(
                f"{out}: cannot be replaced by {target}: {error.strerror or error}"
            ) from error


def check_replaceable(out: Path, name: str) -> None:
    """Check that a folder is an earlier export, which may be overwritten.

    Raises:
        FolderError: it is not, or of another format.
    """
    try:
        existing = read_object(out / SUMMARY_FILE).text("format")
    except JSONError as error:
        raise FolderError(f"{out}: is not an export, so it is not overwritten ({error})") from error
    if existing != name:
        raise FolderError(
            f"{out}: is an export as {existing}, so it is not overwritten with {name}"
        )


def write_summary(folder: Path, summary: ExportSummary) -> None:
    """Write export.json into a folder."""
    write_atomic(folder / SUMMARY_FILE, json.dumps(summary.to_json(), indent=1) + "\n")


def json_text(value: Any) -> str:
    """Return JSON without spaces, in ASCII; numbers that are not finite become null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
