"""A run's files hold what happened, as JSON, whatever the numbers were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.cli.train_progress import line
from glamm_jax.training.metric_writers import Scalars
from glamm_jax.training.run_folder import RunError, RunFolder, read_lines
from tests.small_experiment import get_config

RECORD = {
    **dict.fromkeys(("loss", "ce", "bce", "dice", "grad_norm", "learning_rate"), 0.5),
    "step": 4,
    "grad_norms": {"llama": 0.25},
    "skipped": False,
    "seconds": 2.0,
    "input_seconds": 0.5,
    "pictures": {"ade20k": 1, "grand": 3},
}


def test_numbers_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics({"step": 0, "loss": float("nan"), "grad_norms": {"clip": float("inf")}})
    folder.event("skipped", 0, loss=float("-inf"))
    folder.close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [
        {"step": 0, "loss": None, "grad_norms": {"clip": None}}
    ]
    [event] = read_lines(tmp_path / "events.jsonl")
    assert (event["event"], event["step"], event["loss"]) == ("skipped", 0, None)


def test_lines_behind_a_checkpoint_are_forgotten_and_a_cut_one_with_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(5)) + '{"st')
    RunFolder(tmp_path).discard_steps_from(3)
    assert [each["step"] for each in read_lines(path)] == [0, 1, 2]
    path.write_text('{"step": 0}\nrubbish\n{"step": 1}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 2 is not JSON"):
        list(read_lines(path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file/run: cannot be made"):
        RunFolder(tmp_path / "file" / "run").claim(get_config())


def test_panels_are_pictures(tmp_path: Path) -> None:
    RunFolder(tmp_path).panels(7, [np.zeros((2, 3, 3), np.uint8)])
    assert (tmp_path / "panels" / "7" / "0.png").read_bytes().startswith(b"\x89PNG")


def test_watchers_get_the_mixture_since_the_beginning() -> None:
    scalars = Scalars()
    scalars.of(RECORD)
    found = scalars.of({**RECORD, "pictures": {"ade20k": 4}})
    assert found["mixture/ade20k"] == 5 / 8
    assert found["mixture/grand"] == 3 / 8
    assert found["grad_norm/llama"] == 0.25
    assert found["time/pictures_per_second"] == 2.0


def test_the_progress_line_says_losses_speed_and_waiting() -> None:
    shown = line([RECORD, RECORD, {**RECORD, "skipped": True}])
    assert "loss 0.500 ce 0.500 bce 0.500 dice 0.500" in shown
    assert "2.00 pictures/s" in shown
    assert "2.00 s/step" in shown
    assert "input 25%" in shown
    assert shown.endswith("SKIPPED")
