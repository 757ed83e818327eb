"""The files of GranD_f, from raw data to the importer and to the original's rules."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from annotate.__main__ import main
from glamm_jax.data import rle
from glamm_jax.data.sources.grandf import GranDfFlickr30k, GranDfOpenPSG, GranDfRefCOCOg
from glamm_jax.grand.adapters import NoiseOptions
from glamm_jax.grand.adapters.oracle_language import OracleLLM
from glamm_jax.grand.grandf.build_files import (
    BuildOptions,
    build_flickr30k,
    build_open_psg,
    build_refcocog,
)
from glamm_jax.grand.grandf.open_psg import shown_name, without_numbers
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, RoleError, RoleImage
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.miniworld.truth_folder import write_scenes
from tests.data.sources.small_datasets import FIXTURES, read_all, write

SIZE = 64
# pycocotools sets shapes in place
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRAIN = "GranDf/annotations/train"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grandf") / "scenes"
    write_scenes(folder, EASY, count=1, size=SIZE)
    return folder


def oracle(scenes: Path, **noise: float) -> OracleLLM:
    return OracleLLM(scenes, "llm", NoiseOptions(**noise))


def psg_data(root: Path, count: int = 3) -> Path:
    """OpenPSG with drawn scenes: segments are their objects and stuff."""
    entries = []
    for number in range(count):
        scene = render_scene(5, number, SIZE, EASY)
        shapes = [item.shape for item in scene.objects]
        masks = [scene.object_mask(i) for i in range(len(shapes))]
        ids, segments = np.zeros((SIZE, SIZE), np.int64), []
        for i, mask in enumerate(masks):
            ids[mask] = 70_000 + i
            segments.append({"id": 70_000 + i, "category_id": shapes_of().index(shapes[i])})
        ids[ids == 0] = 5
        segments.append({"id": 5, "category_id": len(shapes_of())})
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        png = io.BytesIO()
        Image.fromarray(rgb).save(png, "PNG")
        write(root / f"coco_2017/panoptic_train2017/{number}.png", png.getvalue())
        jpeg = io.BytesIO()
        Image.fromarray(scene.image).save(jpeg, "JPEG")
        write(root / f"coco_2017/train2017/{number}.jpg", jpeg.getvalue())
        last = len(segments) - 1
        entries.append(
            {
                "image_id": str(number),
                "coco_image_id": str(100 + number),
                "file_name": f"train2017/{number}.jpg",
                "pan_seg_file_name": f"panoptic_train2017/{number}.png",
                "height": SIZE,
                "width": SIZE,
                "segments_info": segments,
                "relations": [[i, last, 0] for i in range(last)] + [[0, 99, 0]],
            }
        )
    content = {
        "data": [*entries, "broken", {"image_id": "x"}],
        "thing_classes": shapes_of(),
        "stuff_classes": ["floor-other-merged"],
        "predicate_classes": ["standing on"],
        "test_image_ids": ["1"],
    }
    write(root / "psg.json", content)
    captions = {
        "images": [{"id": 100}],
        "annotations": [{"image_id": 100, "caption": "Things on a floor."}],
    }
    write(root / "coco_2017/annotations/captions_train2017.json", captions)
    return root


def shapes_of() -> list[str]:
    from glamm_jax.miniworld.shapes import SHAPES

    return list(SHAPES)


def link_images(source: Path, out: Path, *names: str) -> None:
    """Put the images of the data folder into the folder of the annotations."""
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to((source / name).resolve())


def test_expressions_become_captions(scenes: Path, tmp_path: Path) -> None:
    summary = build_refcocog(FIXTURES, "train", oracle(scenes), tmp_path)
    entries = json.loads((tmp_path / TRAIN / "RefCOCOg_GCG_train.json").read_text())
    assert summary.num_images == len(entries) > 1
    instances = json.loads((FIXTURES / "Refer_Segm/refcocog/instances.json").read_text())
    polygons = [item["segmentation"] for item in instances["annotations"]]
    for entry in entries:
        ((_, fields),) = entry.items()
        for ref in fields["refs"]:
            # The original searches the lower-cased caption.
            assert ref["sentence"].lower() in fields["caption"].lower()
            assert ref["segmentation"] in polygons
    link_images(FIXTURES / "Refer_Segm", tmp_path, "coco_2014")
    results = read_all(GranDfRefCOCOg(tmp_path, "train"))
    links = [
        link for x in results.values() if x.record for a in x.record.annotations for link in a.links
    ]
    assert len(links) == summary.num_phrases > 2


def test_relations_become_captions(scenes: Path, tmp_path: Path) -> None:
    data = psg_data(tmp_path)
    summary = build_open_psg(data, "train", oracle(scenes), tmp_path)
    entries = json.loads((tmp_path / TRAIN / "OpenPsgGCG_train.json").read_text())
    assert [entry["image_id"] for entry in entries] == ["0", "2"]
    assert summary.dropped["images: broken entry"] == 2
    assert summary.dropped["relations: broken"] == 2
    for entry in entries:
        scene = render_scene(5, int(entry["image_id"]), SIZE, EASY)
        truth = [rle.encode(scene.object_mask(i)) for i in range(len(scene.objects))]
        assert "-1" not in entry["caption"] and "merged" not in entry["caption"]
        for phrase, grounding in entry["groundings"].items():
            start, end = grounding["token_positives"]
            assert entry["caption"][start:end] == phrase
            (mask,) = grounding["rle_masks"]
            is_floor = phrase.lower().endswith("floor")
            assert coco.decode(mask).sum() and (is_floor or mask in truth)
    results = read_all(GranDfOpenPSG(tmp_path, "train"))
    assert all(result.record for result in results.values())
    val = build_open_psg(data, "val", oracle(scenes), tmp_path)
    assert val.num_images == 1


class BoxSegmenter:
    """The mask of a box is the box; some images fail."""

    name, fingerprint, needs_device, batch_size = "box", "box-1", False, 2

    def __init__(self, failing: Sequence[str] = ()):
        self.failing, self.calls = failing, 0

    def setup(self) -> None: ...

    def __call__(self, images: Sequence[RoleImage], boxes: Sequence[Any]) -> list[Any]:
        self.calls += 1
        if any(image.image_id in self.failing for image in images):
            raise RuntimeError("model crashed")
        return [
            [self._mask(image, box) for box in group]
            for image, group in zip(images, boxes, strict=True)
        ]

    def _mask(self, image: RoleImage, box: Any) -> Any:
        mask = np.zeros(image.pixels.shape[:2], bool)
        x0, y0, x1, y1 = map(round, box)
        mask[y0:y1, x0:x1] = True
        return rle.encode(mask)


def flickr_data(root: Path) -> Path:
    """Three images of Flickr30k, without masks."""
    content = json.loads((FIXTURES / TRAIN / "flickr_mergedGT_GCG_train.json").read_text())
    for annotation in content["annotations"]:
        annotation.pop("sam_mask", None)
    write(root / "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_train.json", content)
    for image in content["images"]:
        jpeg = io.BytesIO()
        Image.new("RGB", (image["width"], image["height"])).save(jpeg, "JPEG")
        write(root / "flikcr_30k/train" / image["file_name"], jpeg.getvalue())
    return root


def test_boxes_become_masks(tmp_path: Path) -> None:
    data = flickr_data(tmp_path)
    summary = build_flickr30k(data, "train", BoxSegmenter(), tmp_path)
    path = tmp_path / TRAIN / "flickr_mergedGT_GCG_train.json"
    content = json.loads(path.read_text())
    assert summary.num_images == len(content["images"]) > 1
    for annotation in content["annotations"]:
        x, _, width, height = annotation["bbox"]
        mask = coco.decode(annotation["sam_mask"])
        assert mask.any() and mask.sum() <= (width + 1) * (height + 1)
        assert coco.toBbox(annotation["sam_mask"])[0] == pytest.approx(max(x, 0), abs=1)
    results = read_all(GranDfFlickr30k(tmp_path, "train"))
    assert sum(len(x.record.regions) for x in results.values() if x.record) > 1
    assert path.read_bytes() == _rebuilt(data, path)


def _rebuilt(data: Path, path: Path) -> bytes:
    """Build once more from the results that are stored: the segmenter is not called."""
    segmenter = BoxSegmenter()
    build_flickr30k(data, "train", segmenter, data)
    assert segmenter.calls == 0
    return path.read_bytes()


def test_a_model_that_fails_on_an_image_is_tried_again(tmp_path: Path) -> None:
    data = flickr_data(tmp_path)
    summary = build_flickr30k(data, "train", BoxSegmenter(failing=["0"]), tmp_path)
    assert summary.dropped["images: model failed"] == 1
    assert summary.problems == {"0": "RuntimeError: model crashed"}
    segmenter = BoxSegmenter()
    again = build_flickr30k(data, "train", segmenter, tmp_path)
    assert segmenter.calls == 1
    assert again.num_images == summary.num_images + 1


class InterruptedLLM:
    """An oracle that is killed after some requests."""

    name, fingerprint, needs_device, batch_size = "llm", "llm-1", False, 1

    def __init__(self, llm: OracleLLM, limit: int):
        self._llm, self._limit, self.requests = llm, limit, 0

    def setup(self) -> None: ...

    def __call__(self, requests: Sequence[LLMRequest]) -> list[Any]:
        self.requests += len(requests)
        if self.requests > self._limit:
            raise KeyboardInterrupt
        return self._llm(requests)


def test_a_build_resumes(scenes: Path, tmp_path: Path) -> None:
    data, name = psg_data(tmp_path), f"{TRAIN}/OpenPsgGCG_train.json"
    complete = tmp_path / "complete"
    build_open_psg(data, "train", InterruptedLLM(oracle(scenes), 99), complete)
    with pytest.raises(KeyboardInterrupt):
        build_open_psg(data, "train", InterruptedLLM(oracle(scenes), 1), tmp_path)
    assert not (tmp_path / name).exists()
    log = tmp_path / "results/OpenPsgGCG_train.jsonl"
    with log.open("ab") as file:
        file.write(b'{"key": "2", "dig')  # a killed process
    llm = InterruptedLLM(oracle(scenes), 99)
    build_open_psg(data, "train", llm, tmp_path)
    assert llm.requests == 1
    assert (tmp_path / name).read_bytes() == (complete / name).read_bytes()


def test_what_captions_lack_is_counted(scenes: Path, tmp_path: Path) -> None:
    noisy = oracle(scenes, llm_inventions=1.0)
    summary = build_refcocog(FIXTURES, "train", noisy, tmp_path)
    assert summary.dropped["expressions: not in the caption"] > 0
    strict = build_refcocog(
        FIXTURES, "train", noisy, tmp_path / "strict", BuildOptions(complete_only=True)
    )
    assert strict.dropped["images: caption lacks an expression"] > 0
    assert strict.num_images < summary.num_images + summary.dropped["images: no grounded phrase"]


class FailingLLM:
    """Has an error for every request."""

    name, fingerprint, needs_device = "failing", "failing-1", False

    def setup(self) -> None: ...

    def __call__(self, requests: Sequence[LLMRequest]) -> list[LLMAnswer | RoleError]:
        return [RoleError("model", "no connection")] * len(requests)


def test_failed_requests_are_not_stored(tmp_path: Path) -> None:
    summary = build_refcocog(FIXTURES, "train", FailingLLM(), tmp_path)
    assert summary.dropped["images: model failed"] == len(summary.problems) > 1
    assert set(summary.problems.values()) == {"no connection"}
    assert (tmp_path / "results/RefCOCOg_GCG_train.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("caption", "text", "names"),
    [
        ("dog-1 sees a dog-2.", "Dog sees a dog.", ["Dog", "dog"]),
        ("On floor-other-merged-1 is Dog-1.", "On floor is dog.", ["floor", "dog"]),
        ("A cat-1 is new. dog-1!", "A cat-1 is new. Dog!", ["Dog"]),
    ],
)
def test_numbers_are_removed(caption: str, text: str, names: list[str]) -> None:
    entities = ("dog-1", "dog-2", "floor-other-merged-1")
    shown, spans = without_numbers(caption, dict.fromkeys(entities))
    assert shown == text
    assert [shown[start:end] for start, end, _ in spans] == names
    assert shown_name("tennis_racket-12") == "tennis racket"


def test_the_program(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text(f'[oracle]\nfolder = "{scenes}"\n[llm]\nclass = "oracle"\n')
    data = psg_data(tmp_path)
    options = ["--data", str(data), "--roles", str(roles), "--out", str(tmp_path / "out")]
    assert main(["grandf", "open-psg", *options, "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "OpenPsgGCG_train.json" in shown and "grounded phrases" in shown
    assert main(["grandf", "flickr30k", *options]) == 2
    assert "needs a table [segmenter]" in capsys.readouterr().err
    assert main(["grandf", "refcocog", *options]) == 2
    assert "Refer_Segm/refcocog" in capsys.readouterr().err


def test_damaged_masks_lose_their_image_only(scenes: Path, tmp_path: Path) -> None:
    data = psg_data(tmp_path)
    (data / "coco_2017/panoptic_train2017/0.png").write_bytes(b"no image")
    summary = build_open_psg(data, "train", oracle(scenes), tmp_path)
    assert summary.num_images == 1
    assert Counter(summary.dropped)["images: no panoptic segmentation"] == 1
    assert "0.png" in summary.problems["0"]
