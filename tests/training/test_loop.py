"""A run resumes bit for bit, records what happened, and refuses what does not belong to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from glamm_jax.config.experiment import (
    CheckpointConfig,
    ExperimentConfig,
    InitConfig,
    MeshConfig,
    ValidationConfig,
)
from glamm_jax.data.loader import ReadSample, SampleReader, WorkerError
from glamm_jax.errors import FolderError, GLaMMError
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.training import loop
from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.initialization import load_trained_model
from glamm_jax.training.loop import ValidationResult, train
from glamm_jax.training.metric_writers import TensorBoard
from glamm_jax.training.run_folder import RunError, read_lines, read_run_config
from glamm_jax.training.step import CompiledStep
from glamm_jax.weights.folder import write_model
from tests.small_experiment import TOKENIZER, get_config

CONFIG = replace(
    get_config(),
    optim=replace(get_config().optim, max_skipped_steps=2),
    checkpoint=CheckpointConfig(every=2, keep_last=9),
)
STEPS = 5
SPIKE = 3
TIMES = ("seconds", "input_seconds", "prepare_seconds", "goodput")


def run(folder: Path, config: ExperimentConfig = CONFIG, steps: int = STEPS, **more: Any) -> list:
    return list(train(config, folder, steps, **more))


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_lines(folder / name)
    ]


def events(folder: Path, name: str) -> list[dict]:
    return [event for event in lines(folder, "events.jsonl") if event["event"] == name]


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """Return the content of a checkpoint: arrays by name, and the JSON items."""
    path = folder / "checkpoints" / str(step)
    content: dict[str, Any] = dict(load_trained_leaves(folder, step)[0])
    for item in ("data", "about"):
        content[item] = json.loads((path / item / "metadata").read_text())
    return content


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[name], err_msg=name)
        else:
            assert value == other[name], name


def cut_back(source: Path, target: Path, step: int) -> Path:
    """Copy a run as it is after it was killed some time after a checkpoint."""
    shutil.copytree(source, target)
    for path in (target / "checkpoints").iterdir():
        if path.is_dir() and path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    return target


@dataclass
class StepWithSpike:
    """A compiled step whose loss is not finite in step `SPIKE`."""

    program: CompiledStep

    def __call__(self, frozen: Any, state: Any, batch: Any) -> Any:
        if int(state.step) == SPIKE:
            frozen = jax.tree.map(_not_finite, frozen)
        return self.program(frozen, state, batch)

    def memory_analysis(self) -> Any:
        return self.program.memory_analysis()


@pytest.fixture(scope="module", autouse=True)
def loss_spike() -> Iterator[None]:
    """Every run has the spike."""
    original = loop.compile_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "compile_step", lambda *args: StepWithSpike(original(*args)))
        yield


def _not_finite(value: jax.Array) -> jax.Array:
    if not np.issubdtype(value.dtype, np.floating):
        return value
    return jax.device_put(np.full(value.shape, np.nan, value.dtype), value.sharding)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    run(folder)
    return folder


def test_checkpoints_come_when_due_and_at_the_end(unbroken: Path) -> None:
    assert [event["step"] for event in events(unbroken, "saved")] == [2, 4, 5]
    assert [event["step"] for event in events(unbroken, "started")] == [0]
    assert [line["step"] for line in lines(unbroken)] == [0, 1, 2, 3, 4]


def test_what_is_placed_is_recorded_with_the_memory_that_the_compiled_step_needs(
    unbroken: Path,
) -> None:
    [placed] = events(unbroken, "placed")
    assert (placed["mesh"], placed["idle_devices"]) == ({"data": 1, "fsdp": 1, "tensor": 1}, 7)
    assert (placed["rows_of_device"], placed["accumulation_steps"]) == (2, 1)
    parts = placed["parts"].values()
    kept = sum(part[name] for part in parts for name in ("frozen", "trainable", "optimizer"))
    batches = placed["max_batches"] * placed["batch_bytes"]
    assert placed["total_bytes"] == kept + batches + placed["step_bytes"]
    assert placed["step_bytes"] > placed["parts"]["lm_head"]["gradients"] > 0
    # 8 masks and 2 images of either encoder are most of a batch.
    assert placed["batch_bytes"] > 8 * 32 * 32 + 2 * (64 * 64 + 8 * 8) * 3
    assert placed["fill"] == lines(unbroken)[0]["fill"]
    assert 0 < placed["fill"]["tokens"] <= 1
    assert all(line["row_fill"] == line["fill"]["tokens"] for line in lines(unbroken))


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_goes_on_to_the_same_bits(unbroken: Path, tmp_path: Path, step: int) -> None:
    again = cut_back(unbroken, tmp_path / "again", step)
    with (again / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a truncated line
    (again / "checkpoints" / "5.orbax-checkpoint-tmp-7").mkdir()  # and a truncated checkpoint
    done = run(again)
    assert [record["step"] for record in done] == list(range(step, STEPS))
    assert [event["step"] for event in events(again, "resumed_from")] == [step]
    assert lines(again) == lines(unbroken)
    assert [record["skipped"] for record in done] == [x == SPIKE for x in range(step, STEPS)]
    skipped = events(again, "skipped")
    assert {event["step"] for event in skipped} == {SPIKE}
    assert all(event["records"] == skipped[0]["records"] for event in skipped)
    assert [checkpoint(again, done)["about"]["skipped"] for done in (2, 4, 5)] == [0, 1, 0]
    assert_same(checkpoint(again, STEPS), checkpoint(unbroken, STEPS))
    assert {path.name for path in (again / "checkpoints").iterdir()} == {"2", "4", "5"}


def test_a_damaged_checkpoint_is_refused_and_an_earlier_one_goes_on(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = cut_back(unbroken, tmp_path / "again", STEPS)
    data = again / "checkpoints" / "5" / "data" / "metadata"
    data.write_bytes(data.read_bytes().replace(b"position", b"positiom"))
    message = r"5/data/metadata: damaged, .*checkpoint is 4: .* add --from-step 4 to the same comm"
    with pytest.raises(RunError, match=message):
        run(again)
    assert lines(again) == lines(unbroken)
    with pytest.raises(RunError, match=r"5/data/metadata: damaged"):
        run(again, from_step=5)
    with pytest.raises(RunError, match=r"no complete checkpoint 3; there are \[2, 4, 5\]"):
        run(again, from_step=3)
    assert not (again / "discarded").exists()
    records = train(CONFIG, again, STEPS, from_step=4)
    next(records)
    with pytest.raises(FolderError, match=r"again: is being written by process \d+ on host"):
        run(again)
    list(records)
    assert_same(checkpoint(again, STEPS), checkpoint(unbroken, STEPS))
    assert lines(again) == lines(unbroken)
    [discarded] = (again / "discarded").iterdir()
    assert sorted(path.name for path in discarded.iterdir()) == ["5", "metrics.jsonl"]
    assert [line["step"] for line in lines(discarded)] == [0, 1, 2, 3, 4]
    assert f"later checkpoints and metrics: {discarded}" in capsys.readouterr().err
    assert [event["step"] for event in events(again, "went_back")] == [4]
    assert not (again / "run.lock").exists()


def test_a_killed_worker_and_dropped_records_end_with_a_checkpoint(
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed, read = RuntimeError("Worker process was terminated with exit code -9"), []
    original = SampleReader.__call__

    def last_reads(self: SampleReader, position: int, request: Any) -> ReadSample:
        read.append(position)
        if position > 8:
            raise killed
        sample = original(self, position, request)
        return sample._replace(notes=("dropped: it",), sample=None) if position == 3 else sample

    with monkeypatch.context() as patch:
        patch.setattr(SampleReader, "__call__", last_reads)
        with pytest.raises(WorkerError, match=r"a data worker was killed"):
            run(tmp_path / "run")
    num_done = len(lines(tmp_path / "run"))
    assert 2 < num_done < STEPS
    assert events(tmp_path / "run", "saved")[-1]["step"] == num_done
    [failed] = events(tmp_path / "run", "failed")
    assert "a data worker was killed" in failed["reason"]
    [dropped] = events(tmp_path / "run", "dropped")
    assert (dropped["reason"], dropped["count"]) == ("dropped: it", 1)
    *table, line = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"miniworld/easy@32: 1 of \d+ records dropped: it \(miniworld .*\)", line)
    assert table[0] == "mesh: data 1 x fsdp 1 x tensor 1 = 1 device (cpu), 7 idle"
    assert table[-1].startswith("filled in the first batch: rows ")
    run(tmp_path / "run", steps=num_done + 1)  # it resumes


def test_a_later_stop_is_the_same_run(unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", steps=3)
    run(tmp_path / "run")
    assert_same(checkpoint(tmp_path / "run", STEPS), checkpoint(unbroken, STEPS))
    assert run(tmp_path / "run") == []  # all done


@pytest.mark.slow  # compiles for two devices
def test_another_mesh_goes_on_from_the_same_parameters(tmp_path: Path) -> None:
    shape = replace(CONFIG.data.batch_shape, rows=1, images=1, grounding_images=1, masks=4)
    config = replace(CONFIG, data=replace(CONFIG.data, batch_slices=2, batch_shape=shape))
    alone = tmp_path / "alone"
    run(alone, config)
    again = cut_back(alone, tmp_path / "again", 4)
    [record] = run(again, replace(config, mesh=MeshConfig(fsdp=2, devices=2)))
    assert record["loss"] == pytest.approx(lines(alone)[4]["loss"], abs=1e-5)
    for name, value in load_trained_leaves(again, 4)[0].items():
        np.testing.assert_array_equal(value, load_trained_leaves(alone, 4)[0][name])


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (MeshConfig(data=2), "has 2 devices, but 8 are to be used.*set mesh.devices = 2"),
        (MeshConfig(data=16), "has 16 devices, but 8 are to be used"),
        (MeshConfig(fsdp=3), "data 2 x fsdp 3 x tensor 1 has 6 devices, but 8"),
        (MeshConfig(devices=9), "mesh.devices = 9, but there are 8 devices"),
        (MeshConfig(), "batch_slices = 1 cannot be divided among the 8 devices"),
    ],
)
def test_devices_that_the_mesh_or_the_batch_does_not_use_are_an_error(
    tmp_path: Path, mesh: MeshConfig, message: str
) -> None:
    with pytest.raises(GLaMMError, match=message):
        run(tmp_path / "run", replace(CONFIG, mesh=mesh))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(unbroken: Path, tmp_path: Path, number: int) -> None:
    records = train(CONFIG, tmp_path / "run", STEPS)
    next(records)
    before = signal.getsignal(number)
    os.kill(os.getpid(), number)
    rest = list(records)
    assert [record["step"] for record in rest] == [1]
    assert signal.getsignal(number) is not before
    [stopped] = events(tmp_path / "run", "stopped")
    assert stopped["reason"] == signal.Signals(number).name
    assert events(tmp_path / "run", "saved")[-1]["step"] == 2
    assert_same(checkpoint(tmp_path / "run", 2), checkpoint(unbroken, 2))


def test_a_changed_configuration_is_refused_and_a_changed_machine_is_not(
    unbroken: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()}
    slower = replace(CONFIG, optim=replace(CONFIG.optim, peak_lr=1e-3))
    with pytest.raises(RunError, match=r"optim\.peak_lr was 0\.01, now 0\.001"):
        run(unbroken, slower)
    other = replace(CONFIG, data=replace(CONFIG.data, mixture=CONFIG.data.mixture[:1]))
    message = r"data\.mixture\.1\.dataset was miniworld/easy@32, now None"
    with pytest.raises(RunError, match=message):
        run(unbroken, other)
    assert {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()} == before
    again = cut_back(unbroken, tmp_path / "again", 4)
    freer = replace(
        CONFIG,
        data=replace(CONFIG.data, prefetch=2),
        checkpoint=CheckpointConfig(every=1, keep_last=1),
    )
    run(again, freer)
    assert_same(checkpoint(again, STEPS), checkpoint(unbroken, STEPS))
    assert [path.name for path in (again / "checkpoints").iterdir()] == ["5"]
    assert read_run_config(again) == freer


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(RunError, match="contains files, but no run"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_noticed_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(RunError, match=r"a checkpoint needs 0\.\d\d GB, 0\.00 GB are free"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def model_folder(path: Path, run_folder: Path, scale: float = 1.0) -> Path:
    """Write the model of a run with scaled frozen weights."""
    with use_mesh(make_mesh()):  # as in a run: the program that initializes is compiled already
        config, model = load_trained_model(run_folder)
    model.projector.layers[0].kernel[...] *= scale
    write_model(path, config.model, model, TOKENIZER)
    return path


def test_steps_that_are_not_finite_are_skipped_named_and_in_the_end_too_many(
    unbroken: Path, tmp_path: Path
) -> None:
    broken = model_folder(tmp_path / "broken", unbroken, float("nan"))
    with pytest.raises(RunError, match=r"2 consecutive steps .* last is step 1\. events.jsonl"):
        run(tmp_path / "run", replace(CONFIG, init=InitConfig(model=str(broken))))
    records = lines(tmp_path / "run")
    assert [record["skipped"] for record in records] == [True, True]
    assert records[0]["loss"] is None
    skipped = events(tmp_path / "run", "skipped")
    assert [event["step"] for event in skipped] == [0, 1]
    assert all(name.startswith("miniworld ") for name in skipped[0]["records"])
    assert len(skipped[0]["records"]) == 2


def test_a_run_begins_with_a_model_and_goes_on_with_no_other(
    unbroken: Path, tmp_path: Path
) -> None:
    folders = [
        model_folder(tmp_path / name, unbroken, s) for name, s in (("one", 1.0), ("two", 1.1))
    ]
    first, second = (replace(CONFIG, init=InitConfig(model=str(path))) for path in folders)
    run(tmp_path / "run", first, steps=2)
    [record] = run(tmp_path / "run", first, steps=3)
    assert record["step"] == 2
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
    with pytest.raises(RunError, match="trained on other weights than the run now starts from"):
        run(tmp_path / "run", second, steps=4)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")} == before
    shutil.rmtree(folders[0])
    with pytest.raises(Exception, match="one: no such folder"):
        run(tmp_path / "run", first, steps=4)


def test_validation_runs_and_metric_writers_receive_it(tmp_path: Path) -> None:
    panel = np.full((4, 6, 3), 7, np.uint8)
    calls = []

    def validate(model: Any, step: int) -> ValidationResult:
        calls.append((type(model).__name__, step))
        return ValidationResult({"miou": step / 10}, (panel,))

    config = replace(
        CONFIG,
        validation=ValidationConfig(every=1, dataset="miniworld/easy@32"),
        checkpoint=CheckpointConfig(every=1, keep_last=1, keep_best=1, best_metric="miou"),
    )
    folder = tmp_path / "run"
    writers = [TensorBoard(folder / "tensorboard")]
    run(folder, config, 2, validate=validate, metric_writers=writers)
    assert calls == [("GLaMM", 1), ("GLaMM", 2)]
    assert [event["scores"] for event in events(folder, "validated")] == [
        {"miou": 0.1},
        {"miou": 0.2},
    ]
    assert (folder / "panels" / "2" / "0.png").is_file()
