"""A run in a bucket is the run on a disk, also after a kill at any moment of an upload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from glamm_jax.cli.export import main as export_main
from glamm_jax.cli.report import main as report_main
from glamm_jax.config.experiment import CheckpointConfig, ExperimentConfig
from glamm_jax.errors import FolderError
from glamm_jax.line_log import BucketLog
from glamm_jax.storage import AnyPath, delete, objects_below, put
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.training.checkpoint import DamagedCheckpointError, load_trained_leaves
from glamm_jax.training.loop import train
from glamm_jax.training.metric_writers import TensorBoard
from glamm_jax.training.run_folder import COMMITTED, EVENTS, METRICS, read_lines
from glamm_jax.weights.folder import ModelFolder
from tests.bucket_server import SlowServer
from tests.small_experiment import get_config

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 6, 3  # steps of a run and between its checkpoints


def config() -> ExperimentConfig:
    return replace(get_config(), checkpoint=CheckpointConfig(every=EVERY, keep_last=2))


def run(folder: AnyPath, steps: int = STEPS, **options: object) -> list[dict]:
    return list(train(config(), folder, steps, **options))


def losses(folder: AnyPath) -> list[float]:
    return [line["loss"] for line in read_lines(folder / METRICS)]


def event_names(folder: AnyPath) -> list[str]:
    return [line["event"] for line in read_lines(folder / EVENTS)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the disk."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    run(folder)
    return folder


def largest(checkpoint: epath.Path) -> str:
    objects = objects_below(checkpoint)
    return max(objects, key=lambda name: objects[name].size)


def assert_same(folder: AnyPath, unbroken: Path) -> None:
    assert losses(folder) == losses(unbroken)
    leaves, expected = (load_trained_leaves(x, STEPS)[0] for x in (folder, unbroken))
    assert leaves.keys() == expected.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_run_that_is_killed_continues_bit_exactly(
    bucket: epath.Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bucket / "runs" / "a"
    records = train(config(), folder, metric_writers=[TensorBoard(folder / "tensorboard")])
    for _ in range(EVERY + 1):
        next(records)
    # The process ends here: nothing more is written, and its lock stays.
    assert len(losses(folder)) == EVERY  # those that the checkpoint covers
    with pytest.raises(FolderError, match="is being written by process"):
        run(folder)
    monkeypatch.setattr(BucketLog, "flush", lambda self: None)
    records.close()
    monkeypatch.undo()
    put(folder / "checkpoints" / str(STEPS) / "state" / "left-behind", b"of an interrupted upload")
    run(folder)
    assert_same(folder, unbroken)
    assert event_names(folder) == ["started", "placed", "resumed_from", "placed", "saved"]
    names = [*objects_below(folder)]
    assert "run.lock" not in names
    assert not [name for name in names if name.endswith((".part", "left-behind"))]
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not Path("gs:").exists()
    assert report_main([str(folder)]) == 0
    assert "polyline" in (folder / "report.html").read_text()
    for source, target in ((folder, bucket / "model"), (unbroken, tmp_path / "model")):
        assert export_main([str(source), "--out", str(target)]) == 0
    exported, expected = ModelFolder(bucket / "model"), ModelFolder(tmp_path / "model")
    assert exported.infos == expected.infos
    for name in exported.infos:
        np.testing.assert_array_equal(exported.read(name), expected.read(name), err_msg=name)
    assert load_tokenizer(bucket / "model").size == load_tokenizer(tmp_path / "model").size


def test_damage_is_named_and_an_earlier_checkpoint_is_taken(
    bucket: epath.Path, unbroken: Path
) -> None:
    folder = bucket / "b"
    run(folder)
    checkpoint = folder / "checkpoints" / str(STEPS)
    name = largest(checkpoint)
    content = bytearray((checkpoint / name).read_bytes())
    content[0] ^= 1
    put(checkpoint / name, bytes(content))
    with pytest.raises(DamagedCheckpointError, match="has another size or checksum") as caught:
        run(folder)
    assert f"--from-step {EVERY}" in str(caught.value)
    run(folder, from_step=EVERY)
    assert_same(folder, unbroken)
    [aside] = {Path(x).parts[0] for x in objects_below(folder / "discarded")}
    moved = objects_below(folder / "discarded" / aside)
    assert {METRICS, f"{STEPS}/{COMMITTED}", f"{STEPS}/{name}"} <= moved.keys()
    delete(checkpoint / largest(checkpoint))
    with pytest.raises(DamagedCheckpointError, match="is missing"):
        load_trained_leaves(folder)


def test_a_bucket_that_does_not_exist_is_named_before_any_work() -> None:
    with pytest.raises(ValueError, match="there is no bucket no-such-bucket"):
        run(epath.Path("gs://no-such-bucket/run"))


KILLED_AT = (1, 4, 9, 16, 25)  # numbers of requests that write a checkpoint
COMMAND = [
    *(sys.executable, "-m", "train", "--config", "tests/small_experiment.py", "--set"),
    *(f"checkpoint.every={EVERY}", "checkpoint.keep_last=2", "--steps", str(STEPS)),
]


@pytest.mark.slow
def test_a_program_that_is_killed_during_an_upload_continues_bit_exactly(
    bucket: epath.Path, bucket_server: str, tmp_path: Path
) -> None:
    folder, processes, num_writes = bucket / "run", [], 0
    local = tmp_path / "unbroken"
    limit: int | None = None

    def count(path: str, body: bytes) -> None:
        nonlocal num_writes
        if "checkpoints" in path or b"checkpoints/" in body[:1000]:
            num_writes += 1
            if num_writes == limit:
                processes[-1].kill()

    server = SlowServer(bucket_server, 0.0, count)
    addresses = dict.fromkeys(("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), server.url)
    environment = os.environ | addresses | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    log = tmp_path / "log"
    for out, limit in ((local, None), *((folder, x) for x in KILLED_AT), (folder, None)):
        num_writes = 0
        command = [*COMMAND, "--out", str(out)]
        with log.open("a") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        processes.append(process)
        status = process.wait(timeout=1200)
        assert status == (-signal.SIGKILL if limit else 0), log.read_text()[-3000:]
    server.close()
    assert_same(folder, local)
    steps = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert steps == [str(EVERY), str(STEPS)]
