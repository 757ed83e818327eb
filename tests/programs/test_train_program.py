"""`python -m train` trains, records what it did, and reports unusable input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.cli.export import main as export_main
from glamm_jax.cli.report import main as report_main
from glamm_jax.cli.train import main
from glamm_jax.weights.folder import ModelFolder

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "small_experiment.py"
FIELDS = [
    *("step", "loss", "ce", "bce", "dice", "grad_norm", "grad_norms", "learning_rate"),
    *(
        "skipped",
        "images",
        "row_fill",
        "fill",
        "seconds",
        "input_seconds",
        "prepare_seconds",
        "goodput",
    ),
]


def read_metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_records_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["--config", str(SMALL), "--out", str(run), "--steps", "12", "--set", "seed=3"]
    assert main([*arguments, "--profile", "3:12"]) == 2
    assert "steps 3:12 cannot be profiled: the last step is 11" in capsys.readouterr().err
    assert main([*arguments, "--profile", "3:4"]) == 0
    printed = capsys.readouterr().err
    assert "step 1/12  loss" in printed  # the heartbeat
    assert "mesh: data 1 x fsdp 1 x tensor 1 = 1 device" in printed
    assert f"profile: {run / 'profile'}" in printed
    assert [*(run / "profile").rglob("*.xplane.pb")]
    metrics = read_metrics(run)
    assert [list(record) for record in metrics] == [FIELDS] * 12
    assert [record["step"] for record in metrics] == list(range(12))
    losses = [record["loss"] for record in metrics]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    config = json.loads((run / "config.json").read_text())
    assert config["optim"]["peak_lr"] == 1e-2
    assert config["model"]["lora"]["rank"] == 8
    names = {"config.json", "metrics.jsonl", "events.jsonl", "goodput.jsonl", "checkpoints"}
    assert {path.name for path in run.iterdir()} == {*names, "tensorboard", "profile"}
    assert main([*arguments[:-3], "13", *arguments[-2:]]) == 0  # resumes
    assert [record["step"] for record in read_metrics(run)] == list(range(13))
    assert read_metrics(run)[:12] == metrics
    assert main([*arguments, "optim.peak_lr=1"]) == 2
    assert "optim.peak_lr was 0.01, now 1.0" in capsys.readouterr().err
    check_report_and_export(run, tmp_path, capsys)


def check_report_and_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the page of the run and the exported model."""
    assert report_main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "polyline" in page
    assert "optim.peak_lr = 0.01" in page
    assert export_main([str(run), "--out", str(tmp_path / "model")]) == 0
    assert "glamm-jax ask --model" in capsys.readouterr().out
    leaves = ModelFolder(tmp_path / "model").leaves
    assert leaves["llama.lm_head.kernel"].shape == (64, 807)
    assert export_main([str(run), "--out", str(tmp_path / "other"), "--step", "99"]) == 2
    assert "no complete checkpoint 99; there are [12, 13]" in capsys.readouterr().err
    assert report_main([str(tmp_path / "nowhere")]) == 2
    assert "no steps yet, or no run" in capsys.readouterr().err


def test_a_plan_says_what_a_run_would_take_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(SMALL), "--plan"]) == 0
    printed = capsys.readouterr().out
    for words in ("lm_head", "optimizer", "TFLOP", "v5e"):
        assert words in printed
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        main(["--config", str(SMALL)])
    assert "give --out RUN, the folder of the run (or --plan)" in capsys.readouterr().err


@pytest.mark.slow
def test_fifty_steps_of_the_tiny_configuration_halve_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--config", "configs/tiny.py", "--out", str(tmp_path / "run")]) == 0
    losses = [record["loss"] for record in read_metrics(tmp_path / "run")]
    assert len(losses) == 50
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.py"], "nowhere.py: no such file"),
        (["--config", __file__], "has no function get_config()"),
        (["--set", "optim.peak_rl=1"], "did you mean optim.peak_lr?"),
        (["--set", "data.batch_shape.rows=0"], "BatchShape.rows = 0: must be positive"),
        (["--set", "data.tokenizer=nowhere"], "nowhere/tokenizer.model: no such file"),
        (["--set", "model.tokens.seg=3"], "the tokenizer does not belong to this model"),
        (["--steps", "31"], "31 steps requested, but optim.total_steps = 30"),
        (["--steps", "0"], "0 steps requested"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_before_anything_is_made(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(SMALL), "--out", str(run), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("train: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not run.exists()
