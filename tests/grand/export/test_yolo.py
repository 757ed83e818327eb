"""Labels for YOLO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from glamm_jax.grand.export.yolo import export_yolo
from glamm_jax.grand.record import GrandRecord
from tests.grand.export.annotated import DOG, make_item, make_items, mask_array


def test_boxes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = export_yolo(make_items(), out, validation_share=0.0)
    assert (out / "classes.txt").read_text() == "dog\nwine glass\n"
    assert (out / "data.yaml").read_text() == (
        'train: images/train\nval: images/train\nnc: 2\nnames:\n  0: "dog"\n  1: "wine glass"\n'
    )
    # a.jpg and a.png would have the same label file.
    stems = ["a", "a_png", "noext", "sa 2", "straße 犬"]
    assert sorted(path.stem for path in (out / "labels" / "train").iterdir()) == stems
    images = ["a.jpg", "a_png.png", "noext", "sa 2.jpg", "straße 犬.jpg"]
    assert sorted(path.name for path in (out / "images" / "train").iterdir()) == images
    assert (out / "labels" / "train" / "a.txt").read_text().splitlines() == [
        "0 0.171875 0.270833 0.281250 0.416667",
        "1 0.552734 0.421875 0.160156 0.406250",
        "0 0.789062 0.270833 0.296875 0.416667",
    ]
    assert (out / "labels" / "train" / "noext.txt").read_text() == ""  # background
    assert summary.num_images == 5 and summary.counts["objects"] == 12


def test_polygons(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = export_yolo(
        make_items(), out, kind="polygons", tolerance=0.0, floating=True, validation_share=0.0
    )
    assert (out / "classes.txt").read_text() == "dog\nfence\n"
    assert summary.dropped["objects: no mask"] == 8  # glass and shadow of four images
    lines = (out / "labels" / "train" / "a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "0", "1"]
    points = np.array(lines[0].split()[1:], float).reshape(-1, 2) * [64, 48]
    assert np.allclose(points, np.round(points), atol=1e-4)
    canvas = np.zeros((48 * 4, 64 * 4), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 4).astype(np.int32)], 1)
    assert np.array_equal(canvas[2::4, 2::4] > 0, mask_array(2, 3, 20, 23))


def test_splits_and_names(tmp_path: Path) -> None:
    label = replace(DOG, label='it\'s: "犬" #1')
    items = [make_item(f"{i}.jpg", GrandRecord(objects=(label,))) for i in range(8)]
    out = tmp_path / "out"
    export_yolo(items, out, validation_share=0.5, images="none")
    yaml = (out / "data.yaml").read_text(encoding="utf-8").splitlines()
    assert yaml[1:] == ["val: images/val", "nc: 1", "names:", '  0: "it\'s: \\"犬\\" #1"']
    labels = list((out / "labels").rglob("*.txt"))
    assert len(labels) == 8 and {path.parent.name for path in labels} == {"train", "val"}
    assert not [path for path in (out / "images").rglob("*") if path.is_file()]


def test_without_images_names_cannot_be_changed(tmp_path: Path) -> None:
    summary = export_yolo(make_items(), tmp_path / "out", validation_share=0.0, images="none")
    assert summary.num_images == 4 and summary.dropped["images: repeated file name"] == 1
