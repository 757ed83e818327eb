"""What all exporters have in common."""

from __future__ import annotations

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.cli.annotate.export import FORMAT_OPTIONS
from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.grand.export.filters import ExportFilters
from glamm_jax.grand.export.formats import FORMATS, find_exporter
from glamm_jax.grand.export.grand_json import export_grand_json
from tests.grand.export.annotated import FULL, NAMES, make_item, make_items, tree

OPTIONS: dict[str, dict[str, Any]] = {
    "grand-json": {"images": "copy"},
    "lmdb": {"images": "copy"},
    "coco": {"images": "copy"},
    "yolo": {},
    "label-studio": {"images": "copy"},
    "parquet": {"image_bytes": True},
    "shards": {},
    "fiftyone": {"images": "copy"},
    "grandf": {"images": "copy"},
}
ALL = {name: (find_exporter(name), options) for name, options in OPTIONS.items()}
IN_FOLDER = {name: value for name, value in ALL.items() if name != "shards"}


def test_every_format_is_tested() -> None:
    assert set(ALL) == set(FORMATS)
    with pytest.raises(ConfigError, match="no format 'voc'; available: grand-json, lmdb"):
        find_exporter("voc")


def _missing_image() -> bytes:
    raise FileNotFoundError("gone")


@pytest.mark.parametrize("name", ALL)
def test_equal_input_gives_equal_bytes(name: str, tmp_path: Path) -> None:
    export, options = ALL[name]
    calls: list[int] = []
    first = export(make_items(), tmp_path / "a", on_image=lambda: calls.append(1), **options)
    (tmp_path / "photos").mkdir()
    second = export(make_items(tmp_path / "photos"), tmp_path / "b", **options)
    assert len(calls) == len(NAMES) + 1  # the rejected image as well
    assert first.to_json() == second.to_json()
    files = tree(tmp_path / "a")
    assert files == tree(tmp_path / "b")
    summaries = [data for path, data in files.items() if path.endswith("export.json")]
    assert [json.loads(data) for data in summaries] == [first.to_json()]
    assert first.to_json()["format"] == name
    assert first.dropped["images: rejected"] == 1
    assert first.dropped["dense captions: not verified"] == 1
    assert first.dropped["dense captions: template"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ALL)
def test_an_image_that_cannot_be_read_loses_only_itself(name: str, tmp_path: Path) -> None:
    export, options = ALL[name]
    image, record = make_item("b.jpg")
    items = [make_item("a.jpg"), (replace(image, content=_missing_image), record)]
    items.append((replace(image, content=tmp_path / "missing.jpg", file_name="c.jpg"), record))
    summary = export([*items, make_item("d.jpg")], tmp_path / "out", **options)
    assert summary.num_images == 2
    assert summary.dropped["images: cannot be read"] == 2


@pytest.mark.parametrize("name", ALL)
def test_unsafe_file_names_are_dropped(name: str, tmp_path: Path) -> None:
    export, options = ALL[name]
    items = [make_item("a.jpg")]
    unsafe = ["../x.jpg", "a/b.jpg", "", ".hidden", "nul.jpg", "x\n.jpg", "\ud83d.jpg"]
    items += [(replace(items[0][0], file_name=file_name), FULL) for file_name in unsafe]
    summary = export(items, tmp_path / "out", **options)
    assert summary.num_images == 1
    assert summary.dropped["images: unsafe file name"] == len(unsafe)


@pytest.mark.parametrize("name", IN_FOLDER)
def test_only_an_earlier_export_is_overwritten(name: str, tmp_path: Path) -> None:
    export, options = IN_FOLDER[name]
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FolderError):
            export(make_items(), out, overwrite=overwrite, **options)
    assert tree(out) == {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    (out / "export.json").write_text('{"format": "other"}')
    with pytest.raises(FolderError, match="export as other"):
        export(make_items(), out, overwrite=True, **options)
    (out / "export.json").unlink()
    out.rmdir()
    export(make_items(), out, **options)
    with pytest.raises(FolderError, match="exists already"):
        export(make_items(), out, **options)
    export([make_item("a.jpg")], out, overwrite=True, **options)
    export([make_item("a.jpg")], tmp_path / "fresh", **options)
    assert tree(out) == tree(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fresh"}


@pytest.mark.parametrize("name", IN_FOLDER)
def test_a_failure_leaves_the_earlier_export(name: str, tmp_path: Path) -> None:
    export, options = IN_FOLDER[name]
    export(make_items(), tmp_path / "out", **options)
    before = tree(tmp_path)

    def failing() -> Any:
        yield make_item("a.jpg")
        raise KeyError("run folder")

    with pytest.raises(KeyError):
        export(failing(), tmp_path / "out", overwrite=True, **options)
    with pytest.raises(KeyError):
        export(failing(), tmp_path / "other", **options)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ALL)
def test_no_images_are_an_export_too(name: str, tmp_path: Path) -> None:
    export, options = ALL[name]
    summary = export([], tmp_path / "out", filters=ExportFilters(min_votes=2), **options)
    assert summary.num_images == 0
    assert summary.to_json()["filters"]["min_votes"] == 2


def test_the_summary_has_lines_for_a_program(tmp_path: Path) -> None:
    summary = export_grand_json(make_items(), tmp_path / "out")
    lines = summary.lines()
    assert lines[0].split() == ["images", "5"]
    assert ["dropped:", "images:", "rejected", "1"] in [line.split() for line in lines]
    assert len({len(line) for line in lines}) == 1


def test_the_program_knows_the_options_of_every_format() -> None:
    assert set(FORMAT_OPTIONS) == set(FORMATS)
    for name, options in FORMAT_OPTIONS.items():
        parameters = signature(find_exporter(name)).parameters
        assert {"kind" if option == "polygons" else option for option in options} <= set(parameters)
