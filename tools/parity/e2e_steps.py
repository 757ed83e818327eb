"""The recorded AdamW steps of an e2e folder, through the very step that trains.

Between two recorded steps lie a gradient, its clipping, the optimizer's moments and which
parameters it touched at all, so losses of the later steps agree only if all of them do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glamm_jax.config import LossWeights
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.data.collate import BatchShape, fit, pack
from glamm_jax.data.sample import Sample
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.optimizer import make_optimizer, trainable_filter
from glamm_jax.training.state import split_model
from glamm_jax.training.step import Metrics, make_step
from glamm_jax.types import Losses
from glamm_jax.weights.glamm import glamm_table
from tools.parity.e2e_train import compare_losses, torch_tensors
from tools.parity.report import GoldenError, RecordedFile
from tools.parity.ties import count_differences, first_agreeing_run, with_shifted_bias

FILE = "train_steps.json"


class StepsResult(NamedTuple):
    """All steps run: what each reported, and the norms that the parameters ended with."""

    metrics: list[Metrics]
    final_norms: dict[str, float]  # by torch name


def check_steps(
    info: RecordedFile,
    folder: Path,
    model: GLaMM,
    cases: dict[str, list[Sample]],
    weights: LossWeights,
) -> None:
    """Run and compare `train_steps.json`, if the folder has one.

    Args:
        info: the folder's description; it holds the gradient norms of every case.
        cases: the samples of each training case; the steps name theirs.
    """
    if not (folder / FILE).is_file():
        return
    with RecordedFile.open(info.report, info.part, folder / FILE) as recorded:
        names, optim = read_steps(recorded)
        if unknown := set(names) - set(cases):
            raise GoldenError(f"{recorded.file}: steps on unknown cases {sorted(unknown)}")
        batches, noise = [cases[name] for name in names], noise_parameters(info, names)
        run = run_agreeing_steps(recorded, model, batches, optim, weights, noise)
        compare_steps(recorded, run, noise)


def run_agreeing_steps(
    recorded: RecordedFile,
    model: GLaMM,
    steps: list[list[Sample]],
    optim: OptimConfig,
    weights: LossWeights,
    noise: set[str],
) -> StepsResult:
    """`run_steps` on that side of a tie on which the recorded steps are."""
    return first_agreeing_run(
        lambda shift: run_steps(with_shifted_bias(model, shift), steps, optim, weights),
        lambda run: count_differences(recorded, lambda r: compare_steps(r, run, noise)),
    )


def read_steps(recorded: RecordedFile) -> tuple[list[str], OptimConfig]:
    """The case of each step, in order, and the optimizer's configuration.

    Raises: GoldenError when an entry is missing or impossible.
    """
    recorded.exclude("note", "prose")
    count = len({name.split(".")[0] for name in recorded.names_under("steps[")})
    names = [str(recorded.input(f"steps[{i}].case")) for i in range(count)]
    try:
        first, second = map(float, recorded.input("betas"))
        optim = OptimConfig(
            peak_lr=float(recorded.input("lr")),
            schedule="constant",
            warmup_steps=0,
            total_steps=count,
            betas=(first, second),
            eps=float(recorded.input("eps")),
            weight_decay=float(recorded.input("weight_decay")),
            clip_norm=float(recorded.input("clip_global_norm")),
            trainable="all_but_encoders",
            unused_parts="skip",
        )
    except (TypeError, ValueError) as error:
        raise GoldenError(f"{recorded.file}: {error}") from error
    return names, optim


def run_steps(
    model: GLaMM, steps: list[list[Sample]], optim: OptimConfig, weights: LossWeights
) -> StepsResult:
    """One step on each batch; all have one capacity, so one program is compiled."""
    capacity = BatchShape()
    for samples in steps:
        capacity = capacity.union(fit(samples, model.config))
    graphdef, frozen, state = split_model(
        model, trainable_filter(optim.trainable), make_optimizer(optim)
    )
    state = jax.tree.map(jnp.copy, state)  # the step takes its arrays, and others need the model
    step, metrics = make_step(model.config, optim, weights), []
    for samples in steps:
        state, reported = step(graphdef, frozen, state, pack(samples, model.config, capacity))
        metrics.append(jax.tree.map(float, reported))
    final = torch_tensors(glamm_table(model.config), state.trainable)
    norms = {name: float(np.linalg.norm(x.astype(np.float64))) for name, x in final.items()}
    return StepsResult(metrics, norms)


def noise_parameters(info: RecordedFile, names: list[str]) -> set[str]:
    """Parameters whose recorded gradient is rounding noise in every step that reaches them.

    Adam divides noise by its own size, so where they end is chance. A gradient that is exactly
    zero moves nothing and is none of them.
    """
    norms: dict[str, list[float]] = {}
    for case in dict.fromkeys(names):
        prefix = f"cases.{case}.grad_norm_sum_absmax."
        for name in info.names_under(prefix):
            summary = info.get(name)
            if summary is not None:
                norms.setdefault(name.removeprefix(prefix), []).append(float(summary[0]))
    return {name for name, seen in norms.items() if 0 < max(seen) < 1e-6}


def compare_steps(recorded: RecordedFile, run: StepsResult, noise: set[str]) -> None:
    """Losses and gradient norm of every step, and every parameter's norm behind the last."""
    for i, ours in enumerate(run.metrics):
        prefix = f"steps[{i}]."
        parts = Losses(ours.loss, ours.ce, ours.bce, ours.dice)
        compare_losses(recorded, parts, "loss" if i == 0 else "adamw_loss", prefix)
        recorded.compare(f"{prefix}grad_norm_before_clip", ours.grad_norm, "gradient_norm")
    for name in recorded.names_under("final_param_norms."):
        tensor = name.removeprefix("final_param_norms.")
        if tensor in noise:
            recorded.exclude(name, "gradient norms below 1e-6: moved by rounding noise")
        elif tensor in run.final_norms:
            recorded.compare(name, run.final_norms[tensor], "parameter_norm")
