"""Parquet, read with pyarrow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from glamm_jax.grand.export.parquet import COLUMNS, export_parquet, table_schema
from glamm_jax.grand.record import GrandObject, GrandRecord
from tests.grand.export.annotated import DENSE, DOG, NAMES, make_item, make_items

MODULE = "glamm_jax.grand.export.parquet"


def _rows(out: Path, split: str = "train") -> list[dict[str, Any]]:
    return [
        row
        for path in sorted((out / "data").glob(f"{split}-*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]


def test_rows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    items = make_items()
    summary = export_parquet(items, out, validation_share=0.0, image_bytes=True)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "README.md",
        "export.json",
        "train-00000-of-00001.parquet",
    ]
    rows = _rows(out)
    assert [row["image"]["path"] for row in rows] == list(NAMES)
    assert rows[0]["image"]["bytes"] == items[0][0].read()
    assert list(rows[0]) == list(COLUMNS)
    dog, glass, _ = rows[0]["objects"]
    assert dog["bbox"] == list(DOG.box) and dog["labels"] == ["dog", "puppy"]
    assert dog["segmentation"] == DOG.mask and dog["segmentation_source"] == "SAM"
    assert [vote["source"] for vote in dog["votes"]] == ["eva", "codetr", "owl"]
    assert glass["segmentation"] is None and glass["depth"] is None
    fence = rows[0]["floating_objects"][0]
    assert fence["score"] is None and fence["attributes"] is None
    assert rows[0]["dense_caption"]["caption"] == DENSE and rows[0]["verified"] is True
    assert rows[0]["dense_caption"]["details"][1]["ids"] == [4]
    assert rows[0]["affordances"][0] == {"name": "sit", "object_ids": [0, 4], "labels": ["dog"]}
    assert rows[2]["dense_caption"] is None and rows[4]["objects"] == []
    assert summary.num_images == 5 and summary.counts["train: images"] == 5


def test_without_image_bytes_there_is_the_name(tmp_path: Path) -> None:
    export_parquet(make_items(), tmp_path / "out", validation_share=0.0)
    assert [row["image"] for row in _rows(tmp_path / "out")] == list(NAMES)


def test_the_description_for_datasets() -> None:
    schema = table_schema(image_bytes=True)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["verified"] == {"_type": "Value", "dtype": "bool"}
    objects = features["objects"]
    assert objects["_type"] == "List"
    assert objects["feature"]["score"] == {"_type": "Value", "dtype": "float64"}
    assert table_schema(image_bytes=False).metadata is None


def test_row_groups_and_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.ROWS_PER_GROUP", 2)
    monkeypatch.setattr(f"{MODULE}.ROWS_PER_FILE", 4)
    items = [make_item(f"{i}.jpg", difference_hash=i) for i in range(11)]
    export_parquet(items, tmp_path / "rows", validation_share=0.0)
    files = sorted((tmp_path / "rows" / "data").iterdir())
    assert [path.name for path in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [parquet.ParquetFile(path).num_row_groups for path in files] == [2, 2, 2]
    assert [row["difference_hash"] for row in _rows(tmp_path / "rows")] == [
        f"{i:016x}" for i in range(11)
    ]
    monkeypatch.undo()
    monkeypatch.setattr(f"{MODULE}.BYTES_PER_GROUP", 1)
    export_parquet(items[:3], tmp_path / "bytes", validation_share=0.0, image_bytes=True)
    (path,) = (tmp_path / "bytes" / "data").iterdir()
    assert parquet.ParquetFile(path).num_row_groups == 3


def test_splits(tmp_path: Path) -> None:
    items = [make_item(f"{i}.jpg") for i in range(8)]
    export_parquet(items, tmp_path / "out", validation_share=0.5)
    train, val = _rows(tmp_path / "out"), _rows(tmp_path / "out", "validation")
    assert len(train) + len(val) == 8 and train and val
    readme = (tmp_path / "out" / "README.md").read_text()
    assert readme.startswith("---\nconfigs:\n") and "path: data/validation-*" in readme


def test_values_that_parquet_lacks(tmp_path: Path) -> None:
    item = GrandObject(0, (0, 1, 2, 3), ("half \ud800",), mask={"size": [1], "counts": "x"})
    record = GrandRecord(objects=(item, replace(item, depth=float("nan"))), captions=("\udfff",))
    export_parquet([make_item("a.jpg", record)], tmp_path / "out", validation_share=0.0)
    (row,) = _rows(tmp_path / "out")
    assert row["objects"][0]["labels"] == ["half ?"] and row["captions"] == ["?"]
    assert row["objects"][0]["segmentation"] is None
