"""Conversion of a dataset into record shards, each independently of the others.

The shard of an image and its position in the shard follow from the hash of its key, not from the
order in which a source lists its images or from other processes. So the bytes of the shards depend
only on the source and the number of shards, and any number of processes can share the work.

    reader = SourceReader(make_source, root, "train")       # opened anew in every process
    target = reader.target(out)
    with target.lock():                                     # one conversion at a time
        target.begin(reader.description())
        for index in range(target.num_shards):              # in any order, on any machine
            write_shard(reader, target, index)              # skips finished shards
        target.publish(target.summarize(len(reader.keys)))
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
from glamm_jax.data.sources.defects import SIZE_MISMATCH, UNREADABLE_IMAGE, SourceError, quoted
from glamm_jax.data.sources.registry import MakeSource
from glamm_jax.data.split_folder import (
    VERSION,
    ConversionError,
    ShardReport,
    SplitFolder,
    dataset_name,
    temporary_name,
    translate_write_errors,
)

IMAGES_PER_SHARD = 1000  # about 0.2 GB, and what a process loses when it is killed
INCONSISTENT = "inconsistent record"
READER_FAILED = "reader failed"


def _ignore_key() -> None:
    pass


@dataclass
class ShardStats:
    """Statistics of reading a shard.

    Attributes:
        num_keys: keys that were read.
        counts: records, regions, masks, boxes, and annotations by task.
        defects: of all keys.
    """

    num_keys: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)


class SourceReader:
    """An open source, and its records by shard. It is pickled as its arguments and opened again.

    Attributes:
        source: the dataset.
        keys: all keys of the source.
        split: its name.
        num_shards: of this split.
    """

    def __init__(
        self, make_source: MakeSource, root: Path, split: str, num_shards: int | None = None
    ):
        """Open a source.

        Args:
            make_source: opens the dataset, given root and split.
            root: the data folder.
            split: of the dataset.
            num_shards: None: one for every `IMAGES_PER_SHARD` keys.

        Raises:
            SourceError: the source cannot be opened, is empty, or lists a key twice.
        """
        self._arguments = (make_source, root, split, num_shards)
        self.source = make_source(root, split)
        self.keys: list[str] = list(self.source.keys)
        self._hashes = np.array([_hash(key) for key in self.keys], np.uint64)
        if not len(self.keys):
            raise SourceError(f"{root}: {self.source.name} has no images in split {split!r}")
        if len(np.unique(self._hashes)) < len(self.keys):
            duplicates = [quoted(key) for key, count in Counter(self.keys).items() if count > 1]
            names = ", ".join(duplicates[:3])
            raise SourceError(f"{root}: {self.source.name} lists {names} twice")
        self.split = split
        self.num_shards = num_shards or -(-len(self.keys) // IMAGES_PER_SHARD)
        self._shards = self._hashes % np.uint64(self.num_shards)

    def __reduce__(self) -> tuple[type[SourceReader], tuple[Any, ...]]:
        return SourceReader, self._arguments

    def target(self, out: Path) -> SplitFolder:
        """Return the folder of this split below `out`."""
        name = dataset_name(self.source.name)
        return SplitFolder(out / name / VERSION, name, self.split, self.num_shards)

    def description(self) -> dict[str, Any]:
        """Return what is converted, as JSON; a conversion is resumed only if it is the same."""
        keys = hashlib.sha256(np.sort(self._hashes).tobytes()).hexdigest()
        sizes = {"num_keys": len(self.keys), "num_shards": self.num_shards}
        return {"source": self.source.name, "keys": keys, **sizes}

    def shard_keys(self, index: int) -> list[str]:
        """Return the keys of a shard, in the order of their hashes."""
        positions = np.flatnonzero(self._shards == index)
        return [self.keys[i] for i in positions[np.argsort(self._hashes[positions])]]

    def records(
        self, index: int, stats: ShardStats, on_key: Callable[[], None] = _ignore_key
    ) -> Iterator[bytes]:
        """Read, check and encode the records of a shard.

        Errors are added to the statistics and never raised.

        Args:
            index: of the shard.
            stats: to add to.
            on_key: called after every key.

        Yields:
            Encoded records.
        """
        for key in self.shard_keys(index):
            stats.num_keys += 1
            try:
                record, defects = self.source.read(key)
            except Exception as error:  # a failure of a reader loses one image only
                record, defects = None, (Defect(READER_FAILED, f"{quoted(key)}: {error!r}"),)
            stats.defects += defects
            data = None if record is None else _encode_checked(record, stats)
            if data is not None:
                yield data
            on_key()


def write_shard(
    reader: SourceReader,
    target: SplitFolder,
    index: int,
    on_key: Callable[[], None] = _ignore_key,
) -> ShardReport:
    """Write a shard and verify it by reading it back, unless it is finished.

    Args:
        reader: of the source.
        target: where to write.
        index: of the shard.
        on_key: called after every key.

    Raises:
        ConversionError: the shard cannot be written, or differs when it is read back.
    """
    with translate_write_errors(target.shard_path(index)):
        report = target.shard_report(index)
        if report is not None:
            return report
        stats = ShardStats()
        with temporary_name(target.shard_path(index)) as path:
            digests = _write_records(path, reader.records(index, stats, on_key))
            _verify_records(path, digests)
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            report = ShardReport(
                num_keys=stats.num_keys,
                num_records=len(digests),
                num_bytes=path.stat().st_size,
                sha256=sha256,
                counts=dict(sorted(stats.counts.items())),
                defects=tuple(stats.defects),
            )
            target.commit_shard(index, path, report)
        return report


def check_shard(
    reader: SourceReader, index: int, on_key: Callable[[], None] = _ignore_key
) -> ShardStats:
    """Read the content of a shard without writing anything.

    Args:
        reader: of the source.
        index: of the shard.
        on_key: called after every key.
    """
    stats = ShardStats()
    for _ in reader.records(index, stats, on_key):
        pass
    return stats


def _hash(key: str) -> int:
    raw = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _encode_checked(record: Record, stats: ShardStats) -> bytes | None:
    """The encoded record; None and a defect if it is inconsistent or its image is unreadable."""
    where = f"{record.source} {quoted(record.image_id)}"
    try:
        check_record(record)
        data = encode(record)
        height, width = open_image(record.image).shape[:2]
    except RecordError as error:
        stats.defects.append(Defect(INCONSISTENT, str(error)))
    except ImageError as error:
        stats.defects.append(Defect(UNREADABLE_IMAGE, f"{where}: {error}"))
    else:
        if (height, width) == (record.height, record.width):
            num_masks = sum(region.mask is not None for region in record.regions)
            num_boxes = sum(region.box_xyxy_pixel is not None for region in record.regions)
            stats.counts.update(["records"])  # a count of 0 has no entry
            stats.counts.update(["regions"] * len(record.regions))
            stats.counts.update(["masks"] * num_masks + ["boxes"] * num_boxes)
            stats.counts.update(annotation.task for annotation in record.annotations)
            return data
        size = f"{record.height} x {record.width} in its record, is {height} x {width}"
        stats.defects.append(Defect(SIZE_MISMATCH, f"{where}: {size}"))
    return None


def _write_records(path: Path, records: Iterator[bytes]) -> list[bytes]:
    """Write records; returns their digests."""
    digests = []
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for data in records:
            writer.write(data)
            digests.append(hashlib.sha256(data).digest())
    finally:
        writer.close()
    return digests


def _verify_records(path: Path, digests: list[bytes]) -> None:
    """Check that every record is there, unchanged, and can be decoded."""
    reader = ArrayRecordReader(str(path))
    try:
        num_records = reader.num_records()
        if num_records != len(digests):
            raise ConversionError(f"{path}: {num_records} records read, {len(digests)} written")
        for i, digest in enumerate(digests):
            data = reader.read([i])[0]
            if hashlib.sha256(data).digest() != digest:
                raise ConversionError(f"{path}: record {i} differs when read back; check the disk")
            decode(data)
    except ShardError as error:
        raise ConversionError(f"{path}: {error}") from error
    finally:
        reader.close()
