"""Files of roles whose models are all of transformers: the shipped one, a run with tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from glamm_jax.cli.annotate import main  # noqa: E402
from glamm_jax.grand.role_files import RoleFileError, read_roles  # noqa: E402
from glamm_jax.grand.run_folder import AnnotationRun  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
ROLES = """
[taggers.siglip2]
class = "transformers"
model = "siglip2"
threshold = 0.0
max_tags = 3
[detectors.rt_detr]
class = "transformers"
model = "rt_detr"
[detectors.d_fine]
class = "transformers"
model = "d_fine"
[open_detectors.owl]
class = "transformers"
model = "owlv2"
[open_detectors.dino]
class = "transformers"
model = "grounding_dino"
[dense_captioners.florence]
class = "transformers"
model = "florence"
max_new_tokens = 60
temperature = 2.0
[region_proposer]
class = "transformers"
model = "sam"
points_per_side = 2
min_iou = 0.1
min_stability = 0.0
[region_classifiers.clip]
class = "transformers"
model = "clip"
[depth_estimator]
class = "transformers"
model = "depth_anything"
[landmark_classifier]
class = "transformers"
model = "llava"
[captioners.blip2]
class = "transformers"
model = "blip2"
max_new_tokens = 8
[captioners.llava]
class = "transformers"
model = "llava"
max_new_tokens = 8
temperature = 1.0
[phrase_grounder]
class = "transformers"
model = "grounding_dino"
[region_captioner]
class = "transformers"
model = "florence"
max_new_tokens = 4
[label_chooser]
class = "transformers"
model = "siglip2"
[segmenter]
class = "transformers"
model = "sam_hq"
[llm]
class = "transformers"
model = "llama"
max_new_tokens = 8
"""


def test_the_shipped_file_names_all_roles_and_downloads_nothing() -> None:
    roles = read_roles(ROOT / "configs/annotate/transformers.toml")
    assert [field for field, value in vars(roles).items() if not value] == ["checker"]
    assert roles.detectors["co_detr"].name == "co_detr"
    assert roles.llm is not None and roles.llm.name == "qwen3-8b"


def test_a_kind_without_an_adapter_for_the_role_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text('[text_parser]\nclass = "transformers"\n')
    with pytest.raises(RoleFileError, match="neither rules nor spacy nor"):
        read_roles(path)
    path.write_text('[llm]\nclass = "transformers"\nmodle = "x"\n')
    with pytest.raises(RoleFileError, match=r"no key 'modle'; did you mean model\?"):
        read_roles(path)


def _errors(folder: Path) -> list[str]:
    scenes = AnnotationRun.open(folder).scenes()
    return [f"{name}: {error}" for scene in scenes for name, error in scene.errors.items()]


@pytest.mark.slow
def test_all_roles_annotate_photographs(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program with one model of transformers, or more, in each role."""
    lines = [line for line in ROLES.splitlines() if line.startswith("model = ")]
    folders = {tiny_model(line.split('"')[1]).parent for line in lines}
    roles = folders.pop() / "roles.toml"
    roles.write_text(ROLES)
    photos = tmp_path / "photos"
    photos.mkdir()
    generator = np.random.default_rng(1)
    for k, size in enumerate(((48, 64), (64, 48))):
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    arguments = ["run", str(photos), "--out", str(tmp_path / "run"), "--roles", str(roles)]
    arguments += ["--workers", "1", "--set", "fusion.min_sources=1", "--set", "masks.min_box_iou=0"]
    assert main(arguments) == 0, _errors(tmp_path / "run")
    run = AnnotationRun.open(tmp_path / "run")
    status = {stage.name: stage for stage in run.status()}
    assert {name for name, stage in status.items() if stage.done != 2} == set()
    for scene in run.scenes():
        section = scene.sections["annotations"]
        assert section is not None
        record = section["record"]
        assert record["objects"]
        assert all("depth" in item and item["segmentation"] for item in record["objects"])
        assert len(record["short_captions"]) == 2
    status = {stage.name: stage.seconds for stage in run.status()}
    assert main(arguments) == 0
    assert {stage.name: stage.seconds for stage in run.status()} == status  # nothing is computed
