"""Record shards: ArrayRecord files that TFDS and grain read, without TensorFlow.

A record becomes a `tf.train.Example` of flat tables, with one row for each region, annotation, link
or turn. Links and turns have the index of their annotation in a column, because TFDS cannot nest
sequences without TensorFlow.

    data = encode(record)                                       # bytes; decode(data) == record
    records = RecordShards("out/glamm_grandf_ha/1.0.0", "train")        # records[7] is a Record
    records = RecordShards("out/glamm_grandf_ha/1.0.0", "train[:10%]")
    tfds.data_source("glamm_grandf_ha", split="train", data_dir="out")  # the tables as arrays
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from glamm_jax.config.experiment import DataConfig
from glamm_jax.data.block_cache import BlockCache, default_cache
from glamm_jax.data.bucket_shards import BucketShard, DamagedShardError
from glamm_jax.data.record import Annotation, Link, Record, RecordError, Region
from glamm_jax.files import FileNameError, safe_name
from glamm_jax.json_files import MAX_WALKED, JSONError, read_object, show
from glamm_jax.storage import AnyPath, objects_below, to_path

FILE_FORMAT = "array_record"
# As TFDS writes it into dataset_info.json.
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FEATURE_MODULES = "tensorflow_datasets.core.features."
BOX_DTYPE = np.dtype("<f8")  # tf.train.Example has no float64, so a box is stored as bytes
# Type checkers do not see the classes that protobuf generates at run time.
_EXAMPLE: Any = tf_example_pb2
_FEATURE: Any = tf_feature_pb2
# Columns that have the names, and the order, of the fields of the record's classes.
_NAMES, _SIZE = ("image_id", "source", "split"), ("height", "width")
_ANNOTATION, _LINK = ("task", "text"), ("region", "start", "end")


class ShardError(RecordError):
    """Record shards cannot be read. Names the file and says what to do."""


def features() -> tfds.features.FeaturesDict:
    """Return the description of a record that TFDS needs to read it."""
    make = tfds.features
    link = dict.fromkeys(("annotation", *_LINK), np.int64)
    region = {
        "box": make.Tensor(shape=(4,), dtype=BOX_DTYPE.type, encoding="bytes"),
        "has_box": np.bool_,
        "mask": make.Text(),
        "overlap": make.Text(),
    }
    return make.FeaturesDict(
        {
            "image": make.Image(shape=(None, None, 3)),
            **{name: make.Text() for name in _NAMES},
            **dict.fromkeys(_SIZE, np.int64),
            "regions": make.Sequence(region),
            "annotations": make.Sequence({name: make.Text() for name in _ANNOTATION}),
            "links": make.Sequence(link),
            "turns": make.Sequence({"annotation": np.int64, "text": make.Text()}),
        }
    )


def encode(record: Record) -> bytes:
    """Encode a record without loss; equal records give equal bytes.

    Raises:
        RecordError: a text is not valid Unicode, a mask is an empty string, or a number does not
            fit into 64 bits.
    """
    regions, annotations = record.regions, record.annotations
    links = [(i, link) for i, item in enumerate(annotations) for link in item.links]
    turns = [(i, turn) for i, item in enumerate(annotations) for turn in item.turns]
    boxes = [region.box_xyxy_pixel for region in regions]
    try:
        # TFDS expects these names of the columns.
        columns = {
            "image": _bytes([record.image]),
            **{name: _texts([getattr(record, name)]) for name in _NAMES},
            **{name: _numbers([getattr(record, name)]) for name in _SIZE},
            "regions/box": _bytes(np.array(box or (0,) * 4, BOX_DTYPE).tobytes() for box in boxes),
            "regions/has_box": _numbers(int(box is not None) for box in boxes),
            "regions/mask": _bytes(_mask_column(region.mask) for region in regions),
            "regions/overlap": _bytes(_mask_column(region.overlap) for region in regions),
            **{
                f"annotations/{name}": _texts(getattr(item, name) for item in annotations)
                for name in _ANNOTATION
            },
            "links/annotation": _numbers(i for i, _ in links),
            **{
                f"links/{name}": _numbers(getattr(link, name) for _, link in links)
                for name in _LINK
            },
            "turns/annotation": _numbers(i for i, _ in turns),
            "turns/text": _texts(turn for _, turn in turns),
        }
    except ValueError as error:  # UnicodeEncodeError is one
        raise RecordError(f"{record.source} {record.image_id!r}: {error}") from error
    example = _EXAMPLE.Example(features=_FEATURE.Features(feature=columns))
    return example.SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    """Return the record that `encode` was given.

    Raises:
        ShardError: the bytes are not a record.
    """
    try:
        columns = _EXAMPLE.Example.FromString(data).features.feature
        return _record({name: _values(feature) for name, feature in columns.items()})
    except Exception as error:  # protobuf raises some kinds, incomplete tables others
        raise ShardError(f"{len(data)} bytes are not a record") from error


class RecordShards(Sequence[Record]):
    """The records of a split, in the order of its shards; a grain data source.

    It is pickled as the names of its files.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str, cache: BlockCache | None = None):
        """Open what `glamm-jax convert dataset` wrote.

        Args:
            folder: of the dataset, with dataset_info.json; it may be in a bucket.
            split: its name, or a slice of it, such as "train[10%:20%]".
            cache: of blocks of files in a bucket; None: that of the default configuration.

        Raises:
            ShardError: the folder contains no finished dataset, or not this split.
            ConfigError: the cache does not fit on the disk.
        """
        self.folder, self.split = to_path(os.fspath(folder)), split
        if not (self.folder / "dataset_info.json").is_file():
            raise ShardError(
                f"{self.folder}: no dataset_info.json; `glamm-jax convert dataset` writes it last, "
                "so if the conversion was stopped, run the same command again"
            )
        _check_description(self.folder)
        try:
            info = tfds.builder_from_directory(self.folder).info
        except Exception as error:  # TFDS and protobuf raise many kinds
            raise ShardError(
                f"{self.folder}: its dataset_info.json or features.json cannot be read: {error}; "
                "convert the dataset again with --overwrite"
            ) from error
        instructions: Any
        try:
            instructions = info.splits[split].file_instructions
        except (KeyError, ValueError) as error:
            names = ", ".join(sorted(info.splits))
            raise ShardError(f"{self.folder}: no split {split!r}; available: {names}") from error
        except Exception as error:  # of a damaged description
            raise ShardError(f"{self.folder}: split {split!r} cannot be read: {error}") from error
        self._files = [str(instruction.filename) for instruction in instructions]
        self._ends = np.cumsum([instruction.take for instruction in instructions], dtype=np.int64)
        self._data: Any = ()
        if instructions:
            self._data = _open_files(self.folder, instructions, cache)

    @property
    def is_remote(self) -> bool:
        """Whether the records are in a bucket."""
        return not isinstance(self.folder, Path)

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Read one record, or a slice of them.

        Raises:
            ShardError: a file is missing, truncated or damaged; names it.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            return decode(self._data[position])
        except (RuntimeError, ShardError, DamagedShardError) as error:
            file = self._files[int(np.searchsorted(self._ends, position, side="right"))]
            raise ShardError(
                f"{file}: record {position} of {self.split}: {error}; delete the file and run the "
                "conversion again with the same --out: it writes only missing files"
            ) from error

    def __repr__(self) -> str:
        return f"RecordShards({str(self.folder)!r}, {self.split!r}): {len(self)} records"


@dataclass(frozen=True)
class _BucketRecords(Sequence[bytes]):
    """Records of several files in a bucket.

    Attributes:
        shards: the files.
        first: the first record of each that belongs to the split.
        ends: number of records of the split up to and including each file.
    """

    shards: tuple[BucketShard, ...]
    first: tuple[int, ...]
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Any) -> Any:
        file = int(np.searchsorted(self.ends, index, side="right"))
        position = index - (int(self.ends[file - 1]) if file else 0)
        return self.shards[file].read(self.first[file] + position)


def _open_files(folder: AnyPath, files: Sequence[Any], cache: BlockCache | None) -> Any:
    """Open the files of a split: the bytes of its records by index.

    Args:
        folder: of the dataset.
        files: TFDS's instructions: filename, and which records of it.
        cache: of blocks of files in a bucket.

    Raises:
        ShardError: a file of a bucket is missing.
    """
    if isinstance(folder, Path):
        return ArrayRecordDataSource(files)
    cache = cache or default_cache(DataConfig.cache_dir, DataConfig.cache_bytes)
    cache.check_space()
    objects = objects_below(folder)
    paths = [folder / os.path.basename(file.filename) for file in files]
    if missing := [str(path) for path in paths if path.name not in objects]:
        raise ShardError(
            f"{folder}: lacks {len(missing)} files, for example {missing[0]}; copy the complete "
            "dataset there"
        )
    return _BucketRecords(
        tuple(BucketShard(path, objects[path.name], cache) for path in paths),
        tuple(file.skip for file in files),
        np.cumsum([file.take for file in files], dtype=np.int64),
    )


def _check_description(folder: AnyPath) -> None:
    """Check the two files of TFDS that `glamm-jax convert dataset` writes.

    TFDS imports the Python modules that features.json names, and opens the files that a template in
    dataset_info.json names.

    Raises:
        ShardError: they are damaged, or were not written by this library.
    """
    advice = "convert the dataset again with --overwrite"
    try:
        info = read_object(folder / "dataset_info.json")
        safe_name(info.text("name"))
        if info.text("fileFormat", "") != FILE_FORMAT:
            raise ShardError(f"{info.place('fileFormat')}: must be {FILE_FORMAT}; {advice}")
        for item in info.objects("splits"):
            safe_name(item.text("name"))
            for length in item.array("shardLengths", []):
                if not (isinstance(length, str) and length.isascii() and length.isdecimal()):
                    raise ShardError(f"{item.place('shardLengths')}: {show(length)}; {advice}")
            template = item.text("filepathTemplate", DEFAULT_TEMPLATE)
            if template != DEFAULT_TEMPLATE:
                raise ShardError(f"{item.place('filepathTemplate')}: {show(template)}; {advice}")
        names = [*_class_names(read_object(folder / "features.json", MAX_WALKED).fields)]
    except (JSONError, FileNameError) as error:
        raise ShardError(f"{folder}: {error}; {advice}") from error
    for name in names:
        if not (isinstance(name, str) and name.startswith(FEATURE_MODULES)):
            raise ShardError(f"{folder / 'features.json'}: class {show(name)}; {advice}")


def _class_names(value: Any) -> Iterator[Any]:
    """The Python classes that features.json names, at any depth; `read_object` bounds the depth."""
    for name, item in value.items() if isinstance(value, dict) else ():
        if name == "pythonClassName":
            yield item
        yield from _class_names(item)


def _record(columns: Mapping[str, Sequence[Any]]) -> Record:
    """A record from its columns."""
    links: list[list[Link]] = [[] for _ in columns["annotations/task"]]
    turns: list[list[str]] = [[] for _ in columns["annotations/task"]]
    for i, *link in zip(*(columns[f"links/{n}"] for n in ("annotation", *_LINK)), strict=True):
        links[i].append(Link(*link))
    for i, turn in zip(columns["turns/annotation"], columns["turns/text"], strict=True):
        turns[i].append(turn.decode())
    texts = zip(*(columns[f"annotations/{name}"] for name in _ANNOTATION), strict=True)
    annotations: list[Any] = [
        Annotation(task.decode(), text.decode(), tuple(links[i]), tuple(turns[i]))
        for i, (task, text) in enumerate(texts)
    ]
    regions = []
    region_names = ("box", "has_box", "mask", "overlap")
    for box, has_box, mask, overlap in zip(
        *(columns[f"regions/{name}"] for name in region_names), strict=True
    ):
        numbers: Any = tuple(np.frombuffer(box, BOX_DTYPE).tolist()) if has_box else None
        regions.append(Region(numbers, mask or None, overlap or None))
    fields: dict[str, Any] = {name: columns[name][0].decode() for name in _NAMES}
    fields |= {name: columns[name][0] for name in _SIZE}
    return Record(
        columns["image"][0], **fields, regions=tuple(regions), annotations=tuple(annotations)
    )


def _mask_column(runs: bytes | None) -> bytes:
    """Run lengths for a column; no mask is an empty string."""
    if runs == b"":
        raise ValueError("a mask without run lengths")
    return runs or b""


def _bytes(values: Iterable[bytes]) -> Any:
    return _FEATURE.Feature(bytes_list=_FEATURE.BytesList(value=values))


def _texts(values: Iterable[str]) -> Any:
    return _bytes(value.encode() for value in values)


def _numbers(values: Iterable[int]) -> Any:
    return _FEATURE.Feature(int64_list=_FEATURE.Int64List(value=values))


def _values(feature: Any) -> Sequence[Any]:
    return feature.bytes_list.value or feature.int64_list.value
