"""Files and folders: atomic writes, names and paths that come from files of unknown origin.

A file or a folder that is written is either complete or does not exist. A name from a file becomes
a path by `safe_name` (for writing) or `confined_file` (for reading), and by nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from glamm_jax.errors import FolderError, GLaMMError

# The longest name of common file systems is 255 bytes; a temporary name is longer by some.
MAX_NAME_BYTES = 200
# Device names of Windows; a name such as nul.json opens the device as well.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class FileNameError(GLaMMError):
    """A name from a file is not the name of a file, or leads out of its folder."""


def safe_name(name: str, suffix: str = "") -> str:
    """Return the name of a file, made of a text of unknown origin, such as an image id.

    It is the text itself, so that different texts give different files.

    Args:
        name: the text.
        suffix: appended to it, such as ".json".

    Raises:
        FileNameError: the text is empty or too long, has a separator, a control character or a
            half of a surrogate pair, begins with a full stop, ends with a full stop or a space, or
            is reserved.
    """
    problem = _name_problem(name, suffix)
    if problem:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise FileNameError(f"{shown!r} cannot be the name of a file: it {problem}")
    return name + suffix


def _name_problem(name: str, suffix: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "/" in name or "\\" in name:
        return "contains a separator of folders"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "contains a control character"
    if name.startswith("."):
        return "begins with a full stop"
    if not suffix and name.endswith((".", " ")):
        return "ends with a full stop or a space"
    if _RESERVED.fullmatch(name):
        return "is the name of a device on Windows"
    try:
        length = len((name + suffix).encode())
    except UnicodeEncodeError:
        return "contains half of a surrogate pair"
    return f"has more than {MAX_NAME_BYTES} bytes" if length > MAX_NAME_BYTES else None


def confined_file(folder: Path, name: str, allow_outside: bool = False) -> Path | None:
    """Return the path of an existing regular file that a file of unknown origin names.

    Args:
        folder: that the name is relative to; may be a link itself.
        name: may have folders, such as "train/dog.jpg".
        allow_outside: permit files outside of the folder, by "..", as absolute path, or by a link.

    Returns:
        None if there is no regular file of this name.

    Raises:
        FileNameError: there is one, but it is not in the folder.
    """
    path = os.path.join(folder, name)
    # Unlike Path.is_file, os.path.isfile does not raise for names that no file system allows.
    if not name or not os.path.isfile(path):
        return None
    if not allow_outside:
        target, base = os.path.realpath(path), os.path.realpath(folder)
        if os.path.commonpath([target, base]) != base:
            raise FileNameError(f"{name!r} leads out of the folder {folder}")
    return Path(path)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of bounded size.

    Args:
        path: of the file. Pipes and devices are not opened.
        max_bytes: largest size.

    Raises:
        FileNameError: it is no regular file, or larger.
        OSError: it cannot be read.
    """
    # A pipe blocks when it is opened, unless it is opened like this.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNameError(f"{path}: not a regular file")
        if status.st_size > max_bytes:
            raise FileNameError(f"{path}: {status.st_size} bytes; at most {max_bytes} are read")
        return file.read(max_bytes + 1)[:max_bytes]


def bounded_lines(stream: BufferedIOBase, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield the lines of a file without holding a long one in memory.

    Args:
        stream: the file.
        max_bytes: longest line; of a longer one the first `max_bytes` bytes are yielded.

    Yields:
        The line with its line break, and its length in bytes, which may be larger.
    """
    while line := stream.readline(max_bytes):
        length, tail = len(line), line
        while not tail.endswith(b"\n") and (tail := stream.readline(max_bytes)):
            length += len(tail)
        yield line, length


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
