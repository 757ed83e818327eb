"""The part `pipeline` agrees with the recording, and every change of it is detected."""

from __future__ import annotations

import pytest

from tests.parity.tampering import change_array, change_json, copy_parts, failed_names, run
from tools.parity import pipeline

PARTS = ("pipeline", "fixtures", "tokenizer")


@pytest.mark.slow
def test_files_of_the_fixtures_give_the_recorded_losses_and_gradients(goldens):
    report = run(pipeline.check, goldens)
    assert report.failures == []
    assert sum(row.verdict == "equal" for row in report.rows) > 100
    assert all(row.note for row in report.rows if row.verdict == "excluded")


def test_every_change_is_detected(goldens, tmp_path):
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
