"""Files to which a run appends lines, on a file system and in a bucket.

On a file system every line is written at once. In a bucket, where appending is a request, lines are
held in memory until `flush`; a run calls it before every checkpoint, so that no line is lost that a
checkpoint covers, and when `FLUSH_SECONDS` have passed.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TypeAlias

from etils import epath

from glamm_jax.storage import AnyPath, append

FLUSH_SECONDS = 60.0
CHUNK = 1 << 16  # bytes that are read at once


class FileLog:
    """A log on a file system."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        """Append a line."""
        self._file.write(line + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Do nothing: every line is written at once."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BucketLog:
    """A log in a bucket."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._generation: int | None = None  # of the object, as this process has written it
        self._lines: list[str] = []
        self._flushed = time.monotonic()

    def write(self, line: str) -> None:
        """Append a line."""
        self._lines.append(line + "\n")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Append the lines to the object, with at most five requests.

        Raises:
            StorageError: the bucket cannot be written, or another process has written the object.
        """
        if self._lines:
            content = "".join(self._lines).encode()
            self._generation = append(self._path, content, self._generation)
        self._lines.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Append what is left."""
        self.flush()


LineLog: TypeAlias = FileLog | BucketLog


def remove_unfinished_line(path: AnyPath) -> None:
    """Remove the end of a log behind its last newline: a process was killed while it wrote.

    Lines are appended to an object in a bucket in one request, so that it has none.
    """
    if not isinstance(path, Path) or not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, io.SEEK_END)
        while end:
            begin = max(end - CHUNK, 0)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        file.truncate(end)


def open_log(path: AnyPath) -> LineLog:
    """Open a log; it is created with its first line."""
    return FileLog(path) if isinstance(path, Path) else BucketLog(path)
