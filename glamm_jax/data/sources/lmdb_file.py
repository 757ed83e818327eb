"""Read-only access to LMDB files, in which no byte is trusted.

The library lmdb follows page numbers and offsets of the file without checks: a truncated or damaged
file ends the process (SIGBUS, SIGSEGV). Here every number is compared with the size of the file or
page before it is used, and pages are read, not mapped.

Format: pages of equal size; the first two are descriptions of the database (`_Meta`), of which the
newer one is valid. Its main tree consists of branch pages (keys and page numbers) and leaf pages
(keys and values); a large value is on overflow pages of its own. Numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from glamm_jax.errors import GLaMMError

DATA_FILE = "data.mdb"
MAX_VALUE_BYTES = 1 << 24
MAX_DEPTH = 32  # of the tree; LMDB's own limit
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, end of the node offsets, nodes
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, pages of three kinds, entries, root
_META_END = struct.Struct("<QQ")  # last page, transaction
_NODE = struct.Struct("<HHHH")  # value's size or page (48 bits with the flags), flags, key's size
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_VALUE, _SUBTREE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = (1 << 64) - 1


class LMDBError(GLaMMError):
    """An LMDB file is damaged, truncated, or of a kind that is not read."""


class _Meta(NamedTuple):
    """What a database says of itself."""

    page_size: int
    root: int
    num_entries: int
    last_page: int
    transaction: int


class _Node(NamedTuple):
    """An entry of a page: a key, and a page number or the place of a value in the page."""

    key: bytes
    child: int
    flags: int
    start: int
    size: int


class LMDBFile:
    """The main database of a file, with keys in the order of their bytes.

    Args:
        path: folder with data.mdb, or the file.

    Raises:
        LMDBError: there is no such file, or it is no LMDB, truncated, or of another kind.
    """

    def __init__(self, path: Path):
        self.path = path / DATA_FILE if path.is_dir() else path
        if not self.path.is_file():
            raise LMDBError(f"{self.path}: no such file")
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise LMDBError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        try:
            self._size = os.fstat(self._file).st_size
            self._meta = self._read_meta()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> LMDBFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self._meta.num_entries

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key; None if there is none.

        Raises:
            LMDBError: a page on the way to it is damaged, or the value is too large.
        """
        number = self._meta.root
        for _ in range(MAX_DEPTH):
            if number == _NO_PAGE:
                return None
            page, nodes = self._read_page(number)
            if not nodes:
                return None
            if nodes[0].child < 0:  # a leaf
                node = next((node for node in nodes if node.key == key), None)
                return None if node is None else self._value(page, node)
            # The key of the first node counts as smaller than all others.
            below = [node for node in nodes[1:] if node.key <= key]
            number = (below[-1] if below else nodes[0]).child
        raise LMDBError(f"{self.path}: damaged: the tree is deeper than {MAX_DEPTH} pages")

    def __iter__(self) -> Iterator[bytes]:
        """Yield all keys in order.

        Raises:
            LMDBError: a page is damaged.
        """
        stack = [] if self._meta.root == _NO_PAGE else [(self._meta.root, 0)]
        num_pages = 0
        while stack:
            number, depth = stack.pop()
            num_pages += 1
            # Page numbers of a damaged file may form a cycle.
            if depth > MAX_DEPTH or num_pages > self._meta.last_page:
                raise LMDBError(f"{self.path}: damaged: its pages form no tree")
            _, nodes = self._read_page(number)
            if nodes and nodes[0].child >= 0:
                stack += [(node.child, depth + 1) for node in reversed(nodes)]
            else:
                yield from (node.key for node in nodes)

    def _read_meta(self) -> _Meta:
        """The newer one of the valid descriptions."""
        first = self._parse_meta(0)
        page_size = first.page_size if first else self._guess_page_size()
        second = self._parse_meta(page_size) if page_size else None
        metas = [meta for meta in (first, second) if meta is not None]
        if not metas:
            raise LMDBError(f"{self.path}: not an LMDB file")
        meta = max(metas, key=lambda x: x.transaction)
        needed = (meta.last_page + 1) * meta.page_size
        if needed > self._size:
            raise LMDBError(
                f"{self.path}: truncated: it should have {needed} bytes, and has {self._size}; "
                "copy or download it again"
            )
        return meta

    def _guess_page_size(self) -> int:
        """The page size of a file whose first description is damaged; 0 if there is none."""
        sizes = (1 << bits for bits in range(9, 17))
        return next((size for size in sizes if self._parse_meta(size) is not None), 0)

    def _parse_meta(self, offset: int) -> _Meta | None:
        length = _PAGE_HEADER.size + _META.size + 2 * _TREE.size + _META_END.size
        data = os.pread(self._file, length, offset)
        if len(data) < length:
            return None
        position = _PAGE_HEADER.size
        magic, version, _, _ = _META.unpack_from(data, position)
        if magic != _MAGIC or version != _VERSION:
            return None
        position += _META.size
        page_size, *_ = _TREE.unpack_from(data, position)
        position += _TREE.size
        _, flags, _, _, _, _, num_entries, root = _TREE.unpack_from(data, position)
        last_page, transaction = _META_END.unpack_from(data, position + _TREE.size)
        if page_size not in [1 << bits for bits in range(9, 17)] or (offset or page_size) != (
            page_size
        ):
            return None
        if flags & ~0x8000:  # reversed or integer keys, several values of a key
            raise LMDBError(f"{self.path}: an LMDB with flags {flags:#x}, which are not read")
        return _Meta(page_size, root, num_entries, last_page, transaction)

    def _read_page(self, number: int) -> tuple[bytes, list[_Node]]:
        """A branch or leaf page, and its nodes."""
        size = self._meta.page_size
        where = f"{self.path}: damaged: page {number}"
        if not 2 <= number <= self._meta.last_page:
            raise LMDBError(f"{where} does not exist")
        page = os.pread(self._file, size, number * size)
        if len(page) < size:
            raise LMDBError(f"{where} is truncated")
        own_number, _, flags, lower, _ = _PAGE_HEADER.unpack_from(page)
        kind = flags & (_BRANCH | _LEAF | _OVERFLOW)
        if own_number != number or kind not in (_BRANCH, _LEAF) or flags & 0x60:
            raise LMDBError(f"{where} is not a page of the tree")
        if not _PAGE_HEADER.size <= lower <= size or (lower - _PAGE_HEADER.size) % 2:
            raise LMDBError(f"{where} has an impossible number of entries")
        count = (lower - _PAGE_HEADER.size) // 2
        nodes = []
        for start in struct.unpack_from(f"<{count}H", page, _PAGE_HEADER.size):
            if not lower <= start <= size - _NODE.size:
                raise LMDBError(f"{where} has an entry outside of it")
            low, high, node_flags, key_size = _NODE.unpack_from(page, start)
            value_start = start + _NODE.size + key_size
            if value_start > size:
                raise LMDBError(f"{where} has a key outside of it")
            key = page[start + _NODE.size : value_start]
            child = low | high << 16 | node_flags << 32 if kind == _BRANCH else -1
            nodes.append(_Node(key, child, node_flags, value_start, low | high << 16))
        if kind == _BRANCH and not nodes:
            raise LMDBError(f"{where} has no entries")
        return page, nodes

    def _value(self, page: bytes, node: _Node) -> bytes:
        if node.flags & (_SUBTREE | _DUPLICATES):
            raise LMDBError(f"{self.path}: {node.key[:60]!r} has several values")
        if node.size > MAX_VALUE_BYTES:
            raise LMDBError(
                f"{self.path}: {node.key[:60]!r} has {node.size} bytes; at most {MAX_VALUE_BYTES} "
                "are read"
            )
        if not node.flags & _BIG_VALUE:
            value = page[node.start : node.start + node.size]
        else:
            number_bytes = page[node.start : node.start + 8]
            number = int.from_bytes(number_bytes, "little")
            if len(number_bytes) < 8 or not 2 <= number <= self._meta.last_page:
                raise LMDBError(f"{self.path}: damaged: page {number} does not exist")
            offset = number * self._meta.page_size
            data = os.pread(self._file, _PAGE_HEADER.size + node.size, offset)
            own_number, _, flags, _, _ = _PAGE_HEADER.unpack_from(data.ljust(16, b"\0"))
            if own_number != number or not flags & _OVERFLOW:
                raise LMDBError(f"{self.path}: damaged: page {number} is no overflow page")
            value = data[_PAGE_HEADER.size :]
        if len(value) < node.size:
            raise LMDBError(f"{self.path}: damaged: a value ends outside of its page")
        return value
