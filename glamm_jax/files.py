"""Atomic writes: a file or a folder is either complete or does not exist."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glamm_jax.errors import FolderError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a temporary file next to `path`, then rename it; create missing parent folders.

    An existing file stays until the rename, and stays if anything fails. Text is encoded as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, nbytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder, renamed to `path` at the end and removed if anything fails.

    Args:
        path: the folder to create.
        nbytes: size of what will be written; it must fit the free space of the disk.

    Raises:
        FolderError: the folder exists, there is not enough free space, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise FolderError(f"{path}: exists already; remove it or choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():  # an earlier process was killed
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
