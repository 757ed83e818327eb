"""Mini-worlds in the formats of real datasets are read without defects and unchanged."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from glamm_jax.data import rle
from glamm_jax.data.record import Annotation, Record, check_record
from glamm_jax.data.sources.registry import find_dataset
from glamm_jax.errors import FolderError
from glamm_jax.miniworld import FULL, Scene, render_scene, scene_record
from glamm_jax.miniworld.annotations import referring_expressions, text_rng, union_mask
from glamm_jax.miniworld.captions import dense_caption, short_captions
from glamm_jax.miniworld.grand_folder import write_grand
from glamm_jax.miniworld.grandf_folder import write_grandf
from glamm_jax.miniworld.refcoco_folder import write_refcoco
from glamm_jax.miniworld.source import DOES_NOT_FIT, MiniWorldSource

SIZE, NUM_SCENES = 64, 12


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, i, SIZE, FULL) for i in range(NUM_SCENES)]


def _read(dataset: str, root: Path, split: str, scenes: list[Scene]) -> list[Record]:
    """Return the checked records of a folder in the order of the scenes."""
    source = find_dataset(dataset)(root, split)
    records = {}
    for key in source.keys:
        read = source.read(key)
        assert read.defects == ()
        assert read.record is not None
        check_record(read.record)
        records[int(read.record.image_id.removeprefix("sa_"))] = read.record
    assert set(records) == {scene.scene_id for scene in scenes}
    return [records[scene.scene_id] for scene in scenes]


def _of(record: Record, task: str) -> list[Annotation]:
    return [annotation for annotation in record.annotations if annotation.task == task]


def _mask(record: Record, annotation: Annotation, start: int = -1) -> np.ndarray:
    """Return the union of the regions that an annotation links from `start`."""
    linked = [record.regions[link.region] for link in annotation.links if link.start == start]
    runs = [{"size": [SIZE, SIZE], "counts": region.mask} for region in linked]
    return np.any([rle.decode(run) for run in runs], axis=0)


def _check_dense(scene: Scene, record: Record) -> None:
    caption = dense_caption(scene, text_rng(scene))
    (grounded,) = _of(record, "gcg")
    assert grounded.text == caption.text
    spans = {(link.start, link.end) for link in grounded.links}
    assert spans == {(start, end) for start, end, _ in caption.phrases}
    for start, _, entities in caption.phrases:
        np.testing.assert_array_equal(_mask(record, grounded, start), union_mask(scene, entities))


def test_grand_is_read_without_defects_and_true(tmp_path: Path, scenes: list[Scene]) -> None:
    write_grand(tmp_path / "world", scenes)
    counts: Counter[str] = Counter()
    for scene, record in zip(
        scenes, _read("grand", tmp_path / "world", "train", scenes), strict=True
    ):
        _check_dense(scene, record)
        assert record.image == scene_record(scene).image
        rng = text_rng(scene)
        dense_caption(scene, rng)
        short = short_captions(scene, rng)
        assert [item.text for item in _of(record, "caption")] == [item.text for item in short]
        expressions = dict(referring_expressions(scene, rng))
        for annotation in _of(record, "referring"):
            entities = expressions[annotation.text]
            np.testing.assert_array_equal(_mask(record, annotation), union_mask(scene, entities))
        counts.update(annotation.task for annotation in record.annotations)
    assert set(counts) == {"gcg", "referring", "region", "caption"}
    assert counts["referring"] > 3 * NUM_SCENES


def test_grand_has_every_field_of_the_release(tmp_path: Path, scenes: list[Scene]) -> None:
    write_grand(tmp_path / "world", scenes)
    with tarfile.open(tmp_path / "world/GranD_Data/annotations/part_1.tar") as archive:
        assert archive.getnames() == [f"sa_{i}.json" for i in range(NUM_SCENES)]
        stream = archive.extractfile("sa_3.json")
        assert stream is not None
        (name, entry), *_ = json.load(stream).items()
    assert name == "sa_3.jpg"
    assert set(entry) == {
        *("objects", "floating_objects", "floating_attributes", "landmark", "affordances"),
        *("id_counter", "relationships", "short_captions", "dense_caption", "additional_context"),
    }
    everything = entry["objects"] + entry["floating_objects"]
    assert [item["id"] for item in everything] == list(range(entry["id_counter"]))
    assert set(entry["objects"][0]) == {
        *("id", "bbox", "labels", "label", "score", "attributes", "depth"),
        *("segmentation", "segmentation_source"),
    }
    depths = [item["depth"] for item in entry["objects"]]
    assert depths == sorted(depths)  # objects are in the order of depth, and near is large
    for caption in (*entry["short_captions"], entry["dense_caption"]):
        for detail in caption["details"]:
            assert caption["caption"][slice(*detail["tokens_positive"])] == detail["phrase"]
    for detail in entry["dense_caption"]["details"]:
        assert detail["bbox"] == [everything[i]["bbox"] for i in detail["ids"]]
    for grounding in entry["relationships"]["grounding"]:
        assert set(grounding["object_ids"]) <= set(entry["relationships"]["object_ids"])


def test_grandf_is_read_without_defects_and_true(tmp_path: Path, scenes: list[Scene]) -> None:
    splits = {"train": scenes[:6], "val": scenes[6:9], "test": scenes[9:]}
    write_grandf(tmp_path / "world", splits)
    for split, expected in splits.items():
        for scene, record in zip(
            expected, _read("grandf_ha", tmp_path / "world", split, expected), strict=True
        ):
            _check_dense(scene, record)
            assert record.image == scene_record(scene).image


def test_references_of_grandf_are_read_by_pycocotools(
    tmp_path: Path, scenes: list[Scene], capsys: pytest.CaptureFixture[str]
) -> None:
    write_grandf(tmp_path / "world", {"val": scenes[:3]})
    folder = tmp_path / "world/GranDf/annotations/val_test"
    captions = COCO(str(folder / "val_gcg_coco_caption_gt.json"))
    truth = COCO(str(folder / "val_gcg_coco_mask_gt.json"))
    capsys.readouterr()
    assert "categories" not in captions.dataset
    for scene in scenes[:3]:
        (caption,) = captions.imgToAnns[f"sa_{scene.scene_id}"]
        instances = truth.imgToAnns[f"sa_{scene.scene_id}"]
        assert len(caption["labels"]) == len(instances)
        for label, instance in zip(caption["labels"], instances, strict=True):
            assert label in caption["caption"]
            assert rle.decode(instance["segmentation"]).sum() == instance["area"]


def test_refcoco_is_read_without_defects_and_true(tmp_path: Path, scenes: list[Scene]) -> None:
    splits = {"train": scenes[:8], "val": scenes[8:]}
    write_refcoco(tmp_path / "world", splits)
    for split, expected in splits.items():
        records = _read("refcoco", tmp_path / "world", split, expected)
        for scene, record in zip(expected, records, strict=True):
            expressions = referring_expressions(scene, text_rng(scene))
            single = {
                text: m for text, m in expressions if len(m) == 1 and m[0].category == "object"
            }
            assert {item.text for item in record.annotations} == set(single)
            for annotation in record.annotations:
                mask = union_mask(scene, single[annotation.text])
                np.testing.assert_array_equal(_mask(record, annotation), mask)


def test_a_folder_has_the_same_bytes_whenever_it_is_written(
    tmp_path: Path, scenes: list[Scene]
) -> None:
    hashes = []
    for name in ("one", "two"):
        write_grand(tmp_path / name / "grand", scenes)
        write_refcoco(tmp_path / name / "refcoco", {"train": scenes})
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        hashes.append(
            {
                str(path.relative_to(tmp_path / name)): hashlib.sha256(
                    path.read_bytes()
                ).hexdigest()
                for path in files
            }
        )
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1 + 2 * NUM_SCENES + 2


def test_an_unfinished_folder_is_not_left_behind(tmp_path: Path, scenes: list[Scene]) -> None:
    def broken() -> Iterator[Scene]:
        yield scenes[0]
        raise OSError("no space left on device")

    with pytest.raises(FolderError, match="world: cannot be written: no space left on device"):
        write_grand(tmp_path / "world", broken())
    assert not list(tmp_path.iterdir())


def test_the_source_renders_the_requested_scenes() -> None:
    source = MiniWorldSource(Path(), "val", ids=range(3, 6), seed=1, size=SIZE)
    assert list(source.keys) == [f"cdce059b-1-{i}" for i in range(3, 6)]  # keys never change
    for i, key in enumerate(source.keys, 3):
        result = source.read(key)
        assert result.record == scene_record(render_scene(1, i, SIZE, FULL), "val")
        assert not result.defects
    other = MiniWorldSource(Path(), "val", ids=range(3, 6), seed=1, size=8)
    assert not set(source.keys) & set(other.keys)
    result = other.read(other.keys[0])
    assert result.record is None
    assert [defect.kind for defect in result.defects] == [DOES_NOT_FIT]
