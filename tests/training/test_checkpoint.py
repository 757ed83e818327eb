"""Checkpoints restore the state bit for bit, are kept as configured, and refuse other models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config.experiment import CheckpointConfig
from glamm_jax.training.checkpoint import Checkpoints, load_trained_leaves
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
    assert checkpoints.save(state(step), DATA, "base", scores)
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
