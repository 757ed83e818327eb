"""GranD JSON and LMDBs, read back with our importers and with the library lmdb."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from glamm_jax.data.record import Annotation, Record
from glamm_jax.data.sources.grand import GrandFiles
from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, GrandLMDB
from glamm_jax.grand.export.filters import ExportFilters
from glamm_jax.grand.export.grand_json import annotation_name, export_grand_json
from glamm_jax.grand.export.images import image_split
from glamm_jax.grand.export.lmdb import PAPER, MissingLibraryError, export_lmdb
from glamm_jax.grand.export.output import json_text
from glamm_jax.grand.released_export import export_captions, export_referring
from tests.grand.export.annotated import DOG, FULL, NAMES, make_item, make_items, tree

ALL_CAPTIONS = ExportFilters(unverified_captions=True, template_captions=True)


def _texts(record: Record | None, *tasks: str) -> list[Annotation]:
    assert record is not None
    return [annotation for annotation in record.annotations if annotation.task in tasks]


def test_files_have_the_keys_of_the_release(tmp_path: Path) -> None:
    summary = export_grand_json(make_items(), tmp_path / "out")
    folder = tmp_path / "out" / "GranD_Data" / "annotations"
    files = ["a.jpg", "a.png", "sa 2.jpg", "straße 犬.jpg", "noext"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(map(annotation_name, files))
    assert (folder / "a.json").is_file() and (folder / "a.png.json").is_file()
    ((name, value),) = json.loads((folder / "a.json").read_bytes()).items()
    assert name == "a.jpg"
    assert set(value) == {
        *("objects", "floating_objects", "floating_attributes", "landmark", "affordances"),
        *("id_counter", "relationships", "short_captions", "dense_caption", "additional_context"),
    }
    assert set(value["objects"][0]) == {
        *("id", "bbox", "labels", "label", "score", "attributes", "depth"),
        *("segmentation", "segmentation_source"),
    }
    assert value["objects"][1]["id"] == 1 and "segmentation" not in value["objects"][1]
    assert "score" not in value["floating_objects"][0]
    assert value["floating_objects"][0]["attributes"] is None
    assert set(value["relationships"]) == {"object_ids", "floating_object_ids", "grounding"}
    assert value["short_captions"][0]["details"][0] == {
        "phrase": "Two dogs",
        "tokens_positive": [0, 8],
        "id": 0,
        "bbox": list(DOG.box),
    }
    detail = value["dense_caption"]["details"][1]
    assert set(detail) == {"phrase", "tokens_positive", "ids", "bbox"} and detail["ids"] == [4]
    assert summary.counts == Counter(
        {
            "objects": 12,
            "floating objects": 8,
            "short captions": 8,
            "dense captions": 2,
            "additional contexts": 4,
        }
    )


def test_own_keys_are_written_on_request(tmp_path: Path) -> None:
    export_grand_json([make_item("a.jpg")], tmp_path / "out", own_keys=True)
    value = json.loads((tmp_path / "out/GranD_Data/annotations/a.json").read_bytes())["a.jpg"]
    assert value == json.loads(json_text(FULL.to_json()))
    assert "votes" in value["objects"][0]


def test_a_name_that_is_in_use_is_dropped(tmp_path: Path) -> None:
    items = [make_item(name) for name in ("a.png", "a.png.jpg", "b.jpg", "b.jpg")]
    summary = export_grand_json(items, tmp_path / "out")
    assert summary.num_images == 2 and summary.dropped["images: repeated file name"] == 2


def test_our_importer_reads_the_files(tmp_path: Path) -> None:
    export_grand_json(make_items(), tmp_path / "out", images="copy", filters=ALL_CAPTIONS)
    source = GrandFiles(tmp_path / "out", "train")
    assert len(source.keys) == len(NAMES)
    results = {key: source.read(key) for key in source.keys}
    full = [results[annotation_name(name).removesuffix(".json")].record for name in NAMES[:4]]
    for record in full:
        assert len(_texts(record, "gcg")) == 1 and len(_texts(record, "caption")) == 2
    assert results["noext"].record is None  # it has no annotations
    assert not [d for d in results["noext"].defects if "image" in d.kind]


def test_links_instead_of_copies(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    export_grand_json(make_items(photos), tmp_path / "out", images="link")
    image = tmp_path / "out" / "GranD_Data" / "images" / NAMES[3]
    assert image.is_symlink() and image.resolve() == (photos / NAMES[3]).resolve()
    assert image.read_bytes() == (photos / NAMES[3]).read_bytes()


def test_numbers_that_json_lacks() -> None:
    value = {"depth": float("nan"), "box": (1.0, float("inf")), "name": "é\ud800"}
    assert json_text(value) == '{"depth":null,"box":[1.0,null],"name":"\\u00e9\\ud800"}'


# ---------------------------------------------------------------------------- LMDB


def _entries(folder: Path) -> dict[str, Any]:
    with (
        lmdb.open(str(folder), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return {key.decode(): json.loads(value) for key, value in transaction.cursor()}


def test_the_library_reads_the_databases(tmp_path: Path) -> None:
    summary = export_lmdb(make_items(), tmp_path / "out", validation_share=0.0)
    data = tmp_path / "out" / "GranD_Data"
    assert not (data / "images").exists()
    assert {path.name for path in (data / CAPTIONS).iterdir()} == {
        "data.mdb",
        f"{CAPTIONS}_Train.txt",
        f"{CAPTIONS}_Val.txt",
    }
    entries = _entries(data / CAPTIONS)
    assert set(entries) == set(NAMES[:4])  # the last one has no captions
    assert list(entries[NAMES[3]]) == [NAMES[3]]
    captions = entries["a.jpg"]["a.jpg"]
    assert captions == json.loads(json_text(export_captions(FULL, PAPER)))
    assert [item["caption"] for item in captions] == ["Two dogs beside a glass", "Animals outside"]
    assert captions[0]["details"][0]["segmentation"] == DOG.mask
    expressions = _entries(data / EXPRESSIONS)["a.png"]["a.png"]
    assert expressions == json.loads(json_text(export_referring(FULL, PAPER)))
    assert [item["attribute"] for item in expressions] == ["the brown dog"] * 2
    assert summary.num_images == 4 and summary.dropped["images: without annotations"] == 1
    assert summary.counts["short captions"] == 8


def test_our_importer_reads_the_databases(tmp_path: Path) -> None:
    items = make_items()
    export_lmdb(items, tmp_path / "out", images="copy", validation_share=0.5)
    export_grand_json(items, tmp_path / "json", images="copy")
    files = GrandFiles(tmp_path / "json", "train")
    expected = {
        split: [image.file_name for image, _ in items[:4] if image_split(image, 0.5) == split]
        for split in ("train", "val")
    }
    for split, names in expected.items():
        source = GrandLMDB(tmp_path / "out", split)
        assert list(source.keys) == names
        for name in names:
            record, defects = source.read(name)
            assert not [defect for defect in defects if "repeated" not in defect.kind]
            from_files = files.read(annotation_name(name).removesuffix(".json")).record
            assert record is not None and from_files is not None
            assert record.image == from_files.image
            captions = _texts(from_files, "caption")
            assert _texts(record, "caption") == [a for a in captions if "brown" not in a.text]
            assert _texts(record, "referring") and len(_texts(record, "region")) == 2
    assert all(expected.values())


def test_many_entries_need_a_larger_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glamm_jax.grand.export.lmdb.FIRST_MAP_BYTES", 1 << 16)
    monkeypatch.setattr("glamm_jax.grand.export.lmdb.ENTRIES_PER_TRANSACTION", 7)
    image, record = make_item("a.jpg")
    items = [(replace(image, file_name=f"{i:03d}.jpg"), record) for i in range(100)]
    items += [items[0], (replace(image, file_name=" space.jpg"), record)]
    summary = export_lmdb(items, tmp_path / "out")
    entries = _entries(tmp_path / "out" / "GranD_Data" / EXPRESSIONS)
    assert list(entries) == [f"{i:03d}.jpg" for i in range(100)]
    assert summary.dropped["images: repeated file name"] == 1
    assert summary.dropped["images: unsafe file name"] == 1
    assert len(tree(tmp_path / "out")) == 7


def test_a_missing_mask_loses_the_image_as_in_the_original(tmp_path: Path) -> None:
    rules = replace(PAPER, skip_missing=False)
    summary = export_lmdb([make_item("a.jpg")], tmp_path / "out", rules=rules)
    assert summary.dropped["referring expressions: missing mask"] == 1
    assert summary.to_json()["options"]["rules"]["skip_missing"] is False


def test_without_the_library_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(MissingLibraryError, match=r"glamm-jax\[data\]"):
        export_lmdb([], tmp_path / "out")
    assert not any(tmp_path.iterdir())
