"""Results of a build that is not finished: one line of JSON for each, so that it can resume.

{"key": "42", "digest": "0f3a...", "result": {...}}

A line counts for a request with the same key and digest only. A line that a killed process left
incomplete is cut off.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from glamm_jax.errors import FolderError


class WorkLog:
    """The results of earlier processes, and of this one.

    Args:
        path: of the file; it and its folder are created.

    Raises:
        FolderError: the file cannot be read or written, or a complete line is no result.
    """

    def __init__(self, path: Path):
        self._results: dict[tuple[str, str], Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            complete = data.rfind(b"\n") + 1
            for number, line in enumerate(data[:complete].splitlines(), start=1):
                self._read(line, f"{path}, line {number}")
            self._file = path.open("r+b" if path.exists() else "w+b")
            self._file.truncate(complete)
            self._file.seek(complete)
        except OSError as error:
            raise FolderError(f"{path}: {error.strerror or error}") from error

    def __enter__(self) -> WorkLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._results)

    def find(self, key: str, digest: str) -> Any:
        """Return the result of a request; None if there is none.

        Args:
            key: of the image.
            digest: of all that the result depends on.
        """
        return self._results.get((key, digest))

    def add(self, key: str, digest: str, result: Any) -> None:
        """Append a result.

        Args:
            key: of the image.
            digest: of all that the result depends on.
            result: anything that JSON has, but not null.
        """
        self._results[key, digest] = result
        line = json.dumps({"key": key, "digest": digest, "result": result}) + "\n"
        self._file.write(line.encode())
        self._file.flush()

    def _read(self, line: bytes, where: str) -> None:
        try:
            value = json.loads(line)
            key, digest, result = value["key"], value["digest"], value["result"]
            if not isinstance(key, str) or not isinstance(digest, str) or result is None:
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FolderError(
                f"{where}: is no result of a build; remove the file to begin anew"
            ) from error
        self._results[key, digest] = result
