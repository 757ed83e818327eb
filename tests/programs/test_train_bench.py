"""The benchmark of the training loop runs, and batches are prepared while the devices compute."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bench import train
from bench.train import ArtificialDevices
from glamm_jax.training.state import TrainState

FIRST_STATE = TrainState(jnp.zeros((), jnp.int32), nnx.State({}), ())


def test_artificial_devices_work_off_one_step_after_another() -> None:
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: now)
        waits: list[float] = []
        patch.setattr("time.sleep", waits.append)
        devices = ArtificialDevices(2.0)
        losses = []
        for _ in range(2):
            losses.append(devices(None, FIRST_STATE, None)[1].loss)
        assert [loss.ready for loss in losses] == [2.0, 4.0]
        now = 3.0
        assert [loss.is_ready() for loss in losses] == [True, False]
        assert np.asarray(losses[1]) == 1.0
        assert waits == [1.0]


@pytest.mark.slow  # initializes a model, half a minute of processor time
def test_the_loop_prepares_batches_while_the_devices_compute(tmp_path: Path) -> None:
    """With steps longer than the preparation, what devices wait for is less than it."""
    options = train.parse(["--tiny", "--json", str(tmp_path / "train.json")])
    result = train.measure(options)
    assert result["seconds"] >= 0.999 * options.seconds
    assert result["images"] == train.IMAGES * train.ACCUMULATION_STEPS
    assert result["loop"] < 0.5 * options.seconds
    assert result["input"] <= result["prepared"]
