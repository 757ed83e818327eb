"""Files and folders: atomic writes, locks, names and paths that come from files of unknown origin.

A file or a folder that is written is either complete or does not exist, after a power failure as
well: it is synchronised with the disk before it is renamed. In a bucket an object appears when it
is complete; a folder is complete when the file exists that is written last. A name from a file
becomes a path by `safe_name` (for writing) or `confined_file` (for reading), and by nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from etils import epath

from glamm_jax.bucket_lock import BucketLock
from glamm_jax.errors import FolderError, GLaMMError
from glamm_jax.lock_holder import LockHolder
from glamm_jax.storage import AnyPath, objects_below, put, to_path, upload_folder

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
        content = file.read(status.st_size + 1)  # a larger request would reserve more memory
        if len(content) > status.st_size:  # the file grows
            content += file.read(max(0, max_bytes - len(content)))
        return content[:max_bytes]


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


POLL_SECONDS = 0.2  # between two attempts to take a lock
# Errors of a file system without file locks (some network file systems).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def write_atomic(path: AnyPath, content: bytes | str) -> None:
    """Write a temporary file next to `path`, then rename it; create missing parent folders.

    An existing file stays until the rename, and stays if anything fails. Text is encoded as UTF-8.
    An object in a bucket is written in one request.
    """
    data = content.encode() if isinstance(content, str) else content
    if not isinstance(path, Path):
        put(path, data)
        return
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file next to `path` that is renamed at the end, as by `write_atomic`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: AnyPath | str, nbytes: int = 0, last: str = "") -> Iterator[Path]:
    """Yield a temporary folder, renamed to `path` at the end and removed if anything fails.

    One in a bucket is written to the temporary folder of this machine (TMPDIR) and uploaded.

    Args:
        path: the folder to create.
        nbytes: size of what will be written; it must fit the free space of the disk.
        last: name of the file that is uploaded last, to a bucket: with it the folder is complete.

    Raises:
        FolderError: the folder exists, another process writes it, there is not enough free space,
            or it cannot be written.
    """
    path = to_path(path) if isinstance(path, str) else path
    if not isinstance(path, Path):
        with _uploaded_folder(path, nbytes, last) as folder:
            yield folder
        return
    if path.exists():
        raise FolderError(f"{path}: exists already; remove it or choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), str(path)):
            try:
                if partial.exists():  # an earlier process was killed
                    shutil.rmtree(partial)
                _check_free_space(path.parent, nbytes, str(path))
                partial.mkdir()
                yield partial
                sync_tree(partial)
                if path.exists():  # an empty folder would be replaced
                    raise FolderError(f"{path}: was created by another program meanwhile")
                partial.rename(path)
                sync(path.parent)
            finally:
                if partial.exists():
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _uploaded_folder(path: epath.Path, nbytes: int, last: str) -> Iterator[Path]:
    """Yield a temporary folder that is uploaded to a bucket at the end."""
    if not last:
        raise FolderError(
            f"{path}: this folder cannot be written to a bucket; write it to this machine, then "
            "copy it there"
        )
    names = objects_below(path)
    if last in names:
        raise FolderError(f"{path}: exists already; remove it or choose another name")
    if names:
        raise FolderError(
            f"{path}: has {len(names)} files, but no {last}, which is uploaded last; if an "
            f"interrupted upload has left them, remove them: gcloud storage rm -r {path}"
        )
    with tempfile.TemporaryDirectory(prefix="glamm-jax-") as name:
        _check_free_space(Path(name), nbytes, f"{path} (written to {name} first; TMPDIR moves it)")
        yield Path(name)
        upload_folder(Path(name), path, last)


def _check_free_space(folder: Path, nbytes: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise FolderError(
            f"{what}: {nbytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free there"
        )


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # not every file system syncs folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Write all files of a folder to the disk, and the names in it."""
    for root, _, names in os.walk(folder):
        for name in names:
            if not os.path.islink(os.path.join(root, name)):
                sync(Path(root, name))
        sync(Path(root))


def lock_path(path: AnyPath, subject: str, wait: bool = False) -> FileLock | BucketLock:
    """Take an exclusive lock: a file of the operating system, or a lease in a bucket.

    Args:
        path: of the lock.
        subject: what is locked, for the error message.
        wait: until the lock is free, instead of an error.

    Raises:
        FolderError: another process holds it.
    """
    if isinstance(path, Path):
        return FileLock(path, subject, wait)
    return BucketLock(path, subject, wait)


class FileLock:
    """An exclusive lock on something that one process may write at a time.

    It is a lock of the operating system on a file (flock), which ends with its process however that
    ends, and holds among the hosts of a network file system that supports it (NFS does). The file
    names host, process and time, for the error message. Where the file system has no locks, the
    file itself is the lock: it is stale if it names a process of this host that does not exist.

    Attributes:
        path: of the lock file; it is removed when the lock is released.
    """

    def __init__(self, path: Path, subject: str, wait: bool = False):
        """Take the lock.

        Args:
            path: of the lock file, in an existing folder.
            subject: what is locked, for the error message.
            wait: until the lock is free, instead of an error.

        Raises:
            FolderError: another process, or another lock of this one, holds it.
            OSError: the file cannot be created.
        """
        self.path = path
        self._descriptor: int | None = None
        while not self._take():
            if not wait:
                raise FolderError(
                    f"{subject}: is being written by {self._holder()}; wait until that has ended, "
                    f"or choose another folder (lock file {path})"
                )
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Do nothing: the lock is held until it is closed."""

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            with suppress(OSError):  # somebody removed the file
                if _same_file(self._descriptor, self.path):
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    def _take(self) -> bool:
        """Try to take the lock; returns whether it is held now."""
        while True:
            descriptor, is_new = self._open()
            try:
                if not self._lock(descriptor, is_new):
                    return False
                if _same_file(descriptor, self.path):  # not released and removed meanwhile
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, LockHolder.this_process().to_bytes())
                    self._descriptor = descriptor
                    return True
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def _open(self) -> tuple[int, bool]:
        """Open the lock file; returns its descriptor and whether this call created it."""
        while True:
            try:
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
            except FileExistsError:
                with suppress(FileNotFoundError):  # removed meanwhile
                    return os.open(self.path, os.O_RDWR), False

    def _lock(self, descriptor: int, is_new: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return is_new or self._holder().has_ended
        return True

    def _holder(self) -> LockHolder:
        try:
            return LockHolder.from_bytes(self.path.read_bytes())
        except OSError:
            return LockHolder()


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
