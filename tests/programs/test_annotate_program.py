"""The program `annotate`: every command on six scenes, resuming, and unusable input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from glamm_jax.cli.annotate import COMMANDS, main
from glamm_jax.cli.annotate.export import FORMAT_OPTIONS
from glamm_jax.cli.annotate.stage_bars import progress_line
from glamm_jax.cli.progress import duration
from glamm_jax.grand.execution import StageProgress
from glamm_jax.grand.pipeline import PIPELINES, build_graph
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.scoring import METRICS

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "configs" / "annotate"
SCENES, SIZE, CHUNK = 6, 96, 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotate") / "scenes"
    options = ("--count", SCENES, "--world", "easy", "--size", SIZE)
    assert main(["scenes", str(folder), *map(str, options)]) == 0
    return folder


@pytest.fixture(scope="module")
def noisy_run(scenes: Path) -> Path:
    out = scenes.parent / "run"
    assert main(run_arguments(scenes, out)) == 0
    return out


def run_arguments(scenes: Path, out: Path, *options: object, roles: str = "noisy") -> list[str]:
    arguments = ("--out", out, "--roles", ROLES / f"{roles}.toml", "--workers", 1)
    return ["run", str(scenes / "images"), *map(str, (*arguments, "--chunk-size", CHUNK, *options))]


def stage_names(text: str) -> list[str]:
    found = re.search(r"^to compute: (.*)$", text, re.MULTILINE)
    return found[1].split(", ") if found else []


def test_there_is_a_test_of_every_command() -> None:
    names = ("run", "status", "inspect", "report", "export", "score", "presets", "scenes")
    elsewhere = ("review", "grandf")  # tests/grand/review, tests/grand/grandf
    assert set(COMMANDS) == {*names, *elsewhere}


# ------------------------------------------------------------------ run


def test_a_rerun_does_nothing_and_says_so(
    scenes: Path, noisy_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in noisy_run.glob("stages/**/*.jsonl")}
    capsys.readouterr()
    assert main(run_arguments(scenes, noisy_run)) == 0
    text = capsys.readouterr().out
    number = len(before) // 2
    assert f"{noisy_run}: 6 images in 2 chunks" in text
    assert f"finished: {number} of {number} stages" in text
    assert f"nothing to do: all {number} stages are finished" in text
    assert before == {path: path.stat().st_mtime_ns for path in noisy_run.glob("stages/**/*.jsonl")}


@pytest.mark.parametrize(
    ("option", "first"),
    [("masks.iou=0.6", "masks"), ("graph.max_objects=50", "scene_graph")],
)
def test_an_option_recomputes_the_stages_that_depend_on_it(
    option: str,
    first: str,
    scenes: Path,
    noisy_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(noisy_run, copy)
    capsys.readouterr()
    assert main(run_arguments(scenes, copy, "--set", option)) == 0
    computed = stage_names(capsys.readouterr().out)
    graph = build_graph(
        read_roles(ROLES / "noisy.toml", photographs=scenes / "images"), PIPELINES["paper"]
    )
    dependent = {first}
    for name, stage in graph.stages.items():
        if dependent.intersection(stage.all_inputs):
            dependent.add(name)
    assert set(computed) == dependent < set(graph.stages)
    # The settings of before need no computation: their results are still there.
    assert main(run_arguments(scenes, copy)) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_no_errors_without_noise_and_a_list_of_images(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("scene_000004.png\nscene_000001.png\n\nscene_000002.png\n")
    out = tmp_path / "run"
    options = ("--images", names, "--limit", 2)
    assert main(run_arguments(scenes, out, *options, roles="oracle")) == 0
    assert [x.image_id for x in AnnotationRun.open(out).images(0)] == [
        "scene_000001.png",
        "scene_000002.png",
    ]
    capsys.readouterr()
    assert main(["score", str(out), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["unknown_images"] == 0
    assert set(scores["metrics"]) == set(METRICS)
    assert {
        name: value for name, value in scores["metrics"].items() if value not in (1.0, None)
    } == {}
    assert set(scores["rates"].values()) == {0.0}
    # Another list of images needs another folder.
    assert main(run_arguments(scenes, out, "--limit", 3, roles="oracle")) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_metrics_that_do_not_apply_are_shown_with_the_reason(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without noise all others are 1.0, but for the search with the same case of the released."""
    out = tmp_path / "run"
    options = ("--preset", "released")
    assert main(run_arguments(scenes, out, *options, roles="oracle")) == 0
    capsys.readouterr()
    assert main(["score", str(out), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["metrics"]) == set(METRICS)
    differing = {name: value for name, value in scores["metrics"].items() if value != 1.0}
    recall = differing.pop("short_grounding_recall")
    assert 0.5 < recall < 1.0
    unused = ("relation_precision", "relation_recall", "verified_captions")
    assert differing == dict.fromkeys(unused)
    assert {*unused, "short_grounding_recall"} <= set(scores["notes"])
    assert main(["score", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^relation_recall +- ", text, re.MULTILINE)
    assert "relation_recall: relations.enabled is false, as in preset released" in text
    assert "short_grounding_recall: grounding.words is false" in text


def test_too_many_rejected_images_are_exit_status_1(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "world" / "images"
    shutil.copytree(scenes, photos.parent)
    for path in photos.glob("*.png"):
        if path.stem > "scene_000001":
            path.unlink()
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden").write_text("")
    out = tmp_path / "run"
    assert main(run_arguments(photos.parent, out)) == 1
    captured = capsys.readouterr()
    assert "left out: .hidden: hidden" in captured.err
    assert "1 of 3 images were rejected or failed" in captured.err
    assert main(run_arguments(photos.parent, out, "--allow-failures", 0.5)) == 0


def test_hours_for_a_number_of_images(
    scenes: Path, noisy_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    plan = ("--plan", 11_000_000, "--workers", 64, "--worker-price", 0.05)
    assert main(run_arguments(scenes, noisy_run, "--set", "masks.iou=0.5", *plan)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("11,000,000 images")
    assert lines[1].split() == ["stage", "on", "ms/image", "hours", "elapsed", "cost", "MiB"]
    (total,) = (line for line in lines if line.startswith("all "))
    hours, elapsed, cost, peak = (float(x.replace(",", "")) for x in total.split()[-4:])
    assert hours / 64 == pytest.approx(elapsed, abs=0.06)
    assert hours * 0.05 == pytest.approx(cost, abs=0.6)
    assert peak > 100
    assert lines[-1].startswith("bottleneck: ")
    wrong = (*plan[:-1], -1)
    assert main(run_arguments(scenes, noisy_run, *wrong)) == 2
    assert "worker_price" in capsys.readouterr().err


# ------------------------------------------------------------------ unusable input


def test_unusable_input_is_exit_status_2(
    scenes: Path, tmp_path: Path, noisy_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*arguments: object) -> str:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 2
        return capsys.readouterr().err

    roles = tmp_path / "roles.toml"
    roles.write_text('[detectors.a]\nclass = "orakle"\n')
    common = ("run", scenes / "images", "--out", tmp_path / "new", "--roles")
    assert "roles.toml: [detectors.a]: class = 'orakle'" in error_of(*common, roles)
    assert "no such file" in error_of(*common, tmp_path / "missing.toml")
    good = ROLES / "noisy.toml"
    text = error_of(*common, good, "--set", "fusion.min_surces=2")
    assert "did you mean steps.fusion.min_sources?" in text
    text = error_of(*common, good, "--set", "fusion.min_sources=9")
    assert "an object needs 9 models" in text
    for driver, option, message in (
        ("local", "--driver-option=auto", "--driver-option is for --driver beam and ray"),
        ("beam", "--devices=0", "--devices is not for --driver beam"),
        ("ray", "--driver-option=auto", "--driver-option auto: Ray has one, address=ADDRESS"),
        ("ray", "--devices=0,1", "--devices 0,1: with --driver ray, how many workers have a GPU"),
    ):
        assert message in error_of(*common, good, "--driver", driver, option)
    assert not (tmp_path / "new").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    text = error_of("run", scenes / "images", "--out", foreign, "--roles", good)
    assert "choose a new folder" in text
    assert [path.name for path in foreign.iterdir()] == ["letter.txt"]
    for command in ("status", "report", "score"):
        assert "not the folder of a run" in error_of(command, foreign)
    assert "not the folder of a run" in error_of("inspect", foreign, "a")
    text = error_of("inspect", noisy_run, "scene_3")
    assert "no image 'scene_3'; similar: scene_000003.png" in text
    text = error_of("export", noisy_run, "--format", "lmdb", "--out", tmp_path / "a", "--polygons")
    assert "--polygons is not for lmdb, but for yolo" in text
    text = error_of("run", tmp_path / "nothing", "--out", tmp_path / "new", "--roles", good)
    assert str(tmp_path) in text


# ------------------------------------------------------------------ the other commands


def test_status(noisy_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["status", str(noisy_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{noisy_run}: 6 images of {scenes / 'images'}"
    assert lines[1].split() == [
        *("stage", "done", "failed", "skipped", "rejected", "missing", "ms/image")
    ]
    assert any(line.split()[:6] == ["image", "6", "0", "0", "0", "0"] for line in lines)
    assert main(["status", str(noisy_run), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert {stage["missing"] for stage in stages} == {0}


def test_inspection_page(noisy_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["inspect", str(noisy_run), "scene_000002", "--out", str(out)]) == 0
    page = out.read_text()
    for title in (
        *("Objects", "What each model found", "Regions and depth", "Scene graph"),
        *("Short captions", "Dense caption", "Additional context", "Provenance"),
    ):
        assert f">{title}</h2>" in page
    assert "Answer 1 of" in page and "has it" in page and "verified" in page
    assert "eva-02-01" in page and "vicuna-13b" in page and "Group 0:" in page
    assert "not used: " in page or "floating object: " in page
    graph = {
        x["name"]: x["fingerprint"][:12] for x in AnnotationRun.open(noisy_run).graph_description()
    }
    assert all(fingerprint in page for fingerprint in graph.values())


def test_report_page(noisy_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    arguments = ["report", str(noisy_run), "--gallery", "3", "--out", str(out)]
    assert main(arguments) == 0
    page = out.read_text()
    assert page.count("<article>") == 3
    for title in ("Models that agree on an object", "Words of a dense caption"):
        assert title in page
    assert main(arguments) == 0
    assert out.read_text() == page


@pytest.mark.parametrize("name", [name for name in FORMAT_OPTIONS if name != "shards"])
def test_export(
    name: str, noisy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lmdb" if name == "lmdb" else "pyarrow")
    out = tmp_path / "out"
    capsys.readouterr()
    options = ("--min-votes", 2, "--unverified-captions", "--template-captions")
    arguments = ["export", str(noisy_run), "--format", name, "--out", str(out), *map(str, options)]
    assert main(arguments) == 0
    assert re.search(r"^images +6$", capsys.readouterr().out, re.MULTILINE)
    summary = json.loads((out / "export.json").read_text())
    assert summary["images"] == 6
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0


def test_export_of_record_shards(
    noisy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path, "--name", "own_scenes", "--validation-share", 0.0)
    capsys.readouterr()
    assert main(["export", str(noisy_run), "--format", "shards", *map(str, options)]) == 0
    assert re.search(r"^train: records +6$", capsys.readouterr().out, re.MULTILINE)
    assert [*tmp_path.rglob("*own_scenes*")]


def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    text = capsys.readouterr().out
    assert "fusion.min_sources\n    paper: 3   released: 2" in text
    assert "nms_iou" not in text
    assert main(["presets", "--all", "--match", "nms"]) == 0
    assert "merge.nms_iou\n    paper: 0.9   released: 0.9" in capsys.readouterr().out


def test_progress_in_a_log() -> None:
    line = progress_line(StageProgress("fusion", 300, 1000, 10.0, 100))
    assert line == "fusion: 300 of 1,000 images, 10.0/s, 1 min left"
    assert progress_line(StageProgress("fusion", 9, 9, 2.0, 9)).endswith("9 images, 4.5/s")
    assert [duration(x) for x in (4, 90, 12_000)] == ["4 s", "2 min", "3 h 20 min"]
