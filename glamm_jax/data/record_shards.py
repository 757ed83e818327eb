"""Records in shards: ArrayRecord files that TFDS and grain read, without tensorflow.

A record becomes a `tf.train.Example` of flat tables: one row a region, an annotation, a link, a
turn. Rows of the last two say which annotation they belong to, because TFDS cannot nest sequences
without tensorflow.

    data = encode(record)                                       bytes; decode(data) == record
    records = Shards("out/glamm_grandf/1.0.0", "train")         records[7] is a Record
    records = Shards("out/glamm_grandf/1.0.0", "train[:10%]")
    tfds.data_source("glamm_grandf", split="train", data_dir="out")    the tables as arrays
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from glamm_jax.data.record import Annotation, Link, Record, RecordError, Region

BOX_DTYPE = np.dtype("<f8")  # tf.train.Example knows no float64, so a box travels as bytes
# Classes that protobuf makes at run time: type checkers do not see them.
_EXAMPLE: Any = tf_example_pb2
_FEATURE: Any = tf_feature_pb2
# Columns that are fields of the same name, in the order of the fields.
_NAMES, _SIZE = ("image_id", "source", "split"), ("height", "width")
_ANNOTATION, _LINK = ("task", "text"), ("region", "start", "end")


class ShardError(RecordError):
    """Shards that cannot be read. Names the file and says what to do."""


def features() -> tfds.features.FeaturesDict:
    """What TFDS has to know about a record in order to read it."""
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
    """The record, whole and exact; the same bytes for the same record, always.

    Raises: RecordError when a text cannot be UTF-8, a mask is an empty string or a number does not
    fit into 64 bits.
    """
    try:
        columns = _columns(record)
    except ValueError as error:  # of which UnicodeEncodeError is one
        raise RecordError(f"{record.source} {record.image_id!r}: {error}") from error
    example = _EXAMPLE.Example(features=_FEATURE.Features(feature=columns))
    return example.SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    """The record that `encode` was given.

    Raises: ShardError when the bytes are no record.
    """
    try:
        table = _EXAMPLE.Example.FromString(data).features.feature
        return _record({name: _values(feature) for name, feature in table.items()})
    except Exception as error:  # protobuf and whatever half a table leads to
        raise ShardError(f"{len(data)} bytes are no record") from error


class RecordShards(Sequence[Record]):
    """The records of a split, in the order of its shards; a grain data source, pickled by name."""

    def __init__(self, folder: str | os.PathLike[str], split: str):
        """Read what `python -m convert dataset` wrote.

        folder: where dataset_info.json lies. split: also in slices, "train[10%:20%]".
        Raises: ShardError when the folder holds no finished dataset or not this split.
        """
        self.folder, self.split = Path(folder), split
        if not (self.folder / "dataset_info.json").is_file():
            raise ShardError(
                f"{self.folder}: no dataset_info.json; `python -m convert dataset` writes it last, "
                "so run the same command again if it was stopped"
            )
        info = tfds.builder_from_directory(self.folder).info
        instructions: Any
        try:
            instructions = info.splits[split].file_instructions
        except (KeyError, ValueError) as error:
            names = ", ".join(sorted(info.splits))
            raise ShardError(f"{self.folder}: no split {split!r}; there are {names}") from error
        self._files = [str(instruction.filename) for instruction in instructions]
        self._ends = np.cumsum([instruction.take for instruction in instructions], dtype=np.int64)
        self._data = ArrayRecordDataSource(instructions) if instructions else ()

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Raises: ShardError naming the file when it is absent, cut or damaged."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            return decode(self._data[place])
        except (RuntimeError, ShardError) as error:
            file = self._files[int(np.searchsorted(self._ends, place, side="right"))]
            raise ShardError(
                f"{file}: record {place} of {self.split}: {error}; delete the file and run the "
                "conversion again with the same --out: only what is missing is written"
            ) from error

    def __repr__(self) -> str:
        return f"Shards({str(self.folder)!r}, {self.split!r}): {len(self)} records"


def _columns(record: Record) -> dict[str, Any]:
    """Every table of a record, by column, under the names that TFDS gives them."""
    regions, annotations = record.regions, record.annotations
    links = [(i, link) for i, item in enumerate(annotations) for link in item.links]
    turns = [(i, turn) for i, item in enumerate(annotations) for turn in item.turns]
    boxes = [region.box_xyxy_pixel for region in regions]
    return {
        "image": _bytes([record.image]),
        **{name: _texts([getattr(record, name)]) for name in _NAMES},
        **{name: _numbers([getattr(record, name)]) for name in _SIZE},
        "regions/box": _bytes(np.array(box or (0,) * 4, BOX_DTYPE).tobytes() for box in boxes),
        "regions/has_box": _numbers(int(box is not None) for box in boxes),
        "regions/mask": _bytes(_present(region.mask) for region in regions),
        "regions/overlap": _bytes(_present(region.overlap) for region in regions),
        **{f"annotations/{n}": _texts(getattr(x, n) for x in annotations) for n in _ANNOTATION},
        "links/annotation": _numbers(i for i, _ in links),
        **{f"links/{name}": _numbers(getattr(link, name) for _, link in links) for name in _LINK},
        "turns/annotation": _numbers(i for i, _ in turns),
        "turns/text": _texts(turn for _, turn in turns),
    }


def _record(table: Mapping[str, Sequence[Any]]) -> Record:
    regions = zip(
        *(table[f"regions/{n}"] for n in ("box", "has_box", "mask", "overlap")), strict=True
    )
    links = zip(*(table[f"links/{n}"] for n in ("annotation", *_LINK)), strict=True)
    turns = zip(table["turns/annotation"], table["turns/text"], strict=True)
    said = list(zip(*(table[f"annotations/{n}"] for n in _ANNOTATION), strict=True))
    of_links: list[list[Link]] = [[] for _ in said]
    of_turns: list[list[str]] = [[] for _ in said]
    for i, *link in links:
        of_links[i].append(Link(*link))
    for i, turn in turns:
        of_turns[i].append(turn.decode())
    annotations: list[Any] = [
        Annotation(task.decode(), text.decode(), tuple(of_links[i]), tuple(of_turns[i]))
        for i, (task, text) in enumerate(said)
    ]
    fields: dict[str, Any] = {name: table[name][0].decode() for name in _NAMES}
    fields |= {name: table[name][0] for name in _SIZE}
    made = tuple(_region(*row) for row in regions)
    return Record(table["image"][0], **fields, regions=made, annotations=tuple(annotations))


def _region(box: bytes, has_box: int, mask: bytes, overlap: bytes) -> Region:
    numbers: Any = tuple(np.frombuffer(box, BOX_DTYPE).tolist()) if has_box else None
    return Region(numbers, mask or None, overlap or None)


def _present(runs: bytes | None) -> bytes:
    """Run lengths; none are an empty string, which no mask has."""
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
