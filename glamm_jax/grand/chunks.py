"""Chunk files: the sections that a stage made of a fixed list of images, one JSON line per image.

    {"id": "a/dog.jpg", "attempt": 0, "section": {...}}
    {"id": "a/cat.jpg", "attempt": 1, "error": {"kind": "model", "message": "..."}}

A file is written under a temporary name, synchronised and renamed; in a bucket it is put at once.
So a chunk is complete if its file exists. All paths go through `etils.epath`: local paths, and
gs://, s3://, az:// and hf:// where the package of fsspec for that service is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from etils import epath

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.record import encode_json
from glamm_jax.grand.stages import Section, StageError, one_line

TEMPORARY = ".tmp-"
MAX_NAME = 120  # characters of a name made of a text
_CHUNK = re.compile(r"chunk-([0-9]{5,})-of-([0-9]{5,})\.jsonl")


class RunFolderError(GLaMMError):
    """A run folder cannot be used, read or written. Says why, and what to do."""


def path_name(text: str) -> str:
    """Return the name of a file or folder for any text, such as a stage or an image.

    Letters and digits of ASCII, "_", "-" and "." inside stay; all else becomes %XX. Different texts
    have different names.
    """
    name = quote(text.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= MAX_NAME and name:
        return name
    suffix = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{name[: MAX_NAME - 20]}%~{suffix}"  # no short name has "~"


def chunk_name(index: int, total: int) -> str:
    """Return the name of a chunk file, such as chunk-00012-of-01100.jsonl."""
    return f"chunk-{index:05d}-of-{total:05d}.jsonl"


def chunk_index(name: str, total: int) -> int | None:
    """Return the number of a chunk file; None for all other files."""
    match = _CHUNK.fullmatch(name)
    return int(match[1]) if match and int(match[2]) == total else None


def is_local(path: epath.Path) -> bool:
    """Whether a path is on a file system, not in a bucket."""
    return "://" not in os.fspath(path)


def list_names(folder: epath.Path) -> list[str]:
    """Return the names in a folder, [] if it does not exist.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        if is_local(folder):  # much faster than epath
            return os.listdir(folder)
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be read: {error.strerror or error}") from error


def read_file(path: epath.Path) -> bytes:
    """Read a file of the run folder.

    Raises:
        FileNotFoundError: there is none.
        RunFolderError: it cannot be read.
    """
    try:
        if is_local(path):
            with open(path, "rb") as file:
                return file.read()
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_file(path: epath.Path, content: bytes, durable: bool = True) -> None:
    """Write a file of the run folder so that it is complete or does not exist.

    The names in the folder are not synchronised, unlike by `write_atomic`: a chunk whose name is
    lost by a power failure is computed again, and it takes half of the time.

    Args:
        path: of the file; missing folders are created.
        content: of the file.
        durable: synchronise it with the disk, so that it is complete after a power failure too.

    Raises:
        RunFolderError: it cannot be written, for instance because the disk is full.
    """
    try:
        if not is_local(path):
            path.write_bytes(content)  # objects appear when they are complete
            return
        target = Path(path)
        temporary = target.with_name(f".{target.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            _write_local(temporary, content, durable)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written: {error.strerror or error}; what is finished is kept: make "
            "space or change the permissions, and run the same command again"
        ) from error


def _write_local(path: Path, content: bytes, durable: bool) -> None:
    try:
        file = path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


class OutcomeSections(Mapping[str, Section | None]):
    """The sections of the inputs of an image; they are decoded when they are used."""

    __slots__ = ("_outcomes",)

    def __init__(self, outcomes: Mapping[str, Outcome]):
        self._outcomes = outcomes

    def __getitem__(self, name: str) -> Section | None:
        return self._outcomes[name].section

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)


class Outcome:
    """What a stage made of an image.

    Attributes:
        error: None if there is a section.
        attempt: that gave the section or the error.
    """

    __slots__ = ("_section", "_text", "attempt", "error")

    def __init__(
        self,
        text: str = "",
        error: StageError | None = None,
        attempt: int = 0,
        section: Section | None = None,
    ):
        """Combine an encoded section, or an error, with the number of its attempt.

        Args:
            text: the section as JSON.
            error: why there is none.
            attempt: that gave it.
            section: the section if it was read from a file.
        """
        self.error, self.attempt = error, attempt
        self._text, self._section = text, section

    @property
    def section(self) -> Section | None:
        """The section as it would be read from the file; None if there is an error."""
        if self._section is None and self.error is None:
            self._section = json.loads(self._text)
        return self._section

    def encode(self, image_id: str) -> str:
        """Return the line of the chunk file."""
        name, text = "section", self._text
        if self.error is not None:
            name, text = "error", json.dumps(self.error.to_json(), separators=(",", ":"))
        return f'{{"id":{json.dumps(image_id)},"attempt":{self.attempt},"{name}":{text}}}\n'


def encode_section(section: Section) -> str:
    """Return a section as JSON.

    Raises:
        TypeError: it has values that JSON does not have.
        ValueError: it has a number that is not finite.
        RecursionError: it refers to itself.
    """
    return encode_json(section)


def encode_chunk(ids: Sequence[str], outcomes: Sequence[Outcome]) -> bytes:
    """Return the content of a chunk file."""
    lines = [item.encode(image_id) for image_id, item in zip(ids, outcomes, strict=True)]
    return "".join(lines).encode()


def decode_chunk(lines: Iterator[bytes], ids: Sequence[str], where: str) -> Iterator[Outcome]:
    """Yield the outcomes of a chunk file.

    Args:
        lines: of the file.
        ids: of the images of the chunk.
        where: the file, for messages.

    Raises:
        RunFolderError: it does not have exactly the images of the chunk, or is damaged.
    """
    advice = "it was damaged; delete it and run the same command again"
    for number, image_id in enumerate(ids, 1):
        line = next(lines, b"")
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the file ends too early")
            # Not parse_json: these files are our own, and it takes several times as long.
            outcome = _decode_line(json.loads(line), image_id)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunFolderError(f"{where}: line {number}: {one_line(error)}: {advice}") from error
        yield outcome
    if next(lines, b""):
        raise RunFolderError(f"{where}: more lines than images: {advice}")


def _decode_line(fields: dict[str, Any], image_id: str) -> Outcome:
    if fields["id"] != image_id:
        raise ValueError(f"{one_line(fields['id'])!r} instead of image {one_line(image_id)!r}")
    attempt = fields["attempt"]
    if "error" in fields:
        return Outcome(error=StageError(**fields["error"]), attempt=attempt)
    section = fields["section"]
    if not isinstance(section, dict):
        raise ValueError("the section is not an object")
    return Outcome(section=section, attempt=attempt)
