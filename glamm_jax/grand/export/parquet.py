"""Parquet files that Hugging Face `datasets` loads.

    OUT/data/train-00000-of-00003.parquet       one row for each image
    OUT/data/validation-00000-of-00001.parquet
    OUT/README.md                               says which files belong to which split
    OUT/export.json

It is opened by `datasets.load_dataset("OUT")`. Lists of objects, captions and groundings are nested
columns. The column "image" has the bytes of the file and its name, and `datasets` opens it as an
image; without the bytes it has the name only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from glamm_jax.data import rle
from glamm_jax.data.preprocess import ImageError
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
)
from glamm_jax.grand.export.images import (
    TRAIN,
    UNREADABLE,
    AnnotatedImage,
    ExportItem,
    image_split,
)
from glamm_jax.grand.export.output import export_folder
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord

FORMAT = "parquet"
ROWS_PER_GROUP, BYTES_PER_GROUP = 256, 1 << 26
ROWS_PER_FILE, BYTES_PER_FILE = 1 << 16, 1 << 29
TEXTS = pa.list_(pa.string())
IDS = pa.list_(pa.int64())
BOX = pa.list_(pa.float64())
OBJECT = pa.struct(
    [
        ("id", pa.int64()),
        ("bbox", BOX),
        ("labels", TEXTS),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("attributes", TEXTS),
        ("depth", pa.float64()),
        (
            "segmentation",
            pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())]),
        ),
        ("segmentation_source", pa.string()),
        (
            "votes",
            pa.list_(
                pa.struct(
                    [
                        ("source", pa.string()),
                        ("text", pa.string()),
                        ("score", pa.float64()),
                        ("kind", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
CAPTION = pa.struct(
    [
        ("caption", pa.string()),
        (
            "details",
            pa.list_(
                pa.struct(
                    [
                        ("phrase", pa.string()),
                        ("tokens_positive", pa.list_(pa.int64())),
                        ("ids", IDS),
                        ("bbox", pa.list_(BOX)),
                    ]
                )
            ),
        ),
    ]
)
COLUMNS: dict[str, pa.DataType] = {
    "image_id": pa.string(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "sha256": pa.string(),
    "height": pa.int64(),
    "width": pa.int64(),
    "difference_hash": pa.string(),
    "status": pa.string(),
    "objects": pa.list_(OBJECT),
    "floating_objects": pa.list_(OBJECT),
    "landmark": pa.struct([("category", pa.string()), ("fine_category", pa.string())]),
    "affordances": pa.list_(
        pa.struct([("name", pa.string()), ("object_ids", IDS), ("labels", TEXTS)])
    ),
    "captions": TEXTS,
    "links": pa.list_(pa.struct([("phrase", pa.string()), ("object_ids", IDS)])),
    "relations": pa.list_(
        pa.struct(
            [
                ("subject_ids", IDS),
                ("predicate", pa.string()),
                ("object_ids", IDS),
                ("caption", pa.int64()),
            ]
        )
    ),
    "short_captions": pa.list_(CAPTION),
    "dense_caption": CAPTION,
    "dense_source": pa.string(),
    "verified": pa.bool_(),
    "additional_context": pa.string(),
}


def export_parquet(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    validation_share: float = 0.01,
    image_bytes: bool = False,
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write Parquet files.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        validation_share: of the images; 0: there is no split "validation".
        image_bytes: store the image files; otherwise the column "image" has only their names.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {"validation_share": validation_share, "image_bytes": image_bytes}
    summary = ExportSummary(FORMAT, options, filters.to_json())
    schema = table_schema(image_bytes)
    with export_folder(out, summary, overwrite) as folder:
        (folder / "data").mkdir()
        names = ["train", "validation"] if validation_share > 0 else ["train"]
        splits = {name: _SplitFiles(folder / "data", name, schema) for name in names}
        for image, record in filter_items(items, filters, summary, on_image):
            data: bytes | None = None
            if image_bytes:
                try:
                    data = image.read()
                except ImageError:
                    summary.dropped[UNREADABLE] += 1
                    continue
            name = "train" if image_split(image, validation_share) == TRAIN else "validation"
            splits[name].add(_row(image, record, data, image_bytes), len(data or b""))
            summary.num_images += 1
            summary.counts[f"{name}: images"] += 1
            summary.counts["objects"] += len(record.objects)
        for files in splits.values():
            files.close()
        (folder / "README.md").write_text(_readme(names), encoding="utf-8")
    return summary


def table_schema(image_bytes: bool) -> pa.Schema:
    """Return the columns; with the bytes of images, "image" is marked as one for `datasets`."""
    columns = dict(COLUMNS)
    if not image_bytes:
        columns["image"] = pa.string()
        return pa.schema(list(columns.items()))
    features = {name: _feature(kind) for name, kind in columns.items()}
    features["image"] = {"_type": "Image"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


def _feature(kind: pa.DataType) -> Any:
    """A type as `datasets` describes it."""
    if isinstance(kind, pa.StructType):
        return {field.name: _feature(field.type) for field in kind}
    if isinstance(kind, pa.ListType):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    names = {"double": "float64"}
    return {"_type": "Value", "dtype": names.get(str(kind), str(kind))}


class _SplitFiles:
    """The files of a split, in row groups of bounded size."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema):
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._file_rows = self._file_bytes = self._num_files = 0
        self._writer: parquet.ParquetWriter | None = None

    def add(self, row: dict[str, Any], num_bytes: int) -> None:
        """Add a row; `num_bytes` of it are image bytes."""
        self._rows.append(row)
        self._group_bytes += num_bytes
        if len(self._rows) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            path = self._folder / f"{self._split}-{self._num_files:05d}.parquet"
            self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
            self._num_files += 1
        try:
            table = pa.Table.from_pylist(self._rows, self._schema)
        except UnicodeEncodeError:
            table = pa.Table.from_pylist(_encodable(self._rows), self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(self._rows)))
        self._file_rows += len(self._rows)
        self._file_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0
        if self._file_rows >= ROWS_PER_FILE or self._file_bytes >= BYTES_PER_FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_rows, self._file_bytes = None, 0, 0

    def close(self) -> None:
        """Write what is left, and give the files their final names."""
        if self._rows or not self._num_files:
            self._flush()
        self._end_file()
        for index in range(self._num_files):
            path = self._folder / f"{self._split}-{index:05d}.parquet"
            path.rename(path.with_name(f"{path.stem}-of-{self._num_files:05d}.parquet"))


def _encodable(value: Any) -> Any:
    """A value whose texts have question marks instead of halves of surrogate pairs."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _row(
    image: AnnotatedImage, record: GrandRecord, data: bytes | None, image_bytes: bool
) -> dict[str, Any]:
    number = image.difference_hash
    return {
        "image_id": image.image_id,
        "image": {"bytes": data, "path": image.file_name} if image_bytes else image.file_name,
        "sha256": image.sha256,
        "height": image.height,
        "width": image.width,
        "difference_hash": None if number is None else f"{number:016x}",
        "status": image.status,
        "objects": [_object(item) for item in record.objects],
        "floating_objects": [_object(item) for item in record.floating_objects],
        "landmark": None if record.landmark is None else dict(record.landmark),
        "affordances": [
            {
                "name": name,
                "object_ids": list(value.get("object_ids", ())),
                "labels": list(value.get("labels", ())),
            }
            for name, value in record.affordances.items()
        ],
        "captions": list(record.captions),
        "links": [
            {"phrase": link.phrase, "object_ids": list(link.object_ids)} for link in record.links
        ],
        "relations": [
            {
                "subject_ids": list(item.subject_ids),
                "predicate": item.predicate,
                "object_ids": list(item.object_ids),
                "caption": item.caption,
            }
            for item in record.relations
        ],
        "short_captions": [_caption(caption) for caption in record.short_captions or ()],
        "dense_caption": None if record.dense_caption is None else _caption(record.dense_caption),
        "dense_source": record.dense_source,
        "verified": record.verified,
        "additional_context": record.additional_context,
    }


def _object(item: GrandObject) -> dict[str, Any]:
    return {
        "id": item.id,
        "bbox": [float(number) for number in item.box],
        "labels": list(item.labels),
        "label": item.label,
        "score": item.score,
        "attributes": None if item.attributes is None else list(item.attributes),
        "depth": item.depth,
        "segmentation": None if item.mask is None else _runs(item.mask),
        "segmentation_source": item.mask_source,
        "votes": [
            {"source": vote.source, "text": vote.text, "score": vote.score, "kind": vote.kind}
            for vote in item.votes
        ],
    }


def _runs(mask: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compressed run lengths, also of a mask whose runs are a list; None for a damaged one."""
    try:
        return rle.compress(mask)
    except rle.MaskError:
        return None


def _caption(caption: GrandCaption) -> dict[str, Any]:
    details = [
        {
            "phrase": item.phrase,
            "tokens_positive": None if item.span is None else list(item.span),
            "ids": list(item.object_ids),
            "bbox": [None if box is None else [float(x) for x in box] for box in item.boxes],
        }
        for item in caption.groundings
    ]
    return {"caption": caption.caption, "details": details}


def _readme(splits: list[str]) -> str:
    files = "".join(f"  - split: {name}\n    path: data/{name}-*\n" for name in splits)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
