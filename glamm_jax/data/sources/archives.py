"""A folder of files and of tar archives, read by name.

A plain .tar is read anywhere; a compressed one from its start on, so it is fast in the order of its
members only. Unpacking `gunzip part.tar.gz` once serves every later reader.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from glamm_jax.errors import GLaMMError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
GZIP = b"\x1f\x8b"
# What a cut or damaged archive raises.
DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error)


class ArchiveError(GLaMMError, OSError):
    """A member that cannot be read. Names the archive."""


class Member(NamedTuple):
    """A file on its own (size -1) or `size` bytes of an archive from `offset` on."""

    path: Path
    name: str
    offset: int = 0
    size: int = -1


class Archives:
    """Everything with a certain suffix under a folder, in and outside of archives.

    skip: names of folders that are not entered.
    `members` are ordered by path, then by place in the archive; `damaged` says which archives end
    too early, with the reason. What stands before the damage is there.
    """

    def __init__(self, folder: Path, suffix: str, skip: frozenset[str] = frozenset()):
        self.members: list[Member] = []
        self.damaged: dict[Path, str] = {}
        self._streams: dict[Path, io.BufferedIOBase] = {}
        self._lock = threading.Lock()
        for path in _files(folder, skip):
            if path.name.endswith(suffix):
                self.members.append(Member(path, path.name))
            elif path.name.endswith(ARCHIVES):
                self._list(path, suffix)

    def read(self, member: Member) -> bytes:
        """A member's bytes. Raises: ArchiveError when they cannot be had."""
        try:
            if member.size < 0:
                return member.path.read_bytes()
            with self._lock:
                stream = self._stream(member.path)
                stream.seek(member.offset)
                data = stream.read(member.size)
        except DAMAGED as error:
            raise ArchiveError(f"{member.path}: {error}") from error
        if len(data) < member.size:
            raise ArchiveError(f"{member.path}: ends inside of {member.name}")
        return data

    def _list(self, path: Path, suffix: str) -> None:
        try:
            with tarfile.open(path) as archive:
                while (info := archive.next()) is not None:
                    if info.isfile() and info.name.endswith(suffix):
                        name = os.path.basename(info.name)
                        self.members.append(Member(path, name, info.offset_data, info.size))
                    # It keeps what it has seen; a million of them would fill the memory.
                    archive.members = []  # type: ignore[attr-defined]  # not in its stub
        except DAMAGED as error:
            self.damaged[path] = str(error) or type(error).__name__

    def _stream(self, path: Path) -> io.BufferedIOBase:
        """The archive's plain bytes, opened once."""
        if path not in self._streams:
            stream: io.BufferedIOBase = path.open("rb")
            if stream.read(2) == GZIP:
                stream.close()
                stream = gzip.GzipFile(path)
            weakref.finalize(self, stream.close)
            self._streams[path] = stream
        return self._streams[path]


def _files(folder: Path, skip: frozenset[str]) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip)
        yield from (Path(where) / name for name in sorted(names))
