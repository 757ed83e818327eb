"""A run in a bucket is the run on a disk, also after a kill at any moment of an upload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from glamm_jax.config.experiment import CheckpointConfig, ExperimentConfig
from glamm_jax.errors import FolderError
from glamm_jax.line_log import BucketLog
from glamm_jax.storage import AnyPath, delete, objects_below, put
from glamm_jax.training.checkpoint import DamagedCheckpointError, load_trained_leaves
from glamm_jax.training.loop import train
from glamm_jax.training.metric_writers import TensorBoard
from glamm_jax.training.run_folder import COMMITTED, EVENTS, METRICS, read_lines
from tests.small_experiment import get_config

STEPS = 4


def config() -> ExperimentConfig:
    experiment = get_config()
    optim = replace(experiment.optim, total_steps=STEPS, trainable="projector")
    return replace(experiment, optim=optim, checkpoint=CheckpointConfig(every=2, keep_last=2))


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


def assert_same(folder: AnyPath, unbroken: Path) -> None:
    assert losses(folder) == losses(unbroken)
    leaves, expected = (load_trained_leaves(x, STEPS)[0] for x in (folder, unbroken))
    assert leaves.keys() == expected.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_run_that_is_killed_continues_bit_exactly(
    bucket: epath.Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bucket / "runs" / "a"
    records = train(config(), folder, metric_writers=[TensorBoard(folder / "tensorboard")])
    for _ in range(3):
        next(records)
    # The process ends here: nothing more is written, and its lock stays.
    assert len(losses(folder)) == 2  # those that the checkpoint covers
    with pytest.raises(FolderError, match="is being written by process"):
        run(folder)
    monkeypatch.setattr(BucketLog, "flush", lambda self: None)
    records.close()
    monkeypatch.undo()
    put(folder / "checkpoints" / "4" / "state" / "left-behind", b"of an interrupted upload")
    run(folder)
    assert_same(folder, unbroken)
    assert event_names(folder) == ["started", "resumed_from", "saved"]
    names = [*objects_below(folder)]
    assert "run.lock" not in names
    assert not [name for name in names if name.endswith((".part", "left-behind"))]
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not Path("gs:").exists()


def test_damage_is_named_and_an_earlier_checkpoint_is_taken(
    bucket: epath.Path, unbroken: Path
) -> None:
    folder = bucket / "b"
    run(folder)
    checkpoint = folder / "checkpoints" / "4"
    name = max(objects := objects_below(checkpoint), key=lambda name: objects[name].size)
    content = bytearray((checkpoint / name).read_bytes())
    content[0] ^= 1
    put(checkpoint / name, bytes(content))
    with pytest.raises(DamagedCheckpointError, match="has another size or checksum") as caught:
        run(folder)
    assert "--from-step 2" in str(caught.value)
    run(folder, from_step=2)
    assert_same(folder, unbroken)
    [aside] = {Path(x).parts[0] for x in objects_below(folder / "discarded")}
    moved = objects_below(folder / "discarded" / aside)
    assert {METRICS, f"4/{COMMITTED}", f"4/{name}"} <= moved.keys()
    delete(checkpoint / name)
    with pytest.raises(DamagedCheckpointError, match="is missing"):
        load_trained_leaves(folder)


def test_a_bucket_that_does_not_exist_is_named_before_any_work() -> None:
    with pytest.raises(ValueError, match="there is no bucket no-such-bucket"):
        run(epath.Path("gs://no-such-bucket/run"))
