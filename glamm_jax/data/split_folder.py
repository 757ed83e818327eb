"""Where the shards of a split lie, and what tells a finished one from anything else.

    OUT/glamm_NAME/1.0.0/
        dataset_info.json, features.json          what TFDS reads; written last
        glamm_NAME-train.array_record-00003-of-00010
        defects-train.json                        every defect of the source, by kind
        reports/train/job.json                    of what this is the conversion
        reports/train/00003-of-00010.json         what went into a shard: counts, sha256, defects
        reports/train.json                        their sum: with it the split is published

A shard is finished when its report is there and its own file, under its final name, is as long as
the report says. Everything is written under a temporary name, synchronised and renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format
from tensorflow_datasets.core.proto import dataset_info_pb2

from glamm_jax.data.record import Defect
from glamm_jax.data.record_shards import features
from glamm_jax.errors import GLaMMError

VERSION = "1.0.0"
FILE_FORMAT = "array_record"
TEMPORARY = ".tmp-"
# Classes that protobuf makes at run time: type checkers do not see them.
_PROTO: Any = dataset_info_pb2


class ConversionError(GLaMMError):
    """A conversion that cannot go on. Says what is in the way, and what to do."""


@dataclass(frozen=True)
class ShardReport:
    """What went into a shard: keys asked, records written, and what was wrong on the way."""

    num_keys: int
    num_records: int
    num_bytes: int
    sha256: str
    counts: dict[str, int]
    defects: tuple[Defect, ...]


@dataclass(frozen=True)
class SplitReport:
    """The sum of the shards' reports. defects: where, by kind, the most frequent first."""

    num_keys: int
    shard_lengths: tuple[int, ...]
    num_bytes: int
    counts: dict[str, int]
    defects: dict[str, list[str]]


@dataclass(frozen=True)
class SplitFolder:
    """One split of a dataset on disk. dataset: TFDS's name of it, `dataset_name`."""

    folder: Path
    dataset: str
    split: str
    num_shards: int

    def shard_path(self, index: int) -> Path:
        """The file of a shard."""
        names = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(self.folder),
            dataset_name=self.dataset,
            split=self.split,
            filetype_suffix=FILE_FORMAT,
        )
        return Path(names.sharded_filepath(shard_index=index, num_shards=self.num_shards))

    def report_path(self, index: int) -> Path:
        """The file that says what went into a shard."""
        return self._reports / f"{index:05d}-of-{self.num_shards:05d}.json"

    @property
    def defects_file(self) -> Path:
        """The file that names every defect."""
        return self.folder / f"defects-{self.split}.json"

    def begin(self, job: dict[str, Any], *, overwrite: bool = False) -> None:
        """Make the folder, or go on in it.

        job: what is converted, as JSON: a conversion goes on only where the same was begun.
        Raises: ConversionError when something else lies there, or nothing can be written.
        """
        if not re.fullmatch(r"[\w-]+", self.split):
            raise ConversionError(f"split {self.split!r}: TFDS takes letters, digits, - and _")
        manifest = self._reports / "job.json"
        with translate_write_errors(self.folder):
            if overwrite:
                self._clear()
            self._reports.mkdir(parents=True, exist_ok=True)
            for folder, name in ((self.folder, self._files), (self._reports, "*")):
                for path in folder.glob(name + TEMPORARY + "*"):
                    path.unlink(missing_ok=True)
            begun = _read_json(manifest)
            if begun is None:
                _write_json(manifest, job)
            elif begun != job:
                differing = sorted(key for key in begun | job if begun.get(key) != job.get(key))
                what = "; ".join(f"{k} {begun.get(k)!r}, now {job.get(k)!r}" for k in differing)
                raise ConversionError(
                    f"{self.folder}: holds another conversion of split {self.split!r} ({what}); "
                    "choose another --out, or give --overwrite"
                )

    def shard_report(self, index: int) -> ShardReport | None:
        """The report of a shard that is whole; None where it has to be written (anew)."""
        found = _read_json(self.report_path(index))
        path = self.shard_path(index)
        if found is None or not path.is_file() or path.stat().st_size != found["num_bytes"]:
            return None
        found["defects"] = tuple(Defect(*defect) for defect in found["defects"])
        return ShardReport(**found)

    def commit_shard(self, index: int, written: Path, report: ShardReport) -> None:
        """Give a shard its name. Killed between the two steps, it is simply not finished."""
        _write_json(self.report_path(index), asdict(report))
        os.replace(written, self.shard_path(index))

    def summarize(self, num_keys: int) -> SplitReport:
        """The sum of all shards; writes the file of defects.

        Raises: ConversionError when shards are missing or do not account for every key.
        """
        with translate_write_errors(self.folder):
            reports = [self.shard_report(index) for index in range(self.num_shards)]
        whole = [report for report in reports if report is not None]
        if len(whole) < len(reports) or sum(report.num_keys for report in whole) != num_keys:
            raise ConversionError(
                f"{self.folder}: {len(whole)} of {len(reports)} shards are finished, with "
                f"{sum(r.num_keys for r in whole)} of {num_keys} keys; run the same command again"
            )
        defects = [defect for report in whole for defect in report.defects]
        kinds = dict(Counter(defect.kind for defect in defects).most_common())
        named = {kind: [x.where for x in defects if x.kind == kind] for kind in kinds}
        with translate_write_errors(self.defects_file):
            _write_json(self.defects_file, {"counts": kinds, "defects": named})
        return SplitReport(
            num_keys=num_keys,
            shard_lengths=tuple(report.num_records for report in whole),
            num_bytes=sum(report.num_bytes for report in whole),
            counts=dict(sum((Counter(report.counts) for report in whole), Counter())),
            defects=named,
        )

    def publish(self, report: SplitReport) -> None:
        """Write what makes this a dataset of TFDS.

        Raises: ConversionError when that cannot be written.
        """
        lengths = {"shard_lengths": report.shard_lengths, "num_bytes": report.num_bytes}
        with translate_write_errors(self.folder):
            _write_json(self._summary, lengths | {"counts": report.counts})
            self._describe()

    @property
    def _reports(self) -> Path:
        return self.folder / "reports" / self.split

    @property
    def _summary(self) -> Path:
        return self.folder / "reports" / f"{self.split}.json"

    @property
    def _files(self) -> str:
        """A pattern for the files of all shards, however many there are."""
        return f"{self.dataset}-{self.split}.{FILE_FORMAT}-*"

    def _clear(self) -> None:
        """Remove this split: first what says that it is finished."""
        self._summary.unlink(missing_ok=True)
        self._describe()
        shutil.rmtree(self._reports, ignore_errors=True)
        for path in (self.defects_file, *self.folder.glob(self._files)):
            path.unlink(missing_ok=True)

    def _describe(self) -> None:
        """TFDS's two files, from all splits that are finished."""
        splits = []
        for path in sorted((self.folder / "reports").glob("*.json")):
            found = _read_json(path)
            if found is not None:
                lengths, size = found["shard_lengths"], found["num_bytes"]
                splits.append(
                    _PROTO.SplitInfo(name=path.stem, shard_lengths=lengths, num_bytes=size)
                )
        path = self.folder / "dataset_info.json"
        if not splits:
            path.unlink(missing_ok=True)
            return
        info = _PROTO.DatasetInfo(
            name=self.dataset, version=VERSION, file_format=FILE_FORMAT, splits=splits
        )
        write_text(self.folder / "features.json", _message(features().to_proto()))
        write_text(path, _message(info))


def dataset_name(source: str) -> str:
    """A source's name as TFDS takes it. The prefix keeps it apart from TFDS's own ref_coco etc."""
    plain = re.sub(r"[^a-z0-9]+", "_", source.lower().replace("+", " plus ")).strip("_")
    return f"glamm_{plain or 'data'}"


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """A name beside `path`, unique among processes and hosts; what is left there is removed."""
    name = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Say what a file system refuses, and what helps.

    Raises: ConversionError for OSError, and for the RuntimeError that ArrayRecord makes of it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConversionError(
            f"{path}: {error}; nothing unfinished bears a final name. Make room or give access, "
            "then run the same command again: finished shards are kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """A small file, all of it or nothing."""
    with temporary_name(path) as name:
        with open(name, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)


def _message(proto: Any) -> str:
    return json_format.MessageToJson(proto, sort_keys=True) + "\n"


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    """What one of our own files says; None where it is absent or damaged: it is written again."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
