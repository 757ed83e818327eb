"""Roles whose results are in files: the contract, every format, and every kind of mistake."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.grand.adapters.prediction_roles.roles import (
    PredictionCaptioner,
    PredictionDenseCaptioner,
    PredictionDepthEstimator,
    PredictionDetector,
    PredictionLandmarkClassifier,
    PredictionProposer,
    PredictionTagger,
)
from glamm_jax.grand.role_files import RoleFileError, read_roles
from glamm_jax.grand.roles import Landmark, RoleError, RoleImage, Tag
from tests.grand.adapters.contract import AdapterCase, AdapterContract
from tests.grand.adapters.tiny_onnx import photographs

IMAGES = photographs(4)
LANDMARK = {"category": "Indoor scene", "fine_category": "Work space"}


def mask_of(image: RoleImage, box: tuple[int, int, int, int]) -> dict[str, Any]:
    mask = np.zeros(image.pixels.shape[:2], bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return rle.encode(mask)


def write_all(folder: Path) -> None:
    """Write every kind of file about `IMAGES`."""
    lines: dict[str, list[Any]] = {"detector": [], "tagger": [], "captioner": [], "landmark": []}
    coco: dict[str, Any] = {"images": [], "categories": [{"id": 7, "name": "dog"}]}
    results = []
    for name in ("grand", "sam", "grit", "depth", "distance", "captions"):
        (folder / name).mkdir(parents=True)
    for i, image in enumerate(IMAGES):
        stem, box = image.image_id[:-4], [1.5, 2, 20 + i, 21]
        detection = {"bbox": box, "score": 0.5 + i / 10, "label": "dog"}
        grand = {image.image_id: {"co_detr": [detection], "other": []}}
        (folder / "grand" / f"{stem}.json").write_text(json.dumps(grand))
        grit = {image.image_id: {"grit": [{"bbox": box, "score": 0.6, "description": "a dog"}]}}
        (folder / "grit" / f"{stem}.json").write_text(json.dumps(grit))
        region = {"bbox": [3, 4, 10, 12], "segmentation": mask_of(image, (3, 4, 13, 16))}
        sam = {"image": {"file_name": image.image_id}, "annotations": [region]}
        (folder / "sam" / f"{stem}.json").write_text(json.dumps(sam))
        height, width = image.pixels.shape[:2]
        depth = np.linspace(1, 2 + i, height * width, dtype=np.float32).reshape(height, width)
        np.save(folder / "depth" / f"{stem}.npy", depth)
        Image.fromarray((depth * 1000).astype(np.uint16)).save(folder / "distance" / f"{stem}.png")
        (folder / "captions" / f"{stem}.txt").write_text(f"Dog number {i}.\n")
        lines["detector"].append({"image": image.image_id, "detections": [detection]})
        lines["tagger"].append({"image": image.image_id, "tags": ["dog"], "scores": [i / 5]})
        lines["captioner"].append({"image": image.image_id, "caption": f"Dog number {i}."})
        lines["landmark"].append({"image": image.image_id, **LANDMARK})
        coco["images"].append({"id": 100 + i, "file_name": image.image_id})
        xywh = [1.5, 2, 18.5 + i, 19]
        results.append({"image_id": 100 + i, "category_id": 7, "bbox": xywh, "score": 0.5 + i / 10})
    for name, values in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in values))
    (folder / "coco.json").write_text(json.dumps(coco))
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predictions") / "files"
    write_all(path)
    return path


KINDS: dict[str, tuple[str, type[Any], dict[str, str]]] = {
    "grand": ("detector", PredictionDetector, {"path": "grand", "model": "co_detr"}),
    "coco": ("detector", PredictionDetector, {"path": "results.json", "images": "coco.json"}),
    "lines": ("detector", PredictionDetector, {"path": "detector.jsonl"}),
    "grit": ("dense_captioner", PredictionDenseCaptioner, {"path": "grit", "name": "grit"}),
    "sam": ("region_proposer", PredictionProposer, {"path": "sam"}),
    "tags": ("tagger", PredictionTagger, {"path": "tagger.jsonl"}),
    "captions": ("captioner", PredictionCaptioner, {"path": "captions"}),
    "caption lines": ("captioner", PredictionCaptioner, {"path": "captioner.jsonl"}),
    "landmark": (
        "landmark_classifier", PredictionLandmarkClassifier, {"path": "landmark.jsonl"},
    ),
    "depth": ("depth_estimator", PredictionDepthEstimator, {"path": "depth"}),
    "distance": (
        "depth_estimator", PredictionDepthEstimator, {"path": "distance", "meaning": "distance"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, folder: Path) -> AdapterCase:
    role, adapter, arguments = KINDS[request.param]
    paths = {k: str(folder / v) if k in ("path", "images") else v for k, v in arguments.items()}
    return AdapterCase(role, partial(adapter, **paths), IMAGES)


class TestPredictionRoles(AdapterContract):
    """All roles that read files."""


def test_three_formats_of_detections_have_the_same_content(folder: Path) -> None:
    results = [
        PredictionDetector(str(folder / "grand"), model="co_detr")(IMAGES),
        PredictionDetector(str(folder / "results.json"), images=str(folder / "coco.json"))(IMAGES),
        PredictionDetector(str(folder / "detector.jsonl"))(IMAGES),
    ]
    assert results[0] == results[1] == results[2]
    assert [x.box for x in results[0][2]] == [(1.5, 2.0, 22.0, 21.0)]


def test_values_are_those_of_the_files(folder: Path) -> None:
    assert PredictionTagger(str(folder / "tagger.jsonl"))(IMAGES)[1] == [Tag("dog", 0.2)]
    assert PredictionCaptioner(str(folder / "captions"))(IMAGES)[3] == "Dog number 3."
    place = PredictionLandmarkClassifier(str(folder / "landmark.jsonl"))(IMAGES)[0]
    assert place == Landmark(*LANDMARK.values())
    (region,) = PredictionProposer(str(folder / "sam"))(IMAGES)[0]
    assert region.box == (3.0, 4.0, 13.0, 16.0)
    near = PredictionDepthEstimator(str(folder / "depth"))(IMAGES)[0]
    assert (near[0, 0], near[-1, -1]) == (1.0, 2.0)
    path = str(folder / "distance")
    far = PredictionDepthEstimator(path, meaning="distance")(IMAGES)[0]
    assert far[0, 0] == pytest.approx(1 / 1000)
    assert far[0, 0] > far[-1, -1]


def detection(**changes: Any) -> list[dict[str, Any]]:
    return [{"bbox": [1, 2, 9, 9], "score": 0.5, "label": "dog"} | changes]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (detection(bbox=[1, 2, 400, 9]), "is outside of 70 x 40 pixels; the predictions may be"),
        (detection(bbox=[9, 2, 1, 9]), "is not a box"),
        (detection(bbox=[1, 2, 9]), "is not .x0, y0, x1, y1."),
        (detection(score=2), "score 2 is not in"),
        (detection(label=None), "a detection has no label"),
        (detection(segmentation={"size": [3, 3], "counts": [9]}), "the image is .40, 70."),
        (detection(segmentation={"size": [3, 3], "counts": [8]}), "the runs cover 8 pixels"),
        ("dog", "is not a list"),
        ([7], "is not an object"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_its_image(
    content: Any, message: str, tmp_path: Path
) -> None:
    for image, value in zip(IMAGES[:2], (content, detection()), strict=True):
        text = json.dumps({image.image_id: {"m": value}})
        (tmp_path / f"{image.image_id[:-4]}.json").write_text(text)
    first, second = PredictionDetector(str(tmp_path), "m")(IMAGES[:2])
    assert isinstance(first, RoleError)
    assert first.kind == "input"
    assert [x.box for x in second] == [(1.0, 2.0, 9.0, 9.0)]
    assert re.search(message, first.message)


def test_a_box_that_leaves_the_image_by_little_is_cut(tmp_path: Path) -> None:
    value = detection(bbox=[-1, 2, 71.5, 9]) + detection(bbox=[70.5, 2, 71, 9])
    (tmp_path / "0.json").write_text(json.dumps({"0.png": {"m": value}}))
    (result,) = PredictionDetector(str(tmp_path), "m")(IMAGES[:1])
    assert [x.box for x in result] == [(0.0, 2.0, 70.0, 9.0)]


def test_a_file_of_another_image_or_model_is_an_error(folder: Path, tmp_path: Path) -> None:
    (result,) = PredictionDetector(str(folder / "grand"), "eva")(IMAGES[:1])
    assert "has no key 'eva'; there are: co_detr, other" in result.message
    for image_id, message in (
        ("0.jpg", "has no key '0.jpg'"),
        ("b/0.png", "has no file b/0.json"),
        ("../sam/0.png", "leads out of the folder"),
    ):
        (result,) = PredictionDetector(str(folder / "grand"), "co_detr")(
            [RoleImage(image_id, IMAGES[0].pixels)]
        )
        assert isinstance(result, RoleError)
        assert re.search(message, result.message)
    (result,) = PredictionProposer(str(folder / "sam"))([RoleImage("0.jpg", IMAGES[0].pixels)])
    assert "is about '0.png'" in result.message


def test_a_depth_map_of_another_size_is_an_error(tmp_path: Path) -> None:
    image = IMAGES[0]
    for array, message in (
        (np.zeros((3, 3)), r"\[3, 3\] of float64; numbers of \[40, 70\]"),
        (np.full((40, 70), np.nan), "not finite"),
        (np.zeros((40, 70), bool), "of bool"),
        (np.asarray([None]), "Python objects"),
    ):
        np.save(tmp_path / "0.npy", array)
        (result,) = PredictionDepthEstimator(str(tmp_path))([image])
        assert isinstance(result, RoleError)
        assert re.search(message, result.message)
    (tmp_path / "0.npy").unlink()
    Image.new("RGB", (70, 40)).save(tmp_path / "0.png")
    (result,) = PredictionDepthEstimator(str(tmp_path))([image])
    assert "has colours" in result.message


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    write_all(tmp_path / "a")
    make = partial(PredictionDetector, str(tmp_path / "a/grand"), "co_detr")
    before = make().fingerprint
    assert make().fingerprint == before
    (tmp_path / "a/grand/0.json").write_text("{}")
    assert make().fingerprint != before
    assert make(version="1").fingerprint == make(version="1").fingerprint != before
    line = partial(PredictionDetector, str(tmp_path / "a/detector.jsonl"))
    before = line().fingerprint
    with (tmp_path / "a/detector.jsonl").open("a") as file:
        file.write("\n")
    assert line().fingerprint != before


def test_a_file_of_roles_names_files(folder: Path) -> None:
    path = folder / "roles.toml"
    path.write_text(
        '[detectors.co_detr]\nclass = "files"\npath = "grand"\n'
        '[region_proposer]\nclass = "files"\npath = "sam"\n'
    )
    roles = read_roles(path)
    assert len(roles.detectors["co_detr"](IMAGES)) == 4
    for line, message in (
        ('path = "none"', "none: no such file or folder"),
        ('path = "grand"\nmodels = "x"', "no key 'models'; did you mean model?"),
    ):
        path.write_text(f'[detectors.a]\nclass = "files"\n{line}\n')
        with pytest.raises(RoleFileError, match=message):
            read_roles(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"image": "a"}\n{"image": "a"}\n', "line 2: there is another line about 'a'"),
        ("a.jsonl", "[]\n", "line 1: .* is not an object"),
        ("a.jsonl", '{"detections": []}\n', "line 1: no field 'image'"),
        ("a.txt", "", "is neither a folder nor a .jsonl file"),
        ("a.json", "[]", "is neither a folder nor a .jsonl file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    role = PredictionDetector(str(tmp_path / name))
    with pytest.raises(Exception, match=message) as error:
        role.setup()
    assert str(tmp_path / name) in str(error.value)


def test_results_of_coco_name_known_images_and_categories(tmp_path: Path) -> None:
    write_all(tmp_path / "a")
    path = tmp_path / "a/results.json"
    for changes, message in (
        ({"image_id": 7}, r"\[0\]: image_id 7 is not in"),
        ({"category_id": 1}, r"\[0\]: category_id 1 is not in"),
        ({"bbox": [1, 2]}, r"\[0\]: bbox is not"),
        ({"score": None}, r"\[0\]: no field 'score'"),
    ):
        value = {"image_id": 100, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5} | changes
        path.write_text(json.dumps([value]))
        with pytest.raises(Exception, match=message):
            PredictionDetector(str(path), images=str(tmp_path / "a/coco.json")).setup()
