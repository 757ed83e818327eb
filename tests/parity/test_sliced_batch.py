"""A recorded batch, divided into slices among devices, has the recorded losses.

The recorded samples lie in slices of their own and other slices are empty, so the denominators of
the losses must be those of the whole batch: the mean of the slices' means is another number.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.data.collate import build_batch, collate, join_slices
from glamm_jax.parallel import make_mesh, shardings, use_mesh
from glamm_jax.training.losses import losses
from glamm_jax.training.placement import place_batch
from glamm_jax.types import BatchShape, Losses
from tools.parity.e2e import E2EFolder
from tools.parity.e2e_inputs import read_samples
from tools.parity.golden_model import golden_glamm
from tools.parity.report import ComparisonReport, RecordedFile

CASES = ("batch3", "region_and_seg")
NUM_SLICES = 8


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param((1, 1, 1), marks=pytest.mark.slow),
        pytest.param((2, 1, 1), marks=pytest.mark.slow),
        pytest.param((2, 2, 1), marks=pytest.mark.slow),
        pytest.param((2, 2, 2), marks=pytest.mark.slow),
        (2, 4, 1),
    ],
)
def test_slices_on_devices_have_the_recorded_losses(goldens: Path, mesh: tuple) -> None:
    path = goldens / "e2e_tiny1"
    folder = E2EFolder(path, ComparisonReport())
    graph, state = nnx.split(golden_glamm(folder.config, folder.salt))
    samples = {
        case: read_samples(RecordedFile.open(ComparisonReport(), "e2e", path / f"train_{case}.npz"))
        for case in CASES
    }
    each = [build_batch([x], folder.config).required_shape for xs in samples.values() for x in xs]
    shape = reduce(BatchShape.union, each)

    @jax.jit
    def compute(state: nnx.State, batch: Any) -> Losses:
        model = nnx.merge(graph, state)
        return losses(model, batch, model(batch), folder.weights)

    for case in CASES:
        parts = [[x] for x in samples[case]] + [[]] * (NUM_SLICES - len(samples[case]))
        slices = [collate(part, folder.config, shape) for part in parts[::-1]]
        with use_mesh(make_mesh(*mesh)):
            placed = jax.device_put(state, shardings(state))
            computed = compute(placed, place_batch(join_slices(dict(enumerate(slices)))))
        for name, loss in (("loss", computed.total), ("ce_loss", computed.ce)):
            recorded = folder.info.get(f"cases.{case}.losses.{name}")
            np.testing.assert_allclose(float(loss), recorded, rtol=1e-6, err_msg=f"{case} {name}")
