"""The part `e2e` agrees with the recording, and every change of it is detected.

One training case and one generation are run once; changed recordings are compared with their
results. `make parity` compares every case.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.data.collate import Sample, build_batch
from glamm_jax.types import Losses
from tests.parity.tampering import change_array, change_json
from tools.parity.e2e import E2EFolder, check
from tools.parity.e2e_eval import check_evaluations
from tools.parity.e2e_inputs import check_inputs, read_samples
from tools.parity.e2e_steps import (
    StepsResult,
    compare_steps,
    noise_parameters,
    read_steps,
    run_agreeing_steps,
)
from tools.parity.e2e_train import (
    TrainResult,
    TrainRunner,
    compare_case,
    compare_gradient_norms,
    compare_losses,
)
from tools.parity.golden_model import golden_glamm
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

NAME = "region_and_seg"


@dataclass
class TrainedCase:
    """One training case and its results, which can be compared with changed recordings."""

    folder: E2EFolder
    recorded: RecordedFile
    samples: list[Sample]
    result: TrainResult

    def compare(self, values: dict, info_values: dict) -> ComparisonReport:
        """Compare recordings, which may be changed ones, with the results."""
        report = ComparisonReport()
        recorded = RecordedFile(report, "e2e", self.recorded.file, values)
        info = RecordedFile(report, "e2e", "info.json", info_values)
        with recorded:
            read_samples(recorded)
            check_inputs(recorded, self.folder.config)
            compare_case(recorded, self.samples, self.result, self.folder.config)
        compare_losses(info, self.result.losses, "loss", f"cases.{NAME}.losses.")
        prefix = f"cases.{NAME}.grad_norm_sum_absmax."
        compare_gradient_norms(info, prefix, self.result.gradients)
        return report


@pytest.fixture(scope="module")
def trained_case(goldens: Path) -> TrainedCase:
    path = goldens / "e2e_tiny1"
    case = E2EFolder(path, ComparisonReport())
    recorded = RecordedFile.open(ComparisonReport(), "e2e", path / f"train_{NAME}.npz")
    samples = read_samples(recorded)
    model = golden_glamm(case.config, case.salt)
    runner = TrainRunner(model, case.weights, build_batch(samples, case.config).required_shape)
    return TrainedCase(case, recorded, samples, runner.run_agreeing(recorded, samples))


def test_a_training_case_with_regions_and_masks_agrees(trained_case: TrainedCase) -> None:
    report = trained_case.compare(trained_case.recorded.values, trained_case.folder.info.values)
    assert report.failures == []
    assert sum(row.verdict == "equal" for row in report.rows) > 200


@pytest.mark.parametrize(
    "entry",
    [
        "out/loss",
        "out/mask_dice_loss",
        "out/pred_masks0__val",
        "out/seg_embeddings0",
        "mid/logits__val",
        "mid/logits__stats",
        "mid/inputs_embeds__val",
        "mid/last_hidden_state__val",
        "mid/clip_hidden_-8__val",
        "mid/region_features0",
        "mid/region_fused_level0__val",
        "mid/sam_image_embeddings__val",
        "mid/low_res_masks0",
        "mid/iou_pred0",
        "mid/llm_attention_mask",
        "out/seg_token_mask_positions",
        "in/attention_mask",
        "in/resize_hw",
        "grad/lm_head.weight__val",
        "grad/model.region_encoder.roi_align.updims.weight",
    ],
)
def test_one_changed_number_is_detected(trained_case: TrainedCase, entry: str) -> None:
    values = dict(trained_case.recorded.values)
    changed = np.array(values[entry])
    if changed.dtype.kind == "b":
        changed.flat[0] ^= True
    else:
        changed.flat[changed.size // 2] += 1e-2 if changed.dtype.kind == "f" else 1
    values[entry] = changed
    base = next(n for n in trained_case.recorded.names if entry in (n, f"{n}__val", f"{n}__stats"))
    report = trained_case.compare(values, trained_case.folder.info.values)
    assert {row.name for row in report.failures} == {base}
    assert report.exit_code == 1


@pytest.mark.parametrize(
    "entry",
    [
        "losses.ce_loss",
        "grad_norm_sum_absmax.lm_head.weight",
        "grad_norm_sum_absmax.model.embed_tokens.weight",
    ],
)
def test_one_changed_number_of_the_description_is_detected(
    trained_case: TrainedCase, entry: str
) -> None:
    name = f"cases.{NAME}.{entry}"
    values = copy.deepcopy(trained_case.folder.info.values)
    if isinstance(values[name], list):
        values[name][0] += 1e-2
    else:
        values[name] += 1e-2
    report = trained_case.compare(trained_case.recorded.values, values)
    assert {row.name for row in report.failures} == {name}


def test_an_unknown_array_is_a_failure(trained_case: TrainedCase) -> None:
    values = {**trained_case.recorded.values, "mid/phlogiston": np.zeros(3)}
    report = trained_case.compare(values, trained_case.folder.info.values)
    assert [(row.name, row.verdict) for row in report.failures] == [("mid/phlogiston", "unknown")]


def test_a_missing_array_is_a_broken_file(trained_case: TrainedCase) -> None:
    values = {k: v for k, v in trained_case.recorded.values.items() if k != "out/loss"}
    with pytest.raises(GoldenError, match="out/loss"):
        trained_case.compare(values, trained_case.folder.info.values)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"__stats": [np.nan] * 5}, "not finite"),
        ({"__shape": [1.5, 594, 207]}, "not integers"),
        ({"": np.zeros(3)}, "both completely and sampled"),
    ],
)
def test_a_recording_that_contradicts_itself_is_detected(
    trained_case: TrainedCase, change: dict, note: str
) -> None:
    values = dict(trained_case.recorded.values)
    values |= {f"mid/logits{suffix}": np.array(value) for suffix, value in change.items()}
    failures = trained_case.compare(values, trained_case.folder.info.values).failures
    assert [row.name for row in failures] == ["mid/logits"]
    assert note in failures[0].note


def test_losses_that_do_not_add_up_are_detected_where_the_tolerance_is_wide() -> None:
    values = {"loss": 7.51, "ce_loss": 5.8, "mask_loss": 1.7}
    values |= {"mask_bce_loss": 1.4, "mask_dice_loss": 0.3}
    recorded = RecordedFile(ComparisonReport(), "e2e", "info.json", values)
    compare_losses(recorded, Losses(7.5, 5.8, 1.4, 0.3), "bf16_loss", "")
    assert {row.name for row in recorded.report.failures} == {"loss", "ce_loss"}


@dataclass
class ComputedSteps:
    """The recorded AdamW steps and their results, which can be compared with changed recordings."""

    recorded: RecordedFile
    result: StepsResult
    noise: set[str]

    def compare(self, values: dict) -> ComparisonReport:
        """Compare a recording, which may be a changed one, with the results."""
        report = ComparisonReport()
        with RecordedFile(report, "e2e", "train_steps.json", values) as recorded:
            read_steps(recorded)
            compare_steps(recorded, self.result, self.noise)
        return report


@pytest.fixture(scope="module")
def computed_steps(goldens: Path) -> ComputedSteps:
    path = goldens / "e2e_tiny1"
    case = E2EFolder(path, ComparisonReport())
    recorded = RecordedFile.open(ComparisonReport(), "e2e", path / "train_steps.json")
    names, optim = read_steps(recorded)
    files = {
        name: RecordedFile.open(ComparisonReport(), "e2e", path / f"train_{name}.npz")
        for name in names
    }
    samples = {name: read_samples(file) for name, file in files.items()}
    model = golden_glamm(case.config, case.salt)
    batches, noise = [samples[name] for name in names], noise_parameters(case.info, names)
    run = run_agreeing_steps(recorded, model, batches, optim, case.weights, noise)
    return ComputedSteps(recorded, run, noise)


@pytest.mark.slow
def test_eight_adamw_steps_agree_and_every_array_of_them_is_handled(
    computed_steps: ComputedSteps,
) -> None:
    report = computed_steps.compare(computed_steps.recorded.values)
    assert report.failures == []
    assert {row.name for row in report.rows} == set(computed_steps.recorded.names)
    compared = [row.name for row in report.rows if row.verdict == "equal"]
    assert sum(name.startswith("steps[") for name in compared) == 8 * 6
    assert sum(name.startswith("final_param_norms.") for name in compared) == 192 - 7
    assert all(name.endswith(".k_proj.bias") for name in computed_steps.noise)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "steps[7].loss",
        "steps[4].mask_dice_loss",
        "steps[2].grad_norm_before_clip",
        "final_param_norms.lm_head.weight",
        "final_param_norms.model.region_encoder.roi_align.updims.bias",
        "final_param_norms.model.grounding_encoder.mask_decoder.iou_token.weight",
    ],
)
def test_one_changed_number_of_the_steps_is_detected(
    computed_steps: ComputedSteps, name: str
) -> None:
    values = dict(computed_steps.recorded.values)
    values[name] *= 1.01
    assert {row.name for row in computed_steps.compare(values).failures} == {name}


def test_steps_of_an_impossible_optimizer_are_a_broken_file(goldens: Path) -> None:
    path = goldens / "e2e_tiny1" / "train_steps.json"
    values = RecordedFile.open(ComparisonReport(), "e2e", path).values
    for change in ({"lr": -1.0}, {"betas": [0.9]}, {"eps": "small"}):
        recorded = RecordedFile(ComparisonReport(), "e2e", "steps", {**values, **change})
        with pytest.raises(GoldenError, match="steps: "):
            read_steps(recorded)


@pytest.fixture
def one_generation(goldens: Path, tmp_path: Path) -> Path:
    """A folder whose only case is one generation with a box and a [SEG]."""
    folder = tmp_path / "e2e_one"
    folder.mkdir()
    info = json.loads((goldens / "e2e_tiny1" / "info.json").read_text())
    info["eval"] = {"region": info["eval"]["region"]}
    (folder / "info.json").write_text(json.dumps(info))
    shutil.copy(goldens / "e2e_tiny1" / "eval_region.npz", folder)
    return folder


def generation_failures(folder: Path) -> set[str]:
    case = E2EFolder(folder, ComparisonReport())
    report = ComparisonReport()
    info = RecordedFile.open(report, "e2e", folder / "info.json")
    check_evaluations(folder, report, info, golden_glamm(case.config, case.salt))
    return {row.name for row in report.failures}


@pytest.mark.slow
def test_a_generation_agrees_token_for_token_and_mask_for_mask(one_generation: Path) -> None:
    assert generation_failures(one_generation) == set()


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("out/generated_ids", "out/generated_ids"),
        ("out/step_logits", "out/step_logits"),
        ("out/pred_masks0__val", "out/pred_masks0"),
        ("out/last_step_hidden__val", "out/last_step_hidden"),
    ],
)
def test_a_changed_generation_is_detected(one_generation: Path, entry: str, name: str) -> None:
    change_array(one_generation / "eval_region.npz", entry)
    assert generation_failures(one_generation) == {name}


def test_a_changed_description_of_a_generation_is_detected(one_generation: Path) -> None:
    change_json(one_generation / "info.json", ("eval", "region", "min_top2_gap"))
    assert generation_failures(one_generation) == {"eval.region.min_top2_gap"}


def test_a_field_that_the_configuration_does_not_have_is_named(one_generation: Path) -> None:
    info = json.loads((one_generation / "info.json").read_text())
    info["config"]["flux"] = 1
    (one_generation / "info.json").write_text(json.dumps(info))
    with pytest.raises(GoldenError, match="flux"):
        E2EFolder(one_generation, ComparisonReport())


def test_a_folder_that_cannot_be_read_does_not_stop_the_comparison(tmp_path: Path) -> None:
    (tmp_path / "e2e_broken").mkdir()
    (tmp_path / "e2e_broken" / "info.json").write_text("{")
    report = ComparisonReport()
    check(tmp_path, report)
    assert report.exit_code == 2
    assert "e2e_broken/info.json" in report.broken[0]
