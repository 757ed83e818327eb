"""A source becomes shards: any shard by itself, so that any number of processes can share the work.

Which shard a picture belongs to, and where in it, follows from the hash of its key: not from the
order in which a source lists its pictures, nor from who else is there. So the shards' bytes depend
on the source and the number of shards alone.

    reading = Reading(make_source, root, "train")       opened anew in every process
    target = reading.target(out)
    target.begin(reading.job())
    for index in range(target.num_shards):              in any order, anywhere
        write_shard(reading, target, index)             skips what is finished
    target.publish(target.add_up(len(reading.keys)))
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import Defect, Record, RecordError, check_record
from glamm_jax.data.record_shards import ShardError, decode, encode
from glamm_jax.data.sources.registry import MakeSource
from glamm_jax.data.sources.source_files import SIZE_MISMATCH, UNREADABLE_IMAGE, SourceError, quoted
from glamm_jax.data.split_folder import (
    VERSION,
    ConversionError,
    ShardReport,
    SplitFolder,
    dataset_name,
    temporary_name,
    translate_write_errors,
)

IMAGES_PER_SHARD = 1000  # a fifth of a GB or so, and what a kill can cost a process
INCONSISTENT = "inconsistent record"
READER_FAILED = "reader failed"


def _nothing() -> None:
    pass


@dataclass
class ShardStats:
    """What was met while a shard was read."""

    num_keys: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)


class SourceReader:
    """A source, opened, and its records by shard. Pickled as the way to open it again.

    num_shards: None makes it one for every `PICTURES_PER_SHARD`.
    Raises: SourceError when the source cannot be opened, is empty or lists a picture twice.
    """

    def __init__(
        self, make_source: MakeSource, root: Path, split: str, num_shards: int | None = None
    ):
        self._way = (make_source, root, split, num_shards)
        self.source = make_source(root, split)
        self.keys: list[str] = list(self.source.keys)
        self._hashes = np.array([_hash(key) for key in self.keys], np.uint64)
        if not len(self.keys):
            raise SourceError(f"{root}: {self.source.name} has no pictures in split {split!r}")
        if len(np.unique(self._hashes)) < len(self.keys):
            twice = [quoted(key) for key, count in Counter(self.keys).items() if count > 1]
            raise SourceError(f"{root}: {self.source.name} lists {', '.join(twice[:3])} twice")
        self.split = split
        self.num_shards = num_shards or -(-len(self.keys) // IMAGES_PER_SHARD)
        self._shards = self._hashes % np.uint64(self.num_shards)

    def __reduce__(self) -> tuple[type[SourceReader], tuple[Any, ...]]:
        return SourceReader, self._way

    def target(self, out: Path) -> SplitFolder:
        """Where this goes under `out`."""
        name = dataset_name(self.source.name)
        return SplitFolder(out / name / VERSION, name, self.split, self.num_shards)

    def description(self) -> dict[str, Any]:
        """What is converted, for whoever wants to go on with it."""
        keys = hashlib.sha256(np.sort(self._hashes).tobytes()).hexdigest()
        sizes = {"num_keys": len(self.keys), "num_shards": self.num_shards}
        return {"source": self.source.name, "keys": keys, **sizes}

    def shard_keys(self, index: int) -> list[str]:
        """The keys of a shard, in the order of their hashes."""
        places = np.flatnonzero(self._shards == index)
        return [self.keys[i] for i in places[np.argsort(self._hashes[places])]]

    def records(
        self, index: int, tally: ShardStats, on_key: Callable[[], None] = _nothing
    ) -> Iterator[bytes]:
        """The records of a shard, checked and encoded. What is wrong is tallied, never raised."""
        for key in self.shard_keys(index):
            tally.num_keys += 1
            try:
                record, defects = self.source.read(key)
            except Exception as error:  # whatever a reader trips over costs one picture
                record, defects = None, (Defect(READER_FAILED, f"{quoted(key)}: {error!r}"),)
            tally.defects += defects
            data = None if record is None else _encoded(record, tally)
            if data is not None:
                yield data
            on_key()


def write_shard(
    reading: SourceReader, target: SplitFolder, index: int, on_key: Callable[[], None] = _nothing
) -> ShardReport:
    """Write a shard and read it back, unless it is finished.

    Raises: ConversionError when it cannot be written, or not be read as it was written.
    """
    with translate_write_errors(target.shard_path(index)):
        report = target.shard_report(index)
        if report is not None:
            return report
        tally = ShardStats()
        with temporary_name(target.shard_path(index)) as path:
            digests = _write(path, reading.records(index, tally, on_key))
            _verify(path, digests)
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            report = ShardReport(
                num_keys=tally.num_keys,
                num_records=len(digests),
                num_bytes=path.stat().st_size,
                sha256=sha256,
                counts=dict(sorted(tally.counts.items())),
                defects=tuple(tally.defects),
            )
            target.commit_shard(index, path, report)
        return report


def check_shard(
    reading: SourceReader, index: int, on_key: Callable[[], None] = _nothing
) -> ShardStats:
    """Read what a shard would hold, and write nothing."""
    tally = ShardStats()
    for _ in reading.records(index, tally, on_key):
        pass
    return tally


def _hash(key: str) -> int:
    raw = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _encoded(record: Record, tally: ShardStats) -> bytes | None:
    where = f"{record.source} {quoted(record.image_id)}"
    try:
        check_record(record)
        data = encode(record)
        height, width = open_image(record.image).shape[:2]
    except RecordError as error:
        tally.defects.append(Defect(INCONSISTENT, str(error)))
    except ImageError as error:
        tally.defects.append(Defect(UNREADABLE_IMAGE, f"{where}: {error}"))
    else:
        if (height, width) == (record.height, record.width):
            tally.counts.update(_counted(record))
            return data
        size = f"{record.height} x {record.width} in its record, is {height} x {width}"
        tally.defects.append(Defect(SIZE_MISMATCH, f"{where}: {size}"))
    return None


def _counted(record: Record) -> Iterator[str]:
    """A word for each thing in a record."""
    yield "records"
    for region in record.regions:
        yield "regions"
        if region.mask is not None:
            yield "masks"
        if region.box_xyxy_pixel is not None:
            yield "boxes"
    for annotation in record.annotations:
        yield annotation.task


def _write(path: Path, records: Iterator[bytes]) -> list[bytes]:
    """Write records; their digests."""
    digests = []
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for data in records:
            writer.write(data)
            digests.append(hashlib.sha256(data).digest())
    finally:
        writer.close()
    return digests


def _verify(path: Path, digests: list[bytes]) -> None:
    """Every record is there, is what was written, and can be decoded."""
    reader = ArrayRecordReader(str(path))
    try:
        num_records = reader.num_records()
        if num_records != len(digests):
            raise ConversionError(f"{path}: {num_records} records read, {len(digests)} written")
        for i, digest in enumerate(digests):
            data = reader.read([i])[0]
            if hashlib.sha256(data).digest() != digest:
                raise ConversionError(f"{path}: record {i} reads back as another; is the disk ok?")
            decode(data)
    except ShardError as error:
        raise ConversionError(f"{path}: {error}") from error
    finally:
        reader.close()
