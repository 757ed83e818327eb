"""Files and folders that are seen whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glamm_jax.errors import FolderError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file under another name, in folders made for it, then rename it.

    Whatever was there stays until then, and stays if anything fails. Text becomes UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, nbytes: int = 0) -> Iterator[Path]:
    """A folder that appears under its name when it is whole, and not at all otherwise.

    Args:
        nbytes: what will be written, so that a full disk is noticed before the work.

    Raises: FolderError when it exists, does not fit or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise FolderError(f"{path}: exists already; remove it or choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():  # an earlier run was killed
            shutil.rmtree(partial)
        free = shutil.disk_usage(path.parent).free
        if nbytes > free:
            raise FolderError(
                f"{path}: {nbytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free there"
            )
        partial.mkdir()
        yield partial
        partial.rename(path)
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
