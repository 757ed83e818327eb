"""Variants of an e2e folder's model: bfloat16, and LoRA before and after merging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.data.collate import BatchShape, Sample, fit
from glamm_jax.nn.lora import merge
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
    """Losses with all of the model, or the region encoder alone, in bfloat16."""
    everything = replace(config, compute_dtype="bfloat16")
    region = replace(config, region=replace(config.region, compute_dtype="bfloat16"))
    kinds = {"all_bf16": everything, "region_encoder_only_bf16": region}
    names = list(dict.fromkeys(n.split(".")[1] for n in info.names_under("bf16_variants.")))
    cases = {name: _samples(folder, name.partition(":")[2]) for name in names}
    capacity = BatchShape()
    for samples in cases.values():
        capacity = capacity.union(fit(samples, config))
    for kind, cast in kinds.items():
        runner = TrainRunner(golden_glamm(cast, salt), weights, capacity)
        for name, samples in cases.items():
            if name.partition(":")[0] != kind:
                continue  # a kind that is not known stays unknown, and fails
            run = runner.run_forward(samples)
            compare_losses(info, run.losses, "bf16_loss", f"bf16_variants.{name}.")
            if kind == "region_encoder_only_bf16":
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
    """Adapters beside the decoder's projections, and folded into them."""
    path = folder / "variant_lora_info.json"
    if not path.is_file():
        return
    with RecordedFile.open(ledger, part, path) as info:
        lora = {
            key: info.input(f"lora.{key}", "configuration")
            for key in ("r", "alpha", "dropout", "targets")
        }
        adapters = lora_config(lora, config.llama.num_layers)
        adapted = replace(config, lora=adapters)
        info.compare("lora.scaling", adapters.scale, "exact")
        samples = _samples(folder, info.input("input_case").removeprefix("train_"))
        model = golden_glamm(adapted, salt)
        runner = TrainRunner(model, weights, fit(samples, config))
        run = runner.run(samples)
        merge(model)
        model.config = config
        merged = TrainRunner(model, weights, runner.batch_shape).run_forward(samples)
        compare_losses(info, run.losses, "loss", "losses.")
        compare_losses(info, merged.losses, "loss", "losses_after_merge.")
        ours = sorted(_trainable(run.gradients))
        differing = set(ours) ^ set(info.get("trainable"))
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
    """The released selection: adapters, embeddings, head, region encoder, L-P, pixel decoder."""
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
    """Inputs of a training case, read again; its arrays are settled by the case itself."""
    path = folder / f"train_{case}.npz"
    recorded = RecordedFile.open(ComparisonReport(), folder.name, path)
    if not recorded.names_under("in/"):
        raise GoldenError(f"{path}: no inputs")
    return read_samples(recorded)
