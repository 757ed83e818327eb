"""Tasks for Label Studio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from glamm_jax.grand.export.label_studio import brush_runs, export_label_studio
from glamm_jax.grand.record import GrandCaption, GrandRecord, PhraseGrounding
from tests.grand.export.annotated import DENSE, DOG, FULL, make_item, make_items, mask_array


def _tasks(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("tasks-*.json"))
    return [task for path in files for task in json.loads(path.read_bytes())]


def _results(task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {x["id"]: x for x in task["predictions"][0]["result"] if "id" in x}


def test_a_task(tmp_path: Path) -> None:
    summary = export_label_studio(make_items(), tmp_path / "out")
    tasks = _tasks(tmp_path / "out")
    assert tasks[0]["data"] == {
        "image": "/data/local-files/?d=images/a.jpg",
        "caption": DENSE,
        "image_id": "a.jpg",
    }
    assert tasks[3]["data"]["image"].endswith("images/stra%C3%9Fe%20%E7%8A%AC.jpg")
    results = _results(tasks[0])
    assert list(results) == [
        *("object-0", "mask-0", "object-1", "object-4", "mask-4", "object-5", "mask-5"),
        *("object-6", "phrase-0", "phrase-1", "phrase-2", "phrase-3"),
    ]
    assert results["object-0"] == {
        "id": "object-0",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 64,
        "original_height": 48,
        "image_rotation": 0,
        "score": 0.9,
        "value": {
            "x": 3.125,
            "y": 6.25,
            "width": 28.125,
            "height": 41.666667,
            "rotation": 0,
            "rectanglelabels": ["dog"],
        },
    }
    assert "score" not in results["object-5"]
    assert results["phrase-1"]["value"] == {
        "start": DENSE.index("another"),
        "end": DENSE.index("another") + 17,
        "text": "another brown dog",
        "labels": ["phrase"],
    }
    relations = [x for x in tasks[0]["predictions"][0]["result"] if x["type"] == "relation"]
    assert [(x["from_id"], x["to_id"]) for x in relations] == [
        ("phrase-0", "object-0"),
        ("phrase-1", "object-4"),
        ("phrase-2", "object-1"),
        ("phrase-3", "object-5"),
    ]
    assert relations[0]["direction"] == "right" and relations[0]["labels"] == ["refers to"]
    # Where the dense caption is not exported, the task has the first short caption.
    assert tasks[2]["data"]["caption"] == "Two dogs beside a glass"
    assert summary.counts["relations"] == 12 and summary.counts["phrases"] == 12


def test_polygons_are_percent_of_the_image(tmp_path: Path) -> None:
    export_label_studio([make_item("a.jpg")], tmp_path / "out", tolerance=0.0)
    value = _results(_tasks(tmp_path / "out")[0])["mask-0"]["value"]
    assert value["polygonlabels"] == ["dog"] and value["closed"] is True
    points = np.array(value["points"]) * [0.64, 0.48]
    canvas = np.zeros((48 * 4, 64 * 4), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 4).astype(np.int32)], 1)
    assert np.array_equal(canvas[2::4, 2::4] > 0, mask_array(2, 3, 20, 23))


def _decoded(data: bytes) -> list[int]:
    """Values of Label Studio's run lengths, of runs and of single values."""
    bits, place = "".join(f"{byte:08b}" for byte in data), 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run = number(1)
        length = number(sizes[number(2)]) + 1
        values += [number(word)] * length if is_run else [number(word) for _ in range(length)]
    assert len(bits) - place < 8 and "1" not in bits[place:]
    return values


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (150, 200)])
def test_brush_masks(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random(shape) < 0.3, np.zeros(shape, bool), np.ones(shape, bool)):
        values = np.array(_decoded(brush_runs(mask)), np.uint8).reshape(*shape, 4)
        assert np.array_equal(values, np.repeat(mask[..., None] * np.uint8(255), 4, -1))


def test_brush_masks_in_a_task(tmp_path: Path) -> None:
    export_label_studio([make_item("a.jpg")], tmp_path / "out", masks="brush", as_annotations=True)
    (task,) = _tasks(tmp_path / "out")
    (mask,) = (x for x in task["annotations"][0]["result"] if x.get("id") == "mask-0")
    assert mask["type"] == "brushlabels" and mask["value"]["format"] == "rle"
    expected = list(brush_runs(mask_array(2, 3, 20, 23)))
    assert mask["value"]["rle"] == expected and mask["value"]["brushlabels"] == ["dog"]


def test_the_interface_has_all_labels(tmp_path: Path) -> None:
    label = replace(DOG, label='<b> & "dog"')
    items = [make_item("a.jpg"), make_item("b.jpg", GrandRecord(objects=(label,)))]
    for masks, tags in (
        ("none", ["RectangleLabels"]),
        ("polygon", ["RectangleLabels", "PolygonLabels"]),
        ("brush", ["RectangleLabels", "BrushLabels"]),
    ):
        export_label_studio(items, tmp_path / masks, masks=masks)
        root = ElementTree.parse(tmp_path / masks / "label_config.xml").getroot()
        for tag in tags:
            (element,) = root.iter(tag)
            values = [child.get("value") for child in element]
            assert values == ['<b> & "dog"', "dog", "fence", "shadow", "wine glass"]
            assert element.get("toName") == "image"
        assert [child.tag for child in root][1 : 1 + len(tags)] == tags


def test_spans_count_as_browsers_do(tmp_path: Path) -> None:
    text = "😀 a dog, and İstanbul dog"
    stale = PhraseGrounding("and istanbul dog", None, (0,), (DOG.box,))
    missing = PhraseGrounding("a cat", (2, 7), (0,), (DOG.box,))
    phrase = PhraseGrounding("a dog", (2, 7), (0, 0, 99), (DOG.box,) * 3)
    caption = GrandCaption(text, (phrase, missing, replace(stale, phrase="and İstanbul dog")))
    record = replace(FULL, dense_caption=caption)
    summary = export_label_studio([make_item("a.jpg", record)], tmp_path / "out")
    results = _results(_tasks(tmp_path / "out")[0])
    assert results["phrase-0"]["value"]["start"] == 3
    value = results["phrase-2"]["value"]
    assert text.encode("utf-16-le")[2 * value["start"] : 2 * value["end"]].decode("utf-16-le") == (
        "and İstanbul dog"
    )
    assert summary.dropped["phrases: not in the caption"] == 1 and summary.counts["relations"] == 2


def test_files_have_a_limited_number_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glamm_jax.grand.export.label_studio.TASKS_PER_FILE", 2)
    export_label_studio([make_item(f"{i}.jpg") for i in range(5)], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("tasks-*"))
    assert names == [f"tasks-0000{i}.json" for i in range(3)]
    assert [task["data"]["image_id"] for task in _tasks(tmp_path / "out")] == [
        f"{i}.jpg" for i in range(5)
    ]
