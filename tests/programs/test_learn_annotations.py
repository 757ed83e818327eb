"""Training on annotations: the steps are commands that exist, and the report compares the runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.learn_annotations import __main__ as program
from examples.learn_annotations.report import METRICS, report_text, run_scores
from glamm_jax.cli.annotate import parse as parse_annotate
from glamm_jax.cli.eval import parse as parse_eval
from glamm_jax.cli.train import load_config
from glamm_jax.cli.train import parse as parse_train
from glamm_jax.config.overrides import with_overrides
from glamm_jax.evaluation.scores import SCORES, RunScores, save_scores
from glamm_jax.metrics.result import MetricResult

ROOT = Path(__file__).parents[2]


def test_the_steps_are_commands_with_equal_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    steps = list(program.steps(tmp_path, "hard"))
    totals: dict[str, int] = {}
    for step in steps:
        if step.command[0] == "annotate":
            parse_annotate([*step.command[1:]])
        elif step.command[0] == "eval":
            assert parse_eval([*step.command[1:]]).out == step.output.parent
        elif step.command[0] == "train":
            options = parse_train([*step.command[1:]])
            config = with_overrides(load_config(ROOT / options.config), options.set)
            run = Path(options.out).name.rpartition("-")[0]
            totals[run] = totals.get(run, 0) + config.optim.total_steps
            source = "truth" if run == "no-pretraining" else run
            assert all(
                Path(part.dataset).is_relative_to(tmp_path / "annotated" / source)
                for part in config.data.mixture
            )
    assert len(set(totals.values())) == 1
    assert set(totals) == {"truth", "paper", "released", "no-pretraining"}
    assert 'noise = "hard"' in (tmp_path / "roles-hard.toml").read_text()
    assert len({step.output for step in steps}) >= len(steps) - len(totals) * 2


def test_the_report_compares_with_the_truth(tmp_path: Path) -> None:
    for run, value in (("truth", 0.8), ("paper", 0.76)):
        for benchmark in program.BENCHMARKS:
            values = {key: value for name, key in METRICS.values() if name == benchmark}
            scores = RunScores(benchmark, "train", {"compat": MetricResult(values)})
            save_scores(tmp_path / run / benchmark / SCORES, scores)
    scores = {run: run_scores(tmp_path / run) for run in ("truth", "paper")}
    text = report_text(scores)
    assert "| paper | 0.760 (95%) |" in text
    assert "| truth | 0.800 | 0.800 |" in text
