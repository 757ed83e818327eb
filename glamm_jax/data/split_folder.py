"""The files of a split of a converted dataset, and the rule of which of them are finished.

    OUT/glamm_NAME/1.0.0/
        dataset_info.json, features.json          what TFDS reads; written last
        glamm_NAME-train.array_record-00003-of-00010
        defects-train.json                        every defect of the source, by kind
        reports/train/job.json                    what is being converted
        reports/train/00003-of-00010.json         content of a shard: counts, sha256, defects
        reports/train.json                        their sum; with it the split is published
        reports/train/.lock                       while a process converts the split
        reports/.lock                             while a process writes the two files of TFDS

A shard is finished when its report exists and its own file has its final name and the length that
the report says. Every file is written under a temporary name, synchronised and renamed.
"""

from __future__ import annotations

import json
import os
import re
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
from glamm_jax.data.record_shards import FILE_FORMAT, features
from glamm_jax.errors import GLaMMError
from glamm_jax.files import FileLock, sync
from glamm_jax.json_files import JSONError, JSONObject, read_object

VERSION = "1.0.0"
TEMPORARY = ".tmp-"
LOCK = ".lock"
# Type checkers do not see the classes that protobuf generates at run time.
_PROTO: Any = dataset_info_pb2


class ConversionError(GLaMMError):
    """A conversion cannot continue. Says why, and what to do."""


@dataclass(frozen=True)
class ShardReport:
    """The content of a shard.

    Attributes:
        num_keys: keys of the source that were read.
        num_records: records that were written.
        num_bytes: of the file.
        sha256: of the file.
        counts: records, regions, masks, boxes, and annotations by task.
        defects: of all keys.
    """

    num_keys: int
    num_records: int
    num_bytes: int
    sha256: str
    counts: dict[str, int]
    defects: tuple[Defect, ...]


@dataclass(frozen=True)
class SplitReport:
    """The sum of the reports of all shards.

    Attributes:
        num_keys: keys of the source.
        shard_lengths: records of each shard.
        num_bytes: of all shards.
        counts: as in `ShardReport`.
        defects: kind -> places, the most frequent kind first.
    """

    num_keys: int
    shard_lengths: tuple[int, ...]
    num_bytes: int
    counts: dict[str, int]
    defects: dict[str, list[str]]


@dataclass(frozen=True)
class SplitFolder:
    """One split of a converted dataset on disk.

    Attributes:
        folder: of the dataset and its version.
        dataset: its name for TFDS (`dataset_name`).
        split: its name.
        num_shards: of this split.
    """

    folder: Path
    dataset: str
    split: str
    num_shards: int

    def shard_path(self, index: int) -> Path:
        """Return the path of a shard."""
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(self.folder),
            dataset_name=self.dataset,
            split=self.split,
            filetype_suffix=FILE_FORMAT,
        )
        return Path(template.sharded_filepath(shard_index=index, num_shards=self.num_shards))

    def report_path(self, index: int) -> Path:
        """Return the path of the report of a shard."""
        return self._reports / f"{index:05d}-of-{self.num_shards:05d}.json"

    @property
    def defects_file(self) -> Path:
        """The path of the list of all defects."""
        return self.folder / f"defects-{self.split}.json"

    def lock(self) -> FileLock:
        """Return a lock on the conversion of this split, to be held until it is published.

        Raises:
            FolderError: another process converts this split into the same folder.
            ConversionError: the folder cannot be written.
        """
        with translate_write_errors(self.folder):
            self._reports.mkdir(parents=True, exist_ok=True)
            return FileLock(self._reports / LOCK, f"{self.folder}, split {self.split!r}")

    def begin(self, job: dict[str, Any], *, overwrite: bool = False) -> None:
        """Create the folder, or prepare it for resuming, and remove temporary files.

        Args:
            job: what is converted, as JSON. Only the same job can be resumed.
            overwrite: remove this split first.

        Raises:
            ConversionError: the folder contains another job, or cannot be written.
        """
        if not re.fullmatch(r"[\w-]+", self.split):
            raise ConversionError(f"split {self.split!r}: TFDS allows letters, digits, - and _")
        job_file = self._reports / "job.json"
        with translate_write_errors(self.folder):
            if overwrite:
                # First remove what makes the split finished.
                self._summary.unlink(missing_ok=True)
                self._write_dataset_info()
                for path in self._reports.glob("*.json*"):
                    path.unlink(missing_ok=True)
                for path in (self.defects_file, *self.folder.glob(self._shard_pattern)):
                    path.unlink(missing_ok=True)
            self._reports.mkdir(parents=True, exist_ok=True)
            for folder, name in ((self.folder, self._shard_pattern), (self._reports, "*")):
                for path in folder.glob(name + TEMPORARY + "*"):
                    path.unlink(missing_ok=True)
            existing = _read_json(job_file)
            if existing is None:
                _write_json(job_file, job)
            elif existing != job:
                names = sorted(
                    name for name in existing | job if existing.get(name) != job.get(name)
                )
                changes = "; ".join(
                    f"{name} {existing.get(name)!r}, now {job.get(name)!r}" for name in names
                )
                raise ConversionError(
                    f"{self.folder}: contains another conversion of split {self.split!r} "
                    f"({changes}); choose another --out, or give --overwrite"
                )

    def shard_report(self, index: int) -> ShardReport | None:
        """Return the report of a finished shard; None if the shard has to be written."""
        report = _read_json(self.report_path(index))
        path = self.shard_path(index)
        if report is None or not path.is_file():
            return None
        try:
            result = _parse_report(JSONObject(report, str(self.report_path(index))))
        except JSONError:
            return None
        return result if path.stat().st_size == result.num_bytes else None

    def commit_shard(self, index: int, written: Path, report: ShardReport) -> None:
        """Write the report of a shard and give the shard its final name.

        A shard is not finished if the process is killed between these steps.

        Args:
            index: of the shard.
            written: the shard under its temporary name.
            report: of the shard.
        """
        _write_json(self.report_path(index), asdict(report))
        os.replace(written, self.shard_path(index))
        sync(self.folder)

    def summarize(self, num_keys: int) -> SplitReport:
        """Add the reports of all shards, and write the file of defects.

        Raises:
            ConversionError: shards are missing, or do not account for every key.
        """
        with translate_write_errors(self.folder):
            reports = [self.shard_report(index) for index in range(self.num_shards)]
        finished = [report for report in reports if report is not None]
        num_finished_keys = sum(report.num_keys for report in finished)
        if len(finished) < len(reports) or num_finished_keys != num_keys:
            raise ConversionError(
                f"{self.folder}: {len(finished)} of {len(reports)} shards are finished, with "
                f"{num_finished_keys} of {num_keys} keys; run the same command again"
            )
        defects = [defect for report in finished for defect in report.defects]
        counts = dict(Counter(defect.kind for defect in defects).most_common())
        places = {kind: [x.where for x in defects if x.kind == kind] for kind in counts}
        with translate_write_errors(self.defects_file):
            _write_json(self.defects_file, {"counts": counts, "defects": places})
        return SplitReport(
            num_keys=num_keys,
            shard_lengths=tuple(report.num_records for report in finished),
            num_bytes=sum(report.num_bytes for report in finished),
            counts=dict(sum((Counter(report.counts) for report in finished), Counter())),
            defects=places,
        )

    def publish(self, report: SplitReport) -> None:
        """Write the files that make the split readable for TFDS.

        Raises:
            ConversionError: they cannot be written.
        """
        lengths = {"shard_lengths": report.shard_lengths, "num_bytes": report.num_bytes}
        with translate_write_errors(self.folder):
            _write_json(self._summary, lengths | {"counts": report.counts})
            self._write_dataset_info()

    @property
    def _reports(self) -> Path:
        return self.folder / "reports" / self.split

    @property
    def _summary(self) -> Path:
        return self.folder / "reports" / f"{self.split}.json"

    @property
    def _shard_pattern(self) -> str:
        """A pattern for the files of all shards, whatever their number."""
        return f"{self.dataset}-{self.split}.{FILE_FORMAT}-*"

    def _write_dataset_info(self) -> None:
        """Write the two files of TFDS, from all splits that are published.

        Processes that convert other splits into the same folder wait for each other: otherwise the
        last one could write a list that lacks the split of another.
        """
        reports = self.folder / "reports"
        reports.mkdir(parents=True, exist_ok=True)
        with FileLock(reports / LOCK, str(self.folder), wait=True):
            self._write_all_splits()

    def _write_all_splits(self) -> None:
        splits = []
        for path in sorted((self.folder / "reports").glob("*.json")):
            summary = _read_json(path)
            if summary is not None:
                try:
                    split = _PROTO.SplitInfo(
                        name=path.stem,
                        shard_lengths=summary["shard_lengths"],
                        num_bytes=summary["num_bytes"],
                    )
                except (KeyError, TypeError, ValueError) as error:
                    raise ConversionError(
                        f"{path}: damaged; convert the split again with --overwrite"
                    ) from error
                splits.append(split)
        info_file = self.folder / "dataset_info.json"
        if not splits:
            info_file.unlink(missing_ok=True)
            return
        info = _PROTO.DatasetInfo(
            name=self.dataset, version=VERSION, file_format=FILE_FORMAT, splits=splits
        )
        for path, proto in (
            (self.folder / "features.json", features().to_proto()),
            (info_file, info),
        ):
            write_text(path, json_format.MessageToJson(proto, sort_keys=True) + "\n")


def _parse_report(fields: JSONObject) -> ShardReport:
    """Read the report of a shard.

    Raises:
        JSONError: it is not one.
    """
    counts = fields.object("counts")
    defects = []
    for defect in fields.array("defects"):
        if not (isinstance(defect, list) and len(defect) == 2 and set(map(type, defect)) == {str}):
            raise JSONError(f"{fields.place('defects')}: {defect!r} is not a kind and a place")
        defects.append(Defect(*defect))
    return ShardReport(
        num_keys=fields.integer("num_keys", minimum=0),
        num_records=fields.integer("num_records", minimum=0),
        num_bytes=fields.integer("num_bytes", minimum=0),
        sha256=fields.text("sha256"),
        counts={name: counts.integer(name) for name in counts},
        defects=tuple(defects),
    )


def dataset_name(source: str) -> str:
    """Return the name of a source as TFDS allows it.

    The prefix avoids the names of TFDS's own datasets, such as ref_coco.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", source.lower().replace("+", " plus ")).strip("_")
    return f"glamm_{plain or 'data'}"


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """Give a name beside `path` that is unique among processes and hosts.

    A file that still has this name at the end is removed.
    """
    name = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into an error that says what to do.

    Raises:
        ConversionError: for an OSError, or the RuntimeError that ArrayRecord raises instead.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConversionError(
            f"{path}: {error}; no unfinished file has a final name. Free disk space or change the "
            "permissions, then run the same command again: finished shards are kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    with temporary_name(path) as name:
        with open(name, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
        sync(path.parent)


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a file of this module; None if it is missing or damaged, so that it is written again."""
    try:
        return read_object(path).fields
    except JSONError:
        return None
