"""The part `pipeline` agrees with the recording, and every change of it is detected."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glamm_jax.types import Losses
from tests.parity.tampering import change_array, change_json, copy_parts, failed_names, run
from tools.parity import pipeline

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")
PARTS = ("pipeline", "fixtures", "tokenizer")


@pytest.mark.slow
def test_files_of_the_fixtures_give_the_recorded_losses_and_gradients(goldens):
    report = run(pipeline.check, goldens)
    assert report.failures == []
    assert sum(row.verdict == "equal" for row in report.rows) > 100
    assert all(row.note for row in report.rows if row.verdict == "excluded")


class RecordedRunner:
    """Gives the losses and gradient norms that were recorded, instead of the model's."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def __call__(self, samples):
        recorded = next(self._batches)
        norms = {name: np.array([norm]) for name, norm in recorded["grad_norms"].items()}
        return Losses(*(recorded["losses"][name] for name in LOSSES)), norms


def test_every_change_is_detected(goldens, tmp_path, monkeypatch):
    """The model computes these numbers in the slow test and in `make parity`."""
    described = json.loads((goldens / "pipeline" / "info.json").read_text(encoding="utf-8"))
    runner = RecordedRunner(described["batches"].values())
    monkeypatch.setattr(pipeline, "_Runner", lambda *arguments: runner)
    folder = copy_parts(goldens, tmp_path, *PARTS)
    part = folder / "pipeline"
    batches = ("batches",)
    for keys in (
        (*batches, "gcg", "input_ids", 0, 70),
        (*batches, "region", "labels", 1, -1),
        (*batches, "vg", "bboxes", 0, 1, 2),
        (*batches, "refseg", "losses", "ce_loss"),
        (*batches, "refseg", "resize", 1, 0),
        (*batches, "semseg", "grad_norms", "lm_head.weight"),
    ):
        change_json(part / "info.json", keys)
    change_array(part / "gcg.npz", "mask1")
    change_array(part / "vg.npz", "clip_pixels")
    assert failed_names(pipeline.check, folder) == {
        "batches.gcg.input_ids",
        "batches.region.labels",
        "batches.vg.bboxes",
        "batches.refseg.losses.ce_loss",
        "batches.refseg.resize",
        "batches.semseg.grad_norms.lm_head.weight",
        "mask1",
        "clip_pixels",
    }
