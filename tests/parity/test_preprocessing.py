"""The part `preprocessing` agrees with the recording, and notices whatever is changed in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glamm_jax.config import CLIPConfig, SAMConfig
from tests.parity.tampering import change_array, change_json, copy_parts, failed_names, run
from tools.parity import preprocessing
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

FIRST = "image0_97x131.npz"


@pytest.fixture
def folder(goldens, tmp_path):
    return copy_parts(goldens, tmp_path, "preprocessing")


def test_everything_recorded_agrees(goldens):
    ledger = run(preprocessing.check, goldens)
    assert ledger.failures == []
    compared = [row for row in ledger.rows if row.verdict == "equal"]
    assert len(compared) > 60
    assert max(row.error or 0.0 for row in compared) < 1e-6


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("clip/pixel_values__val", "clip/pixel_values"),
        ("clip/pixel_values__stats", "clip/pixel_values"),
        ("sam/pixels__val", "sam/pixels"),
        ("sam/resized_u8__val", "sam/resized_u8"),
        ("clip48/pixel_values", "clip48/pixel_values"),
        ("sam128/resized_u8", "sam128/resized_u8"),
    ],
)
def test_one_moved_pixel_is_noticed(folder, name, reported):
    change_array(folder / "preprocessing" / FIRST, name)
    assert failed_names(preprocessing.check, folder) == {reported}


@pytest.mark.parametrize(
    ("keys", "reported"),
    [
        (("images", 0, "region_boxes", 1, 2), "images[0].region_boxes"),
        (("images", 1, "single_box", 0, 0), "images[1].single_box"),
        (("images", 1, "region_labels", 0), "images[1].region_labels"),
        (("images", 2, "h"), "images[2].h"),
        (("images", 0, "sam_resize", 1), "images[0].sam_resize"),
        (("images", 0, "shuffle", 1), "images[0].shuffle"),
        (("clip_processor", "image_mean", 0), "clip_processor.image_mean"),
        (("clip_processor", "crop_size", "width"), "clip_processor.crop_size.width"),
        (("sam_resize_shapes", 3, 2), "sam_resize_shapes"),
        (("clip_resize_shapes", 1, 3), "clip_resize_shapes"),
        (("apply_boxes", "out", 0, 3), "apply_boxes.out"),
        (
            ("more_than_10_boxes", "region_base", "n_boxes"),
            "more_than_10_boxes.region_base.n_boxes",
        ),
        (("rle", "masks", 0, 1, 1), "rle.masks"),
        (("rle", "uncompressed", 0, "counts", 3), "rle.uncompressed[0].counts"),
        (("rle", "compressed", 2, "counts"), "rle.compressed[2].counts"),
    ],
    ids=str,
)
def test_one_moved_entry_is_noticed(folder, keys, reported):
    change_json(folder / "preprocessing" / "info.json", keys)
    assert reported in failed_names(preprocessing.check, folder)


def test_keys_and_files_that_nobody_knows_fail(folder):
    path = folder / "preprocessing" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    (folder / "preprocessing" / "extra.npz").write_bytes(b"")
    rows = run(preprocessing.check, folder).failures
    assert {(row.name, row.verdict) for row in rows} == {("extra", "unknown"), ("", "unknown")}


def test_an_absent_or_broken_file_is_named(folder, tmp_path):
    (folder / "preprocessing" / FIRST).write_bytes(b"broken")
    with pytest.raises(GoldenError, match=FIRST):
        run(preprocessing.check, folder)
    (folder / "preprocessing" / FIRST).unlink()
    with pytest.raises(GoldenError, match=FIRST):
        run(preprocessing.check, folder)
    with pytest.raises(GoldenError, match="no such folder"):
        run(preprocessing.check, tmp_path / "elsewhere")


@pytest.mark.parametrize("contrast", [0, 1, 255])
def test_pictures_with_little_contrast_or_much_padding_agree(contrast, tmp_path):
    # Rounding is the same whatever a picture's deviation, by which errors are measured.
    levels = np.random.default_rng(0).integers(0, contrast + 1, (10, 700, 3), np.uint8)
    padded = np.zeros((1024, 1024, 3), np.float32)
    resized = np.asarray(Image.fromarray(levels).resize((1024, 15), Image.Resampling.BILINEAR))
    mean, std = (np.float32(getattr(SAMConfig(), f"pixel_{name}")) for name in ("mean", "std"))
    padded[:15] = (resized - mean) / std
    path = tmp_path / "a.npz"
    np.savez(path, **{"in/image_u8": levels, "sam/pixels": padded.transpose(2, 0, 1)})
    ledger = ComparisonReport()
    with RecordedFile.open(ledger, "preprocessing", path) as arrays:
        preprocessing._check_arrays(arrays)
    assert ledger.failures == []


def test_sizes_are_read_from_the_folder(tmp_path):
    part = tmp_path / "preprocessing"
    part.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    picture = Image.fromarray(image)
    resized = np.asarray(picture.resize((256, 171), Image.Resampling.BILINEAR))
    clip = np.asarray(picture.resize((144, 96), Image.Resampling.BICUBIC))[:, 24:120] / 255
    config = CLIPConfig()
    normal = (clip * 255 - config.pixel_mean) / config.pixel_std
    np.savez(
        part / "a.npz",
        **{
            "in/image_u8": image,
            "clip/pixel_values": normal.transpose(2, 0, 1).astype(np.float32),
            "sam/resized_u8": resized,
        },
    )
    info = {
        "clip_processor": {
            "size": {"shortest_edge": 96},
            "crop_size": {"height": 96, "width": 96},
        },
        "images": [
            {"file": "a.npz", "h": 40, "w": 60, "clip_shape": [3, 96, 96], "sam_resize": [171, 256]}
        ],
        "sam_resize_shapes": [[100, 50, 256, 128]],
        "clip_resize_shapes": [[100, 50, 192, 96]],
        "apply_boxes": {
            "orig": [100, 50],
            "boxes": [[1, 2, 3, 4]],
            "out": [[2.56, 5.12, 7.68, 10.24]],
        },
    }
    (part / "info.json").write_text(json.dumps(info))
    assert run(preprocessing.check, tmp_path).failures == []
