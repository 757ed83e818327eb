"""Where a benchmark's items come from.

    benchmark = BENCHMARKS["gcg"]
    data = EvaluationData("path/to/data", "val", limit=2)
    item_set = open_items(benchmark, data, benchmark.prompt_template())
    image = item_set.records[item_set.items[0].record].image

The path of the data may be:

    SCHEME/NAME            records of a registered scheme (`glamm_jax.data.record_sources`)
    FOLDER                 record shards: it has dataset_info.json (`glamm-jax convert dataset`)
    FOLDER, dataset=NAME   a dataset in its original layout, read as `convert dataset` reads it
    FOLDER or FILE         annotation files of the original's evaluation
                           (`Benchmark.items_from_annotations`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from glamm_jax.data.record import DatasetSource, Record, RecordError
from glamm_jax.data.record_sources import RecordSource, find_scheme, open_records
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.registry import find_dataset
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    ItemsFromAnnotations,
    PromptTemplate,
    PromptTemplateError,
)
from glamm_jax.storage import local_path, to_path

SHARDS = "dataset_info.json"
# `Record.source` -> the dataset's name in the paper's tables, where they differ by more than the
# suffix "_regions".
PAPER_NAMES = {"grandf_ha": ""}


class ItemsError(GLaMMError):
    """Data that a benchmark cannot be evaluated on."""


@dataclass(frozen=True)
class EvaluationData:
    """The data of an evaluation.

    Attributes:
        path: as in the module's docstring.
        split: of the data.
        dataset: name of the dataset whose original layout `path` has; "": not such a folder.
        images: folder of the images of annotation files; None: searched for.
        limit: largest number of images; None: all, or the scheme's own limit.
        seed: of records that are sampled.
    """

    path: str
    split: str
    dataset: str = ""
    images: Path | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ItemSet:
    """The items of a split.

    Attributes:
        records: the images; `Item.record` is an index into them.
        items: in the order of the images.
        hash: of all items, and of the images where they were read (else of their sizes in bytes).
        name: of the data in the paper's tables; "" for GranD_f's own splits.
        notes: kind of what was left out -> where.
    """

    records: RecordSource
    items: tuple[Item, ...]
    hash: str
    name: str = ""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class DatasetRecords:
    """The records of a dataset in its original layout, by index."""

    def __init__(self, source: DatasetSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source.keys)

    def __getitem__(self, index: int) -> Record:
        """Read a record.

        Raises:
            RecordError: there is none under this index; the message has the defects.
        """
        key = self.source.keys[index]
        result = self.source.read(key)
        if result.record is None:
            defects = "; ".join(f"{kind}: {where}" for kind, where in result.defects)
            raise RecordError(defects or f"{key}: no record")
        return result.record


def open_items(benchmark: Benchmark, data: EvaluationData, prompt: PromptTemplate) -> ItemSet:
    """Open all items of a split.

    Args:
        benchmark: to be evaluated.
        data: to evaluate on.
        prompt: of the questions.

    Raises:
        ItemsError: the data cannot be read, has no items for the benchmark, or has two items with
            one id.
    """
    if data.limit is not None and data.limit < 1:
        raise ItemsError(f"a limit of {data.limit} images; it must be at least one")
    try:
        item_set = _open(benchmark, data, prompt)
    except (ConfigError, SourceError, RecordError, PromptTemplateError) as error:
        raise ItemsError(str(error)) from error
    if not item_set.items:
        kinds = ", ".join(f"{len(where)} {kind}" for kind, where in item_set.notes.items())
        raise ItemsError(
            f"{data.path}: no items in split {data.split!r} for {benchmark.name}"
            + (f" (left out: {kinds})" if kinds else "")
        )
    ids = [item.id for item in item_set.items]
    if len(set(ids)) < len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise ItemsError(f"{data.path}: the id {repeated!r} occurs more than once")
    return item_set


def _open(benchmark: Benchmark, data: EvaluationData, prompt: PromptTemplate) -> ItemSet:
    scheme = find_scheme(data.path)
    if scheme is not None:
        records = open_records(data.path, data.split, data.seed)
        return _items_of_records(benchmark, records, data.limit or scheme.eval_limit, prompt)
    location = to_path(data.path)
    if not location.exists():
        raise ItemsError(f"{location}: no such file or folder")
    if (location / SHARDS).is_file() and not data.dataset:
        from glamm_jax.data.record_shards import (
            RecordShards,  # TensorFlow Datasets takes seconds to import
        )

        shards = RecordShards(data.path, data.split)
        return _items_of_records(benchmark, shards, data.limit, prompt)
    path = local_path(data.path)
    if data.dataset:
        records = DatasetRecords(find_dataset(data.dataset)(path, data.split))
        return _items_of_records(benchmark, records, data.limit, prompt)
    if benchmark.items_from_annotations is None:
        raise ItemsError(
            f"{path}: no {SHARDS}, so no record shards. {benchmark.name} takes record shards "
            "(`glamm-jax convert dataset`) or a dataset in its original layout (--dataset NAME)"
        )
    return _items_of_annotations(benchmark.items_from_annotations, data, prompt)


def _items_of_records(
    benchmark: Benchmark, records: RecordSource, limit: int | None, prompt: PromptTemplate
) -> ItemSet:
    """Make items until `limit` records have some."""
    items: list[Item] = []
    notes: dict[str, list[str]] = {}
    digest, source, num_images = hashlib.sha256(), "", 0
    for index in range(len(records)):
        if num_images == limit:
            break
        try:
            record = records[index]
        except RecordError as error:
            notes.setdefault("no record", []).append(f"record {index}: {error}")
            continue
        record_items = [*benchmark.items_from_record(record, index, prompt)]
        if not record_items:
            notes.setdefault("no item", []).append(record.image_id)
            continue
        items += record_items
        digest.update(hashlib.sha256(record.image).digest())
        source = record.source
        num_images += 1
    _update_with_items(digest, items)
    name = PAPER_NAMES.get(source, source.removesuffix("_regions"))
    return ItemSet(records, tuple(items), digest.hexdigest(), name, _frozen(notes))


def _items_of_annotations(
    read: ItemsFromAnnotations, data: EvaluationData, prompt: PromptTemplate
) -> ItemSet:
    annotated = read(Path(data.path), data.split, data.images, prompt)
    records = annotated.records
    indices = [*dict.fromkeys(item.record for item in annotated.items)][: data.limit]
    selected = set(indices)
    items = tuple(item for item in annotated.items if item.record in selected)
    digest = hashlib.sha256()
    digest.update(repr([records.num_bytes(index) for index in indices]).encode())
    _update_with_items(digest, items)
    return ItemSet(records, items, digest.hexdigest(), annotated.name, _frozen(annotated.notes))


def _update_with_items(digest: "hashlib._Hash", items: Iterable[Item]) -> None:
    for item in items:
        fields = asdict(item)
        if not item.ignored_masks:  # of an earlier version's items, whose hash must not change
            del fields["ignored_masks"]
        digest.update(repr(sorted(fields.items())).encode())


def _frozen(notes: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(where) for kind, where in notes.items()}
