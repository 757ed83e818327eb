"""Where a benchmark's items come from, whatever the data looks like on disk.

  asked = open_questions(BENCHMARKS["gcg"], Data("data", "val"), wording)
  asked.items, asked.records[asked.items[0].record].image

SCHEME/NAME             records of a registered scheme (`glamm_jax.data.record_sources`)
FOLDER                  record shards, where it holds dataset_info.json (`convert dataset`)
FOLDER, dataset=NAME    a dataset in its original layout, read as `convert dataset` reads it
FOLDER or FILE          the original's evaluation files (`glamm_jax.evaluation.original_files`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from glamm_jax.data.record import DatasetSource, Record, RecordError
from glamm_jax.data.record_sources import RecordSource, find_scheme, open_records
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.registry import find_dataset
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.evaluation.benchmarks import Benchmark
from glamm_jax.evaluation.item import Item
from glamm_jax.evaluation.original_files import ImageFiles, ReadFiles
from glamm_jax.evaluation.record_items import PromptTemplate, PromptTemplateError

SHARDS = "dataset_info.json"
TRUTH_NAMES = {"grandf_ha": ""}


class ItemsError(GLaMMError):
    """Data that a benchmark cannot be asked on. Says what is missing, and what would do."""


@dataclass(frozen=True)
class EvaluationData:
    """What is asked about.

    path: `miniworld/NAME`, a folder or a file. dataset: the name of a dataset in its original
    layout. images: where the pictures of the original's files are, if not where they usually lie.
    limit: images, at most. seed: of records that are drawn.
    """

    path: str
    split: str
    dataset: str = ""
    images: Path | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ItemSet:
    """Items, the pictures that they are about, and what was left out: kind -> places.

    hash: of everything that is asked and true, and of the pictures where they were read.
    name: of the data, as the paper's tables call it; "" for GranD_f's own splits.
    """

    records: RecordSource
    items: tuple[Item, ...]
    hash: str
    name: str = ""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_items(benchmark: Benchmark, data: EvaluationData, wording: PromptTemplate) -> ItemSet:
    """All items of a split.

    Raises: QuestionsError saying what is missing; also for a split without items.
    """
    if data.limit is not None and data.limit < 1:
        raise ItemsError(f"a limit of {data.limit} pictures; at least one")
    try:
        found = _open(benchmark, data, wording)
    except (ConfigError, SourceError, RecordError, PromptTemplateError) as error:
        raise ItemsError(str(error)) from error
    if not found.items:
        kinds = ", ".join(f"{len(where)} {kind}" for kind, where in found.notes.items())
        raise ItemsError(
            f"{data.path}: nothing in split {data.split!r} for {benchmark.name}"
            + (f" (left out: {kinds})" if kinds else "")
        )
    ids = [item.id for item in found.items]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ItemsError(f"{data.path}: the id {twice!r} occurs more than once")
    return found


def _open(benchmark: Benchmark, data: EvaluationData, wording: PromptTemplate) -> ItemSet:
    path = Path(data.path)
    scheme = find_scheme(data.path)
    if scheme is not None:
        records = open_records(data.path, data.split, data.seed)
        return _of_records(benchmark, records, data.limit or scheme.eval_limit, wording)
    if not path.exists():
        raise ItemsError(f"{path}: no such file or folder")
    if data.dataset:
        source = DatasetRecords(find_dataset(data.dataset)(path, data.split))
        return _of_records(benchmark, source, data.limit, wording)
    if (path / SHARDS).is_file():
        return _of_records(benchmark, _shards(path, data.split), data.limit, wording)
    if benchmark.from_files is None:
        raise ItemsError(
            f"{path}: no {SHARDS}, so no record shards. {benchmark.name} takes shards (`python -m "
            "convert dataset`) or a dataset in its original layout (--dataset NAME)"
        )
    return _of_files(benchmark.from_files, data, wording)


def _shards(path: Path, split: str) -> RecordSource:
    from glamm_jax.data.record_shards import (
        RecordShards,  # TensorFlow Datasets takes seconds to import
    )

    return RecordShards(path, split)


class DatasetRecords:
    """The records of a dataset in its original layout, by number."""

    def __init__(self, source: DatasetSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source.keys)

    def __getitem__(self, index: int) -> Record:
        """Raises: RecordError when there is none, with its defects."""
        key = self.source.keys[index]
        found = self.source.read(key)
        if found.record is None:
            defects = "; ".join(f"{kind}: {where}" for kind, where in found.defects)
            raise RecordError(defects or f"{key}: no record")
        return found.record


def _of_records(
    benchmark: Benchmark, records: RecordSource, limit: int | None, wording: PromptTemplate
) -> ItemSet:
    items: list[Item] = []
    notes: dict[str, list[str]] = {}
    told, name = hashlib.sha256(), ""
    for record, made in islice(_asked(benchmark, records, wording, notes), limit):
        items += made
        told.update(hashlib.sha256(record.image).digest())
        name = record.source
    _tell(told, items)
    name = TRUTH_NAMES.get(name, name.removesuffix("_regions"))
    return ItemSet(records, tuple(items), told.hexdigest(), name, _frozen(notes))


def _asked(
    benchmark: Benchmark,
    records: RecordSource,
    wording: PromptTemplate,
    notes: dict[str, list[str]],
) -> Iterator[tuple[Record, list[Item]]]:
    """Records with their items, where there are some."""
    for number in range(len(records)):
        try:
            record = records[number]
        except RecordError as error:
            notes.setdefault("no record", []).append(f"record {number}: {error}")
            continue
        made = [*benchmark.from_record(record, number, wording)]
        if made:
            yield record, made
        else:
            notes.setdefault("nothing to ask", []).append(record.image_id)


def _of_files(read: ReadFiles, data: EvaluationData, wording: PromptTemplate) -> ItemSet:
    found = read(Path(data.path), data.split, data.images, wording)
    pictures = [*dict.fromkeys(item.record for item in found.items)][: data.limit]
    kept = set(pictures)
    items = [item for item in found.items if item.record in kept]
    told = hashlib.sha256()
    told.update(repr(_sizes(found.records, pictures)).encode())
    _tell(told, items)
    notes = _frozen(found.notes)
    return ItemSet(found.records, tuple(items), told.hexdigest(), found.name, notes)


def _sizes(records: ImageFiles, pictures: Iterable[int]) -> list[int]:
    return [records.size(number) for number in pictures]


def _tell(told: "hashlib._Hash", items: Iterable[Item]) -> None:
    for item in items:
        told.update(repr(sorted(asdict(item).items())).encode())


def _frozen(notes: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(where) for kind, where in notes.items()}
