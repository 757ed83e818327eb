"""Record shards of exported images: the tasks, the splits, resuming, and training on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from glamm_jax.data.record import Record
from glamm_jax.data.record_shards import RecordShards
from glamm_jax.data.sources.grand import GrandFiles
from glamm_jax.data.split_folder import ConversionError
from glamm_jax.errors import FolderError
from glamm_jax.grand.export import record_shards
from glamm_jax.grand.export.filters import ExportFilters
from glamm_jax.grand.export.grand_json import export_grand_json
from glamm_jax.grand.export.images import image_split
from glamm_jax.grand.export.record_shards import (
    ALL_ANNOTATIONS,
    RecordOptions,
    export_record_shards,
    make_record,
)
from tests.grand.export.annotated import DENSE, FULL, SHORT, make_item, make_items, tree

SOURCE = ("grand", "train")


def _annotations(options: RecordOptions = ALL_ANNOTATIONS) -> Record:
    image, _ = make_item("a.jpg")
    result = make_record(image, FULL, image.read(), SOURCE, options)
    assert result.record is not None
    return result.record


def _texts(record: Record, task: str) -> list[str]:
    return [annotation.text for annotation in record.annotations if annotation.task == task]


def test_annotations_of_the_four_tasks() -> None:
    record = _annotations()
    assert record.image_id == "a" and (record.height, record.width) == (48, 64)
    assert _texts(record, "region") == ["the brown dog", "the glass", "the brown dog"]
    referring = [x for x in record.annotations if x.task == "referring"]
    assert [x.text for x in referring] == ["the brown dog"]  # the glass has no mask
    boxes = [record.regions[link.region].box_xyxy_pixel for link in referring[0].links]
    assert boxes == [(2.0, 3.0, 20.0, 23.0), (41.0, 3.0, 60.0, 23.0)]
    assert _texts(record, "caption") == [SHORT, "Animals outside"]
    (gcg,) = (x for x in record.annotations if x.task == "gcg")
    assert [DENSE[link.start : link.end] for link in gcg.links] == [
        "A brown dog",
        "another brown dog",
        "the fence",
    ]
    assert all(record.regions[link.region].mask is not None for link in gcg.links)


def test_options_of_the_annotations() -> None:
    record = _annotations(RecordOptions(repeated_expressions="skip", dense_as_caption=True))
    assert _texts(record, "referring") == []
    assert Counter(_texts(record, "region")) == Counter({"the brown dog": 2, "the glass": 1})
    assert _texts(record, "caption") == [SHORT, "Animals outside", DENSE]


def test_shards_have_what_the_importer_reads_from_json(tmp_path: Path) -> None:
    items = make_items()
    summary = export_record_shards(items, tmp_path / "shards", validation_share=0.0)
    export_grand_json(items, tmp_path / "json", images="copy")
    source = GrandFiles(tmp_path / "json", "train")
    records = {r.image_id: r for r in RecordShards(tmp_path / "shards/glamm_grand/1.0.0", "train")}
    expected = {key: source.read(key).record for key in source.keys}
    del expected["noext"]  # without annotations
    assert set(records) == {"a", "a.png", "sa 2", "straße 犬"}
    for key, record in records.items():
        imported = expected[key]
        assert imported is not None
        assert record == replace(imported, image_id=key)
    assert summary.num_images == 4
    assert summary.counts["train: gcg"] == 2 and summary.counts["train: records"] == 4


def test_images_are_split_by_their_hash_and_tfds_reads_them(tmp_path: Path) -> None:
    items = [make_item(f"{i}.jpg") for i in range(12)]
    reverse = [*reversed(items)]
    for out, some in (("a", items), ("b", reverse)):
        export_record_shards(
            some, tmp_path / out, name="My photos", validation_share=0.4, images_per_shard=3
        )
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    folder = tmp_path / "a" / "glamm_my_photos" / "1.0.0"
    for split in ("train", "val"):
        names = {i.file_name for i, _ in items if image_split(i, 0.4) == split}
        assert {f"{x.image_id}.jpg" for x in RecordShards(folder, split)} == names and names
        assert {x.split for x in RecordShards(folder, split)} == {split}
    data = tfds.data_source("glamm_my_photos", split="train", data_dir=str(tmp_path / "a"))
    assert len(data) == len(RecordShards(folder, "train"))


def test_defects_are_counted(tmp_path: Path) -> None:
    image, record = make_item("a.jpg")
    other_size = (replace(image, file_name="b.jpg", height=47), record)
    corrupt = (replace(image, file_name="c.jpg", content=lambda: b"no image"), record)
    repeated = make_item("a.jpg")
    items = [(image, record), other_size, corrupt, repeated]
    summary = export_record_shards(items, tmp_path, validation_share=0.0)
    assert summary.num_images == 1
    assert summary.dropped["images: repeated file name"] == 1
    assert summary.dropped["defects: unreadable image"] == 1
    assert summary.dropped["defects: size mismatch"] == 1


def test_an_interrupted_export_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [make_item(f"{i}.jpg") for i in range(9)]
    options: dict[str, Any] = {"validation_share": 0.0, "images_per_shard": 3}
    write_shard = record_shards.write_shard

    def failing(reader: Any, target: Any, index: int, on_key: Any) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return write_shard(reader, target, index, on_key)

    monkeypatch.setattr(record_shards, "write_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        export_record_shards(items, tmp_path / "a", **options)
    monkeypatch.undo()
    written: list[int] = []
    export_record_shards(items, tmp_path / "b", **options)
    with pytest.raises(ConversionError, match="content"):  # other annotations
        export_record_shards(
            items, tmp_path / "a", filters=ExportFilters(labels=("dog",)), **options
        )
    export_record_shards(items, tmp_path / "a", on_record=lambda: written.append(1), **options)
    assert 0 < len(written) < 9
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    with pytest.raises(FolderError, match="exists already"):
        export_record_shards(items, tmp_path / "a", **options)


def test_other_folders_stay(tmp_path: Path) -> None:
    folder = tmp_path / "glamm_grand" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(FolderError, match="not an export"):
            export_record_shards(make_items(), tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == {"glamm_grand/1.0.0/dataset_info.json": b"{}"}


def test_overwriting_leaves_nothing_of_the_earlier_export(tmp_path: Path) -> None:
    items = [make_item(f"{i}.jpg") for i in range(8)]
    export_record_shards(items, tmp_path / "a", validation_share=0.5, images_per_shard=1)
    export_record_shards(items[:2], tmp_path / "a", validation_share=0.0, overwrite=True)
    folder = tmp_path / "a" / "glamm_grand" / "1.0.0"
    assert len(RecordShards(folder, "train")) == 2
    assert [path.name for path in folder.glob("*array_record*")] == [
        "glamm_grand-train.array_record-00000-of-00001"
    ]


@pytest.mark.slow
def test_training_on_an_exported_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a tiny model with the mixture of configs/pretrain.py, by the program."""
    from glamm_jax.cli.train import main

    items = [make_item(f"{i}.jpg") for i in range(8)]
    export_record_shards(items, tmp_path / "shards", validation_share=0.2)
    config = Path(__file__).with_name("pretrain_tiny.py")
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(config), "--out", "run"]) == 0
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) >= 2
