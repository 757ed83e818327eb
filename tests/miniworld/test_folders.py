"""Mini-worlds in the formats of real datasets: their readers find the truth, and no defect."""

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
from glamm_jax.miniworld import FULL, Scene, scene_record, render_scene
from glamm_jax.miniworld.annotations import referring_expressions, union_mask, text_rng
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
    """The records of a folder, in the order of the scenes, checked."""
    source = find_dataset(dataset)(root, split)
    found = {}
    for key in source.keys:
        read = source.read(key)
        assert read.defects == ()
        assert read.record is not None
        check_record(read.record)
        found[int(read.record.image_id.removeprefix("sa_"))] = read.record
    assert set(found) == {one.scene_id for one in scenes}
    return [found[one.scene_id] for one in scenes]


def _of(made: Record, task: str) -> list[Annotation]:
    return [annotation for annotation in made.annotations if annotation.task == task]


def _mask(made: Record, annotation: Annotation, start: int = -1) -> np.ndarray:
    """Union of what an annotation links from there."""
    linked = [made.regions[link.region] for link in annotation.links if link.start == start]
    runs = [{"size": [SIZE, SIZE], "counts": region.mask} for region in linked]
    return np.any([rle.decode(run) for run in runs], axis=0)


def _check_dense(one: Scene, made: Record) -> None:
    caption = dense_caption(one, text_rng(one))
    (grounded,) = _of(made, "gcg")
    assert grounded.text == caption.text
    spans = {(link.start, link.end) for link in grounded.links}
    assert spans == {(start, end) for start, end, _ in caption.phrases}
    for start, _, mentions in caption.phrases:
        np.testing.assert_array_equal(_mask(made, grounded, start), union_mask(one, mentions))


def test_grand_is_read_without_defects_and_true(tmp_path: Path, scenes: list[Scene]) -> None:
    write_grand(tmp_path / "world", scenes)
    counts: Counter[str] = Counter()
    for one, made in zip(scenes, _read("grand", tmp_path / "world", "train", scenes), strict=True):
        _check_dense(one, made)
        assert made.image == scene_record(one).image
        rng = text_rng(one)
        dense_caption(one, rng)
        short = short_captions(one, rng)
        assert [item.text for item in _of(made, "caption")] == [item.text for item in short]
        said = dict(referring_expressions(one, rng))
        for annotation in _of(made, "referring"):
            mentions = said[annotation.text]
            np.testing.assert_array_equal(_mask(made, annotation), union_mask(one, mentions))
        counts.update(annotation.task for annotation in made.annotations)
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
    assert depths == sorted(depths)  # things are in order of depth, and near is large
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
    for split, wanted in splits.items():
        for one, made in zip(
            wanted, _read("grandf_ha", tmp_path / "world", split, wanted), strict=True
        ):
            _check_dense(one, made)
            assert made.image == scene_record(one).image


def test_the_truth_of_grandf_is_what_the_evaluation_opens(
    tmp_path: Path, scenes: list[Scene], capsys: pytest.CaptureFixture[str]
) -> None:
    write_grandf(tmp_path / "world", {"val": scenes[:3]})
    folder = tmp_path / "world/GranDf/annotations/val_test"
    captions = COCO(str(folder / "val_gcg_coco_caption_gt.json"))
    truth = COCO(str(folder / "val_gcg_coco_mask_gt.json"))
    capsys.readouterr()
    assert "categories" not in captions.dataset
    for one in scenes[:3]:
        (told,) = captions.imgToAnns[f"sa_{one.scene_id}"]
        instances = truth.imgToAnns[f"sa_{one.scene_id}"]
        assert len(told["labels"]) == len(instances)
        for label, instance in zip(told["labels"], instances, strict=True):
            assert label in told["caption"]
            assert rle.decode(instance["segmentation"]).sum() == instance["area"]


def test_refcoco_is_read_without_defects_and_true(tmp_path: Path, scenes: list[Scene]) -> None:
    splits = {"train": scenes[:8], "val": scenes[8:]}
    write_refcoco(tmp_path / "world", splits)
    for split, wanted in splits.items():
        found = _read("refcoco", tmp_path / "world", split, wanted)
        for one, made in zip(wanted, found, strict=True):
            said = referring_expressions(one, text_rng(one))
            single = {text: m for text, m in said if len(m) == 1 and m[0].category == "thing"}
            assert {item.text for item in made.annotations} == set(single)
            for annotation in made.annotations:
                mask = union_mask(one, single[annotation.text])
                np.testing.assert_array_equal(_mask(made, annotation), mask)


def test_a_folder_holds_the_same_bytes_whenever_it_is_written(
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


def test_the_source_draws_what_it_is_asked_for() -> None:
    source = MiniWorldSource(Path(), "val", ids=range(3, 6), seed=1, size=SIZE)
    assert len(source.keys) == 3
    for i, key in enumerate(source.keys, 3):
        found = source.read(key)
        assert found.record == scene_record(render_scene(1, i, SIZE, FULL), "val")
        assert not found.defects
    other = MiniWorldSource(Path(), "val", ids=range(3, 6), seed=1, size=8)
    assert not set(source.keys) & set(other.keys)
    found = other.read(other.keys[0])
    assert found.record is None
    assert [defect.kind for defect in found.defects] == [DOES_NOT_FIT]
