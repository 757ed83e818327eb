"""Input that is made to do harm is rejected or becomes a defect: paths, bombs, damaged files."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import RecordError
from glamm_jax.data.record_shards import RecordShards, ShardError
from glamm_jax.data.sources import json_layouts, jsonl
from glamm_jax.data.sources.archives import ArchiveError, Archives
from glamm_jax.data.sources.defects import BAD_MASK, DefectLog
from glamm_jax.data.sources.jsonl import JsonlSource
from glamm_jax.data.sources.mask_annotations import read_mask
from glamm_jax.data.split_folder import SplitFolder, SplitReport
from glamm_jax.environment import ALLOW_OUTSIDE
from glamm_jax.evaluation.benchmarks import gcg
from glamm_jax.evaluation.benchmarks.base import Prediction
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles
from glamm_jax.files import FileNameError, bounded_lines, read_regular_file, safe_name

NAMES = st.one_of(
    st.sampled_from(
        ["../../../x", "/etc/x", "", ".", "..", "a/b", "a\\b", "a\0b", "nul", "COM1.txt", ".x"]
    ),
    st.text(max_size=300),
)


def image_bytes(kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(stream, kind)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------- paths


@given(NAMES)
def test_a_safe_name_is_the_name_of_a_file_in_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    try:
        path = folder / safe_name(name, ".json")
    except FileNameError:
        return
    assert path.parent == folder
    assert path.name == name + ".json"


@pytest.mark.parametrize("name", ["../../x", "{outside}", "a/../../x", "", "..", "x" * 300, "a\0"])
def test_an_export_writes_nothing_outside_of_its_folder(tmp_path, name):
    out, outside = tmp_path / "a" / "b", tmp_path / "x.json"
    outside.write_text("unchanged")
    name = name.format(outside=outside.with_suffix(""))
    assert gcg.export(out, [Prediction(name, name, "text"), Prediction("7", "7", "text")]) == [name]
    assert outside.read_text() == "unchanged"
    assert [path.name for path in out.iterdir()] == ["7.json"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with an image, beside an image that it must not read."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "dog.png").write_bytes(image_bytes())
    (tmp_path / "secret.png").write_bytes(image_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")
    return folder


OUTSIDE = ["../secret.png", "{root}/secret.png", "link.png", "photos/../../secret.png"]


def read_line(folder: Path, **fields: object) -> tuple[bool, str]:
    """Read a line of JSON as a source does; whether there is a record, and all defects."""
    (folder / "own.jsonl").write_text(json.dumps({"captions": ["A dog."], **fields}))
    source = JsonlSource(folder / "own.jsonl", "train")
    record, defects = source.read(source.keys[0])
    return record is not None, "; ".join(f"{kind}: {where}" for kind, where in defects)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_image_outside_of_the_source_needs_the_flag(data, monkeypatch, name):
    name = name.format(root=data.parent)
    is_read, defects = read_line(data, image=name)
    assert not is_read
    assert "file outside of its folder" in defects
    assert "--allow-outside" in defects
    monkeypatch.setenv(ALLOW_OUTSIDE, "1")
    assert read_line(data, image=name)[0]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_mask_outside_of_the_source_is_a_defect(data, name):
    expressions = [{"text": "dog", "masks": [name.format(root=data.parent)]}]
    assert "outside" in read_line(data, image="photos/dog.png", expressions=expressions)[1]


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero", "photos", "a\0b", "x" * 5000])
def test_pipes_devices_and_impossible_names_are_missing_images(data, name):
    assert read_line(data, image=name) == (False, read_line(data, image=name)[1])
    assert "missing image" in read_line(data, image=name)[1]
    with pytest.raises(RecordError):
        ImageFiles(data, [name], ["1"])[0]
    assert ImageFiles(data, [name], ["1"]).num_bytes(0) == 0


@pytest.mark.parametrize("name", OUTSIDE)
def test_images_of_annotation_files_are_confined(data, name):
    name = name.format(root=data.parent)
    with pytest.raises(RecordError, match="leads out of the folder"):
        ImageFiles(data, [name], ["1"])[0]
    assert ImageFiles(data, ["photos/dog.png"], ["1"])[0].image == image_bytes()


def test_a_linked_folder_of_images_is_read(data):
    (data.parent / "view").symlink_to(data / "photos")
    assert ImageFiles(data.parent / "view", ["dog.png"], ["1"])[0].image == image_bytes()


def test_a_pipe_does_not_block_and_size_is_bounded(data):
    with pytest.raises(FileNameError, match="not a regular file"):
        read_regular_file(data / "pipe.png", 100)
    with pytest.raises(FileNameError, match="at most 3 are read"):
        read_regular_file(data / "photos" / "dog.png", 3)


# ---------------------------------------------------------------------------------------- masks


def compressed(counts: list[int]) -> str:
    """Counts in COCO's 5-bit groups, without differences."""
    text = ""
    for count in counts:
        while True:
            group, count = count & 31, count >> 5
            is_last = (count == 0 and not group & 16) or (count == -1 and group & 16)
            text += chr(48 + (group if is_last else group | 32))
            if is_last:
                break
    return text


def test_runs_whose_sum_passes_64_bits_are_rejected():
    runs = {"size": [10, 10], "counts": compressed([(1 << 39) - 1] * 12_000)}
    for read in (rle.decode, rle.compress, rle.check, rle.run_ends):
        with pytest.raises(rle.MaskError, match="longer than the largest mask"):
            read(runs)
    with pytest.raises(rle.MaskError):
        rle.decode_into(runs, np.zeros((3, 3), np.uint8))


sizes = st.one_of(st.integers(-1, 20), st.sampled_from([1 << 31, 1 << 62, 10**30]))


@settings(max_examples=200)
@given(
    st.tuples(sizes, sizes).map(list),
    st.one_of(
        st.text(st.characters(min_codepoint=46, max_codepoint=113), max_size=30),
        st.lists(st.integers(-(1 << 40), 1 << 40), max_size=40).map(compressed),
        st.lists(sizes, max_size=8),
        st.sampled_from([None, 1, {}, [[1]], [1.0], [True]]),
    ),
)
def test_any_run_lengths_are_decoded_or_rejected(size, counts):
    out = np.zeros((3, 5), np.uint8)
    runs = {"size": size, "counts": counts}
    try:
        rle.decode_into(runs, out)
    except rle.MaskError:
        with pytest.raises(rle.MaskError):
            rle.decode(runs)
    else:
        assert rle.decode(runs).shape == tuple(size)
        assert out.max() <= 1


@pytest.mark.parametrize(
    "polygon",
    [
        [0.0, 0.0, float("nan"), 1.0, 2.0, 2.0],
        [0.0, 0.0, float("inf"), 1.0, 2.0, 2.0],
        [0.0, 0.0, 1e30, 1.0, 2.0, 2.0],
        [0, 0, 10**400, 1, 2, 2],
        [0.0, 0.0, 4000.0, 4000.0] * 1000,
    ],
)
def test_polygons_that_would_exhaust_memory_are_defects(polygon):
    log = DefectLog("")
    assert read_mask([polygon], 1000, 1000, log, "mask") is None
    assert [kind for kind, _ in log.defects] == [BAD_MASK]


# --------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI"])
def test_formats_outside_of_the_list_start_no_program(tmp_path, monkeypatch, kind):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match="the format is unknown"):
        open_image(image_bytes(kind))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats_of_the_list_are_read(kind):
    assert open_image(image_bytes(kind)).shape == (4, 6, 3)


def test_a_jpeg_of_many_scans_is_rejected_at_once():
    stream = io.BytesIO()
    Image.new("L", (4000, 4000), 128).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scan = data[data.rfind(b"\xff\xda") : -2]
    start = time.process_time()
    with pytest.raises(ImageError, match="a JPEG of more than 100 scans"):
        open_image(data[:-2] + scan * 10_000 + b"\xff\xd9")
    assert time.process_time() - start < 2
    assert open_image(data + scan * 200).shape == (4000, 4000, 3)  # behind the end: not decoded


def test_a_side_that_resizing_could_not_hold_is_rejected():
    with pytest.raises(ImageError, match="a side has at most"):
        open_image(image_bytes(size=(200_000, 1)))


# ----------------------------------------------------------------------------------- large input


def test_a_long_line_is_read_in_parts():
    lines = [*bounded_lines(io.BytesIO(b"ab\n" + b"x" * 25 + b"\ncd"), 10)]
    assert lines == [(b"ab\n", 3), (b"x" * 10, 26), (b"cd", 2)]


def add_member(
    archive: tarfile.TarFile, name: str, size: int, kind: bytes = tarfile.REGTYPE
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    archive.addfile(member, io.BytesIO(bytes(size)))


def test_a_large_member_of_an_archive_is_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        add_member(archive, "large.json", (1 << 24) + 1)
        add_member(archive, "small.json", 10)
    archives = Archives(tmp_path, ".json")
    large, small = archives.members
    with pytest.raises(ArchiveError, match=r"large.json has 16777217 bytes; at most 16777216"):
        archives.read(large)
    assert archives.read(small) == bytes(10)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_large_header_of_an_archive_is_not_read(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_member(archive, "small.json", 10)
        add_member(archive, "header", 2 << 20, kind)
    archives = Archives(tmp_path, ".json")
    assert [member.name for member in archives.members] == ["small.json"]
    assert archives.damaged == {tmp_path / "a.tar": "an extended header of 2097152 bytes"}


def test_a_long_line_of_json_loses_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(json_layouts, "MAX_LINE", 100)
    monkeypatch.setattr(jsonl, "MAX_LINE", 100)
    (tmp_path / "dog.png").write_bytes(image_bytes())
    short = {"image": "dog.png", "captions": ["A dog."]}
    lines = [json.dumps(x) for x in (short | {"captions": ["A dog." * 50]}, short)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    source = JsonlSource(tmp_path / "own.jsonl", "train")
    assert list(source.keys) == ["line 1", "dog.png"]
    (defect,) = source.read("line 1").defects
    assert defect.kind == jsonl.BROKEN_LINE and "longer than" in defect.where
    assert source.read("dog.png").record is not None


# -------------------------------------------------------------------------------- record shards


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("features.json", "tensorflow_datasets.core.features.image", "os", "class 'os"),
        ("dataset_info.json", '"shardLengths"', '"filepathTemplate": "../x", "a"', "Template"),
        ("dataset_info.json", '"name": "train"', '"name": "../x"', "separator"),
        ("dataset_info.json", "array_record", "tfrecord", "must be array_record"),
        ("dataset_info.json", '"1.0.0"', "[[]]", "cannot be read"),
        ("dataset_info.json", "{", "[", "not valid JSON"),
    ],
)
def test_a_description_of_shards_from_elsewhere_is_rejected(tmp_path, file, old, new, message):
    target = SplitFolder(tmp_path, "glamm_own", "train", 1)
    target.begin({})
    target.publish(SplitReport(0, (0,), 0, {}, {}))
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ShardError, match=message):
        RecordShards(tmp_path, "train")
