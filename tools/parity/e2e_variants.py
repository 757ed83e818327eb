"""Comparison of variants of an e2e folder's model: bfloat16, LoRA before and after merging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.data.collate import BatchShape, Sample, build_batch
from glamm_jax.models.glamm import GLaMM
from glamm_jax.testing.merged_model import merge_lora
from tools.parity.e2e_inputs import read_samples
from tools.parity.e2e_train import (
    TrainResult,
    TrainRunner,
    compare_gradient_norms,
    compare_gradients,
    compare_losses,
)
from tools.parity.golden_model import golden_glamm, lora_config
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

REGION_FILE = "variant_region_encoder_bf16.npz"


def check_bf16_variants(
    folder: Path, info: RecordedFile, config: GLaMMConfig, salt: str, weights: LossWeights
) -> None:
    """Compare losses with the complete model, or the region encoder alone, in bfloat16.

    Args:
        folder: the e2e folder.
        info: its info.json.
        config: of the model, in float32.
        salt: of the golden weights.
        weights: of the losses.
    """
    all_bf16 = replace(config, compute_dtype="bfloat16")
    region_bf16 = replace(config, region=replace(config.region, compute_dtype="bfloat16"))
    variants = {"all_bf16": all_bf16, "region_encoder_only_bf16": region_bf16}
    names = list(dict.fromkeys(n.split(".")[1] for n in info.names_under("bf16_variants.")))
    cases = {name: _samples(folder, name.partition(":")[2]) for name in names}
    capacity = BatchShape()
    for samples in cases.values():
        capacity = capacity.union(build_batch(samples, config).required_shape)
    for variant, variant_config in variants.items():
        fields = ("regions",) if variant == "region_encoder_only_bf16" else ()
        runner = TrainRunner(golden_glamm(variant_config, salt), weights, capacity, fields)
        for name, samples in cases.items():
            if name.partition(":")[0] != variant:
                continue  # a name of no variant is not compared, which the report counts as failed
            run = runner.run_forward(samples)
            compare_losses(info, run.losses, "bf16_loss", f"bf16_variants.{name}.")
            if variant == "region_encoder_only_bf16":
                _check_region_features(folder, info, name.partition(":")[2], samples, run)


def _check_region_features(
    folder: Path, info: RecordedFile, case: str, samples: list[Sample], run: TrainResult
) -> None:
    path = folder / REGION_FILE
    prefix = "variant_region_encoder_bf16."
    if not path.is_file() or info.get(f"{prefix}case") != case:
        return
    info.exclude(f"{prefix}case", "input")
    info.compare(f"{prefix}box_times_224", "float32", "exact")
    with RecordedFile.open(info.report, info.part, path) as recorded:
        start = 0
        for i, sample in enumerate(samples):
            count = 0 if sample.boxes_xyxy_unit is None else len(sample.boxes_xyxy_unit)
            features = np.asarray(run.intermediates.regions, np.float32)[start : start + count]
            recorded.compare(f"mid/region_features{i}", features, "bf16")
            start += count


def check_lora(
    folder: Path,
    ledger: ComparisonReport,
    part: str,
    config: GLaMMConfig,
    salt: str,
    weights: LossWeights,
) -> None:
    """Compare training with adapters, and losses and logits after merging them.

    Args:
        folder: the e2e folder.
        ledger: gets the results.
        part: name of the part of the parity report.
        config: of the model without adapters.
        salt: of the golden weights.
        weights: of the losses.
    """
    path = folder / "variant_lora_info.json"
    if not path.is_file():
        return
    with RecordedFile.open(ledger, part, path) as info:
        values = {
            key: info.input(f"lora.{key}", "configuration")
            for key in ("r", "alpha", "dropout", "targets")
        }
        lora = lora_config(values, config.llama.num_layers)
        info.compare("lora.scaling", lora.scale, "exact")
        samples = _samples(folder, info.input("input_case").removeprefix("train_"))
        model = golden_glamm(replace(config, lora=lora), salt)
        shape = build_batch(samples, config).required_shape
        run = TrainRunner(model, weights, shape, ("logits",)).run(samples)
        merged_model = merge_lora(model, lora, lambda: GLaMM(config, rngs=nnx.Rngs(0)))
        merged = TrainRunner(merged_model, weights, shape, ("logits",)).run_forward(samples)
        compare_losses(info, run.losses, "loss", "losses.")
        compare_losses(info, merged.losses, "loss", "losses_after_merge.")
        differing = set(_trainable(run.gradients)) ^ set(info.get("trainable"))
        info.record_error("trainable", len(differing), "exact", " ".join(sorted(differing)))
        compare_gradient_norms(info, "grad_norm_sum_absmax.", run.gradients)
        archive = folder / "variant_lora_single.npz"
        with RecordedFile.open(ledger, part, archive) as recorded:
            compare_losses(recorded, run.losses, "loss", "out/")
            recorded.compare("mid/logits", run.intermediates.logits, "tiny")
            recorded.compare("mid/last_hidden_state", run.output.hidden, "tiny")
            recorded.compare("merged/logits", merged.intermediates.logits, "tiny")
            compare_gradients(recorded, run.gradients)


def _trainable(gradients: dict[str, np.ndarray]) -> list[str]:
    """Select the trainable tensors of the released recipe.

    Adapters, embeddings, head, region encoder, L-P and mask decoder.
    """
    parts = (
        "lora_",
        "embed_tokens",
        "lm_head",
        "region_encoder",
        "text_hidden_fcs",
        "mask_decoder",
    )
    return [name for name in gradients if any(part in name for part in parts)]


def _samples(folder: Path, case: str) -> list[Sample]:
    """Read the inputs of a training case. Its own comparison accounts for its arrays."""
    path = folder / f"train_{case}.npz"
    recorded = RecordedFile.open(ComparisonReport(), folder.name, path)
    if not recorded.names_under("in/"):
        raise GoldenError(f"{path}: no inputs (in/...)")
    return read_samples(recorded)
