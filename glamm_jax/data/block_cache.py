"""A cache on this machine of blocks of objects in buckets, of bounded size.

    cache = BlockCache(Path("/tmp/cache"), max_bytes=32 << 30)
    cache.read(path, info, start, end)       # from the blocks that cover the range

A block is a file, named by object, generation and position; so a replaced object has other blocks.
It is written under a temporary name and renamed, and its last bytes are a checksum: a damaged block
is removed and read again. The processes that share the folder count its bytes in the file `size`,
which a lock protects; who exceeds the bound removes the blocks that were not used for longest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from glamm_jax.errors import ConfigError
from glamm_jax.storage import ObjectInfo, read_range

BLOCK_BYTES = 1 << 20
CHECKSUM_BYTES = 4
DEFAULT_FOLDER = "glamm-jax-cache"
EVICTION_TARGET = 7 / 8  # of the bound, after blocks were removed
_SIZE, _SUFFIX, _TEMPORARY = "size", ".block", ".tmp-"


@dataclass(frozen=True)
class BlockCache:
    """A cache of blocks, shared by processes; it is pickled as its folder.

    Attributes:
        folder: created when it is needed.
        max_bytes: largest size of all blocks.
        block_bytes: size of a block.
    """

    folder: Path
    max_bytes: int
    block_bytes: int = BLOCK_BYTES

    def read(self, path: epath.Path, info: ObjectInfo, start: int, end: int) -> bytes:
        """Read a range of an object.

        Args:
            path: of the object.
            info: of the object; it must still be of this generation.
            start: position of the first byte.
            end: position behind the last byte.

        Raises:
            StorageError: the object was replaced, or cannot be read.
        """
        first, end_block = start // self.block_bytes, -(-end // self.block_bytes)
        blocks = [self._block(path, info, index) for index in range(first, end_block)]
        offset = start - first * self.block_bytes
        return b"".join(blocks)[offset : offset + end - start]

    def check_space(self) -> None:
        """Create the folder, and check that the disk has room for all blocks.

        Raises:
            ConfigError: it has not, or the folder cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            used = sum(block.size for block in self._blocks())
        except OSError as error:
            raise ConfigError(
                f"data.cache_dir = {self.folder}: cannot be used: {error.strerror}"
            ) from error
        if free + used < self.max_bytes:
            raise ConfigError(
                f"data.cache_bytes = {self.max_bytes}: only {free + used} are free in {self.folder}"
                "; set data.cache_bytes, or another data.cache_dir"
            )

    def _block(self, path: epath.Path, info: ObjectInfo, index: int) -> bytes:
        start = index * self.block_bytes
        end = min(start + self.block_bytes, info.size)
        source = f"{path}#{info.generation}#{self.block_bytes}"
        name = hashlib.sha256(source.encode()).hexdigest()[:32]
        file = self.folder / name[:2] / f"{name}-{index}{_SUFFIX}"
        with suppress(FileNotFoundError):
            content = file.read_bytes()
            data = content[:-CHECKSUM_BYTES]
            if len(data) == end - start and content[-CHECKSUM_BYTES:] == _checksum(data):
                os.utime(file)  # it was used now
                return data
            self._remove(file, len(content))
        data = read_range(path, start, end, info.generation)
        self._write(file, data + _checksum(data))
        return data

    def _write(self, file: Path, content: bytes) -> None:
        """Write a block, and remove others if there is no room for it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}{_TEMPORARY}{uuid.uuid4().hex[:8]}")
        with self._counted() as count:
            total = count.read() + len(content)
            count.write(total if total <= self.max_bytes else self._evict(len(content)))
        try:
            temporary.write_bytes(content)
            os.replace(temporary, file)
        except FileNotFoundError:  # another process has removed it to make room
            return
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise ConfigError(
                    f"{self.folder}: the disk is full; lower data.cache_bytes = {self.max_bytes}"
                ) from error
            raise

    def _remove(self, file: Path, num_bytes: int) -> None:
        with self._counted() as count, suppress(FileNotFoundError):
            file.unlink()
            count.write(max(0, count.read() - num_bytes))

    def _evict(self, num_bytes: int) -> int:
        """Remove the blocks that were not used for longest; returns the size with new bytes."""
        blocks = sorted(self._blocks(), key=lambda block: block.used)
        total = sum(block.size for block in blocks) + num_bytes
        for block in blocks:
            if total <= self.max_bytes * EVICTION_TARGET:
                break
            with suppress(FileNotFoundError):
                os.unlink(block.path)
            total -= block.size
        return total

    def _blocks(self) -> Iterator[_Block]:
        """Yield the blocks, and unfinished ones."""
        for entry in os.scandir(self.folder):
            if entry.is_dir():
                for file in os.scandir(entry.path):
                    with suppress(FileNotFoundError):
                        status = file.stat()
                        yield _Block(file.path, status.st_size, status.st_mtime)

    @contextmanager
    def _counted(self) -> Iterator[_Count]:
        """Lock the file that counts the bytes of the folder."""
        descriptor = os.open(self.folder / _SIZE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield _Count(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Block:
    """A file of the cache.

    Attributes:
        path: of the file.
        size: in bytes.
        used: when it was read or written.
    """

    path: str
    size: int
    used: float


@dataclass(frozen=True)
class _Count:
    """The number in the file `size`, while it is locked.

    Attributes:
        descriptor: of the open file.
    """

    descriptor: int

    def read(self) -> int:
        """Return the number; 0 of a new file."""
        text = os.pread(self.descriptor, 30, 0)
        return int(text) if text.isdigit() else 0

    def write(self, number: int) -> None:
        """Replace the number."""
        os.pwrite(self.descriptor, b"%020d" % number, 0)


def default_cache(folder: str, max_bytes: int) -> BlockCache:
    """Return the cache in a folder; "": in that of temporary files."""
    path = Path(folder) if folder else Path(tempfile.gettempdir(), DEFAULT_FOLDER)
    return BlockCache(path, max_bytes)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")
