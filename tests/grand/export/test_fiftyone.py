"""The FiftyOne dataset has all annotations, also as FiftyOne itself reads it."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.grand.export.fiftyone import export_fiftyone
from glamm_jax.miniworld.annotations import mask_box
from tests.grand.export.annotated import DENSE, HEIGHT, WIDTH, make_item, make_items, mask_array

# Prints what FiftyOne has read, as JSON.
READ = """
import json, sys
import fiftyone as fo
dataset = fo.Dataset.from_dir(sys.argv[1], dataset_type=fo.types.LegacyFiftyOneDataset)
rows = []
for sample in dataset.sort_by("image_id"):
    objects = [
        {"label": x.label, "box": x.bounding_box, "index": x.index, "votes": x.votes,
         "mask": None if x.mask is None else x.mask.astype(int).tolist()}
        for x in sample.objects.detections
    ]
    phrases = [[x.label, x.start, x.end, x.object_indices] for x in sample.phrases.classifications]
    rows.append({"image_id": sample.image_id, "caption": sample.caption, "objects": objects,
                 "phrases": phrases, "tags": sample.tags})
dataset.delete()
print("JSON" + json.dumps(rows))
"""


def _mask(detection: dict[str, Any]) -> np.ndarray[Any, Any]:
    packed = base64.b64decode(detection["mask"]["$binary"]["base64"])
    return np.load(io.BytesIO(zlib.decompress(packed)), allow_pickle=False)


def test_a_sample_has_everything(tmp_path: Path) -> None:
    summary = export_fiftyone([make_item("a.jpg")], tmp_path / "out", images="copy")
    (sample,) = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert (tmp_path / "out" / sample["filepath"]).is_file()
    dog, glass, _, fence, _ = sample["objects"]["detections"]
    mask = mask_array(2, 3, 20, 23)
    x0, y0, x1, y1 = map(int, mask_box(mask))
    np.testing.assert_array_equal(_mask(dog), mask[y0:y1, x0:x1])
    assert dog["bounding_box"] == [
        *(x0 / WIDTH, y0 / HEIGHT),
        *((x1 - x0) / WIDTH, (y1 - y0) / HEIGHT),
    ]
    assert (dog["label"], dog["votes"]) == ("dog", ["eva", "codetr", "owl"])
    assert (glass["label"], "mask" in glass, glass["confidence"]) == ("wine glass", False, 0.4)
    assert (fence["floating"], fence["confidence"]) == (True, None)
    assert sample["caption"] == DENSE
    for phrase in sample["phrases"]["classifications"]:
        assert DENSE[phrase["start"] : phrase["end"]] == phrase["label"]
    assert sample["landmark"] == "Outdoor scene / Rural landscape"
    assert (summary.counts["objects"], summary.counts["masks"]) == (5, 3)


def test_samples_without_copies_refer_to_the_files(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    export_fiftyone(make_items(photos), tmp_path / "out")
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert all(Path(sample["filepath"]).parent == photos for sample in samples)
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.slow
def test_fiftyone_reads_the_dataset(tmp_path: Path) -> None:
    python = os.environ.get("GLAMM_FIFTYONE_PYTHON")
    if not python:
        pytest.skip("GLAMM_FIFTYONE_PYTHON names no Python that has the package fiftyone")
    export_fiftyone([make_item("a.jpg"), make_item("b.jpg")], tmp_path / "out", images="copy")
    done = subprocess.run(
        [python, "-c", READ, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.rpartition("JSON")[2])
    assert [row["image_id"] for row in rows] == ["a.jpg", "b.jpg"]
    mask = mask_array(2, 3, 20, 23)
    x0, y0, x1, y1 = map(int, mask_box(mask))
    assert rows[0]["objects"][0]["mask"] == mask[y0:y1, x0:x1].astype(int).tolist()
    assert rows[0]["caption"] == DENSE
    assert [DENSE[start:end] for _, start, end, _ in rows[0]["phrases"]] == [
        phrase for phrase, *_ in rows[0]["phrases"]
    ]
