"""LMDB files are read as the library lmdb reads them; damaged ones raise an error."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from glamm_jax.data.sources.lmdb_file import LMDBError, LMDBFile

RANDOM = random.Random(0)
ENTRIES = {
    f"sa_{i}.jpg".encode(): RANDOM.randbytes(RANDOM.choice([0, 5, 300, 9000])) for i in range(500)
}
ENTRIES[b"k" * 500] = b"long key"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmdb") / "database"
    with lmdb.open(str(folder), map_size=1 << 28) as database:
        for start in range(0, len(ENTRIES), 100):  # several transactions use both descriptions
            with database.begin(write=True) as transaction:
                for key, value in [*ENTRIES.items()][start : start + 100]:
                    transaction.put(key, value)
        with database.begin(write=True) as transaction:
            transaction.put(b"deleted", b"x" * 9000)
        with database.begin(write=True) as transaction:
            transaction.delete(b"deleted")
    return folder


def test_all_keys_and_values_are_read(path):
    with LMDBFile(path) as database:
        assert list(database) == sorted(ENTRIES)
        assert {key: database.get(key) for key in ENTRIES} == ENTRIES
        assert [database.get(key) for key in (b"", b"sa_", b"zz", b"sa_1.jpg2", b"deleted")] == [
            None
        ] * 5
        assert len(database) == len(ENTRIES)


def test_an_empty_database_has_no_keys(tmp_path):
    lmdb.open(str(tmp_path / "empty")).close()
    with LMDBFile(tmp_path / "empty") as database:
        assert list(database) == []
        assert database.get(b"a") is None


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(path, tmp_path, part):
    data = (path / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data[: int(part * len(data))])
    with pytest.raises(LMDBError, match=r"data\.mdb: (truncated|not an LMDB file)"):
        LMDBFile(tmp_path)


def test_damaged_files_are_read_or_rejected(path, tmp_path):
    data = (path / "data.mdb").read_bytes()
    file = tmp_path / "data.mdb"
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(RANDOM.choice([1, 20, 2000])):
            damaged[RANDOM.randrange(len(data))] = RANDOM.randrange(256)
        damaged[RANDOM.randrange(200)] = RANDOM.randrange(256)
        file.write_bytes(damaged)
        try:
            with LMDBFile(file) as database:
                for key in [*ENTRIES][:20]:
                    database.get(key)
                list(database)
        except LMDBError:
            continue


def test_pages_that_refer_to_each_other_end(path, tmp_path):
    data = bytearray((path / "data.mdb").read_bytes())
    size = int.from_bytes(data[40:44], "little")
    for number in range(2, len(data) // size):
        page = data[number * size : (number + 1) * size]
        if (
            page[:8] == number.to_bytes(8, "little") and page[10:12] == b"\1\0"
        ):  # a branch page: all children are itself
            for i in range(16, int.from_bytes(page[12:14], "little"), 2):
                start = number * size + int.from_bytes(page[i : i + 2], "little")
                data[start : start + 6] = number.to_bytes(6, "little")
    (tmp_path / "data.mdb").write_bytes(data)
    with LMDBFile(tmp_path) as database:
        with pytest.raises(LMDBError, match="tree"):
            list(database)
        with pytest.raises(LMDBError, match="tree"):
            database.get(b"sa_1.jpg")
