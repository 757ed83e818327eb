"""Checkpoints restore the state bit for bit, are kept as configured, and refuse other models."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from orbax.checkpoint._src.metadata import checkpoint as metadata_checkpoint

from glamm_jax.config.experiment import CheckpointConfig
from glamm_jax.training.checkpoint import (
    Checkpoints,
    load_trained_leaves,
)
from glamm_jax.training.run_folder import RunError
from glamm_jax.training.state import TrainState

DATA = {"mixture": [0], "shards": {"0": {"position": 7, "waiting": [3], "counts": {"cut": 1}}}}


def state(step: int, width: int = 3, name: str = "kernel") -> TrainState:
    values = jnp.arange(width, dtype=jnp.float32) * step + 1 / 3
    trainable = nnx.State({"layer": {name: nnx.Param(values)}})
    moments = {"llama": ({"mu": {f"layer.{name}": values * jnp.nan}, "count": jnp.asarray(step)},)}
    return TrainState(jnp.asarray(step, jnp.int32), trainable, moments)


@contextmanager
def opened(run: Path, **options: object) -> Iterator[Checkpoints]:
    config = CheckpointConfig(**options)  # type: ignore[arg-type]  # of this test
    with closing(Checkpoints(run / "checkpoints", config)) as checkpoints:
        yield checkpoints


def save(checkpoints: Checkpoints, step: int, **scores: float) -> None:
    save_and_wait(checkpoints, state(step), **scores)


def save_and_wait(checkpoints: Checkpoints, saved: TrainState, **scores: float) -> None:
    assert checkpoints.save(saved, DATA, "base", scores)
    checkpoints.wait()


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        save(checkpoints, 4)
        assert not checkpoints.save(state(4), DATA, "base", {})  # it is there already
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest == 4
        restored = checkpoints.restore(4, state(9), "base")
    assert restored.loader_state == DATA
    leaves = zip(jax.tree.leaves(restored.state), jax.tree.leaves(state(4)), strict=True)
    for value, expected in leaves:
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    leaves, base = load_trained_leaves(tmp_path)
    assert base == "base"
    np.testing.assert_array_equal(leaves["layer.kernel"], state(4).trainable["layer"]["kernel"])


@pytest.mark.parametrize(
    ("best", "expected"),
    [("loss", ["1", "4", "5"]), ("miou", ["2", "4", "5"])],
    ids=["least", "most"],
)
def test_the_newest_and_the_best_stay(tmp_path: Path, best: str, expected: list[str]) -> None:
    with opened(tmp_path, keep_last=2, keep_best=1, best_metric=best) as checkpoints:
        for step, loss, miou in ((1, 0.1, 0.3), (2, 0.5, 0.9), (3, 0.4, 0.5), (4, 0.3, 0.4)):
            save(checkpoints, step, loss=loss, miou=miou)
        save(checkpoints, 5, loss=0.2)  # without a validation
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert sorted(steps) == expected


def test_the_multiples_of_keep_every_stay_for_ever(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (4, 5, 6, 7)):  # two processes one after the other
        with opened(tmp_path, keep_last=1, keep_every=2) as checkpoints:
            for step in steps:
                save(checkpoints, step)
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert sorted(steps) == ["2", "4", "6", "7"]


@pytest.mark.parametrize(("best", "least"), [("ce", True), ("miou", False)])
def test_the_best_stays_after_the_run_was_resumed(tmp_path: Path, best: str, least: bool) -> None:
    scores = {1: 0.5, 2: 0.1 if least else 0.9, 3: 0.4, 5: float("nan"), 6: 0.3, 7: 0.35}
    options = {"keep_last": 1, "keep_best": 1, "best_metric": best}
    for step, score in scores.items():
        with opened(tmp_path, **options) as checkpoints:  # a new process each
            save(checkpoints, step, loss=0.2, **{best: score})
    with opened(tmp_path, **options) as checkpoints:
        save(checkpoints, 8, loss=0.2)  # no such score yet
        assert checkpoints.restore(2, state(9), "base").loader_state == DATA
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()]
    assert sorted(steps) == ["2", "8"]
    assert "layer.kernel" in load_trained_leaves(tmp_path, 2)[0]


def test_a_checkpoint_of_another_model_or_base_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 2)
        with pytest.raises(RunError, match=r"checkpoints/2: a checkpoint of another model: .* is"):
            checkpoints.restore(2, state(2, width=4), "base")
        with pytest.raises(RunError, match=r"lacks .*bias/value; .*has .*kernel/value in addition"):
            checkpoints.restore(2, state(2, name="bias"), "base")
        with pytest.raises(RunError, match="trained on other weights than the run now starts"):
            checkpoints.restore(2, state(2), "another")


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="checkpoints: no checkpoints"):
        load_trained_leaves(tmp_path)
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 2)
    with pytest.raises(RunError, match=r"no complete checkpoint 3; there are \[2\]"):
        load_trained_leaves(tmp_path, 3)


def test_a_failed_write_is_reported_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 2)
        full = OSError(28, "No space left on device")

        def fail(*_: object, **__: object) -> None:
            raise full

        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
        with pytest.raises(
            RunError, match=r"No space left on device; .*\. The last complete one is 2"
        ):
            checkpoints.wait()
        monkeypatch.undo()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the steps 2 and 4."""
    run = tmp_path_factory.mktemp("intact")
    with opened(run) as checkpoints:
        save(checkpoints, 2, loss=0.5)
        save(checkpoints, 4, loss=0.4)
    return run


def restored(run: Path) -> str:
    """Restore and export step 4; returns the message of the error, "" if both are intact."""
    expected, messages = state(4), []
    try:
        with opened(run) as checkpoints:
            result = checkpoints.restore(4, state(9), "base")
        for value, other in zip(jax.tree.leaves(result.state), jax.tree.leaves(expected)):  # noqa: B905
            np.testing.assert_array_equal(value, other)
        assert result.loader_state == DATA
    except RunError as error:
        messages.append(str(error))
    try:
        leaves, base = load_trained_leaves(run, 4)
        np.testing.assert_array_equal(leaves["layer.kernel"], expected.trainable["layer"]["kernel"])
        assert base == "base"
    except RunError as error:
        messages.append(str(error))
    assert len(messages) in (0, 2)
    assert all("\n" not in message for message in messages)
    return messages[0] if messages else ""


def test_every_damaged_byte_is_an_error_that_names_its_file(
    intact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(intact, run)
    files = sorted(path for path in (run / "checkpoints" / "4").rglob("*") if path.is_file())
    choose, num_errors = random.Random(0), 0
    for path in [*files, *choose.choices(files, k=12)]:
        content = path.read_bytes()
        damaged = bytearray(content)
        kind = choose.choice(("flip", "cut", "add", "delete")) if content else "add"
        if kind == "flip":
            damaged[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged[: len(content) // 2] if kind == "cut" else damaged)
        if kind == "add":
            path.write_bytes(content + b"x")
        if kind == "delete":
            path.unlink()
        message = restored(run)
        if message:
            num_errors += 1
            assert message.startswith(f"{path}: "), (kind, message)
            assert "intact earlier checkpoint is 2" in message
        else:  # orbax writes the time of the commit and the text of this file at the commit
            assert path.name in ("_CHECKPOINT_METADATA", "commit_success.txt")
        path.write_bytes(content)
    assert num_errors > len(files)
    assert restored(run) == ""
    assert capfd.readouterr().err == ""  # orbax prints nothing


def test_metadata_that_orbax_writes_late_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax completes _CHECKPOINT_METADATA in a thread, which a busy machine may run late."""
    write = metadata_checkpoint._NonBlockingMetadataStore._update_and_log

    def write_late(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        write(*arguments, **options)

    monkeypatch.setattr(
        metadata_checkpoint._NonBlockingMetadataStore, "_update_and_log", write_late
    )
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 4)
        assert checkpoints.restore(4, state(9), "base").loader_state == DATA


def test_without_an_intact_checkpoint_the_run_can_start_again(intact: Path, tmp_path: Path) -> None:
    shutil.copytree(intact, tmp_path / "run")
    for step in ("2", "4"):
        (tmp_path / "run" / "checkpoints" / step / "about" / "metadata").write_text("{}")
    assert "No earlier checkpoint is intact: to start again" in restored(tmp_path / "run")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore's
def test_checkpoints_of_earlier_versions_have_no_checksums(
    intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(intact, run)
    folder = run / "checkpoints" / "4"
    (folder / "checksums.json").unlink()
    assert "checksums.json: is missing" in restored(run)
    (folder / "about" / "metadata").write_text('{"base": "base"}')
    capsys.readouterr()
    assert restored(run) == ""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "has no checksums (an earlier version wrote it); not verified" in lines[0]
    shutil.rmtree(folder / "state" / "d")
    shutil.rmtree(folder / "state" / "ocdbt.process_0")
    assert "checkpoints/4: cannot be restored: " in restored(run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore's
def test_what_tensorstore_cannot_write_is_one_line(tmp_path: Path) -> None:
    """A limit of the file size stands for a full disk; tensorstore raises ValueError for both."""
    big = state(3)._replace(opt_state={"mu": jax.random.normal(jax.random.key(0), (50_000,))})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 2)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            with pytest.raises(RunError, match=r"could not be written: .* complete one is 2; the"):
                save_and_wait(checkpoints, big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest == 2
        save(checkpoints, 3)
