"""Files in a folder and in the tar archives below it, by name.

A member of an uncompressed .tar is read by seeking. A compressed archive has to be decompressed
from its start, so it is fast only in the order of its members. Run `gunzip part.tar.gz` once if it
is read more than once.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import weakref
import zlib
from pathlib import Path
from tarfile import ReadError
from typing import Any, NamedTuple

from glamm_jax.errors import GLaMMError
from glamm_jax.files import read_regular_file

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
GZIP_MAGIC = b"\x1f\x8b"
# What truncated and damaged archives raise; tarfile parses numbers and names without checks.
READ_ERRORS = (
    *(tarfile.TarError, EOFError, OSError, zlib.error),
    *(ValueError, KeyError, IndexError, RecursionError),
)
# Of a file or member. One has the annotations of one image, which are a few hundred kilobytes.
MAX_MEMBER_BYTES = 1 << 24
MAX_HEADER_BYTES = 1 << 20  # of an extended header, which tarfile reads at once
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class ArchiveError(GLaMMError, OSError):
    """A member cannot be read. Names the archive."""


class Member(NamedTuple):
    """A file on its own (size -1), or `size` bytes of an archive from `offset` on."""

    path: Path
    name: str
    offset: int = 0
    size: int = -1


class _BoundedHeader(tarfile.TarInfo):
    """A header that takes no more memory than it is worth."""

    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise ReadError(f"an extended header of {self.size} bytes")
        return super()._proc_member(tarfile)  # type: ignore[misc]  # not in its stub


class Archives:
    """All files with a certain suffix below a folder, in and outside of archives.

    Attributes:
        members: the files, ordered by path, then by position in the archive.
        damaged: archive -> reason, for archives that cannot be read to their end. The members
            before the damage are listed.
    """

    def __init__(self, folder: Path, suffix: str, skip: frozenset[str] = frozenset()):
        """List the files.

        Args:
            folder: searched recursively.
            suffix: of the files to list.
            skip: names of folders that are not searched.
        """
        self.members: list[Member] = []
        self.damaged: dict[Path, str] = {}
        self._streams: dict[Path, io.BufferedIOBase] = {}
        self._lock = threading.Lock()
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name not in skip)
            for path in (Path(parent) / name for name in sorted(names)):
                if path.name.endswith(suffix):
                    self.members.append(Member(path, path.name))
                elif path.name.endswith(ARCHIVE_SUFFIXES):
                    self._list_archive(path, suffix)

    def read(self, member: Member) -> bytes:
        """Return the bytes of a member.

        Raises:
            ArchiveError: they cannot be read.
        """
        try:
            if member.size < 0:
                return read_regular_file(member.path, MAX_MEMBER_BYTES)
            if member.size > MAX_MEMBER_BYTES:
                raise ArchiveError(
                    f"{member.path}: {member.name} has {member.size} bytes; at most "
                    f"{MAX_MEMBER_BYTES} are read"
                )
            with self._lock:
                stream = self._stream(member.path)
                stream.seek(member.offset)
                data = stream.read(member.size)
        except ArchiveError:
            raise
        except READ_ERRORS as error:
            raise ArchiveError(f"{member.path}: {error}") from error
        if len(data) < member.size:
            raise ArchiveError(f"{member.path}: truncated inside of {member.name}")
        return data

    def _list_archive(self, path: Path, suffix: str) -> None:
        try:
            with path.open("rb") as stream:
                is_compressed = stream.read(2) == GZIP_MAGIC
            # The mode is explicit, as `read` decompresses nothing but gzip.
            mode: Any = "r:gz" if is_compressed else "r:"
            with tarfile.open(path, mode, tarinfo=_BoundedHeader) as archive:
                while (info := archive.next()) is not None:
                    # A sparse member has other bytes at its offset than its content.
                    if info.isreg() and not info.issparse() and info.name.endswith(suffix):
                        name = os.path.basename(info.name)
                        self.members.append(Member(path, name, info.offset_data, info.size))
                    # The archive keeps every entry; a million of them would fill the memory.
                    archive.members = []  # type: ignore[attr-defined]  # not in its stub
        except READ_ERRORS as error:
            self.damaged[path] = str(error) or type(error).__name__

    def _stream(self, path: Path) -> io.BufferedIOBase:
        """The uncompressed bytes of an archive; it is opened once."""
        if path not in self._streams:
            stream: io.BufferedIOBase = path.open("rb")
            if stream.read(2) == GZIP_MAGIC:
                stream.close()
                stream = gzip.GzipFile(path)
            weakref.finalize(self, stream.close)
            self._streams[path] = stream
        return self._streams[path]
