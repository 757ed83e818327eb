"""The recorded AdamW steps of an e2e folder, computed with the training step of this library.

A step consists of the gradient, its clipping, the optimizer's moments and the choice of parameters
that are updated. Losses of later steps agree only if all of these do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glamm_jax.config import LossWeights
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.data.collate import BatchShape, build_batch, collate
from glamm_jax.data.encode import Sample
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.state import split_model
from glamm_jax.training.step import Metrics, make_step
from glamm_jax.types import Losses
from glamm_jax.weights.glamm import glamm_table
from tools.parity.e2e_train import compare_losses, torch_tensors
from tools.parity.report import GoldenError, RecordedFile
from tools.parity.ties import count_differences, first_agreeing_run, with_shifted_bias

FILE = "train_steps.json"


class StepsResult(NamedTuple):
    """Result of all steps.

    Attributes:
        metrics: of each step.
        final_norms: L2 norm of each parameter after the last step, by torch name.
    """

    metrics: list[Metrics]
    final_norms: dict[str, float]


def check_steps(
    info: RecordedFile,
    folder: Path,
    model: GLaMM,
    cases: dict[str, list[Sample]],
    weights: LossWeights,
) -> None:
    """Run and compare the steps of `train_steps.json`, if the folder has one.

    Args:
        info: the folder's description, with the gradient norms of every case.
        folder: the folder.
        model: the model before the first step.
        cases: the samples of each training case; every step names a case.
        weights: weights of the losses.

    Raises:
        GoldenError: an entry is missing or impossible, or a step names an unknown case.
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
    """`run_steps`, with the shift at which the steps agree with the recorded ones.

    Args:
        recorded: `train_steps.json`.
        model: the model before the first step.
        steps: the samples of each step.
        optim: configuration of the optimizer.
        weights: weights of the losses.
        noise: parameters that are not compared; see `noise_parameters`.
    """
    return first_agreeing_run(
        lambda shift: run_steps(with_shifted_bias(model, shift), steps, optim, weights),
        lambda run: count_differences(recorded, lambda r: compare_steps(r, run, noise)),
    )


def read_steps(recorded: RecordedFile) -> tuple[list[str], OptimConfig]:
    """Read the case of each step, in order, and the optimizer's configuration.

    Raises:
        GoldenError: an entry is missing or impossible.
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
    """Run one step on each batch. All batches have one shape, so one program is compiled.

    Args:
        model: the model before the first step; it is not changed.
        steps: the samples of each step.
        optim: configuration of the optimizer.
        weights: weights of the losses.
    """
    batch_shape = BatchShape()
    for samples in steps:
        batch_shape = batch_shape.union(build_batch(samples, model.config).required_shape)
    graphdef, frozen, state = split_model(
        model, trainable_filter(optim.trainable), make_optimizer(optim)
    )
    # The step donates the arrays of the state, and the model is used afterwards.
    state = jax.tree.map(jnp.copy, state)
    step, metrics = make_step(model.config, optim, weights), []
    for samples in steps:
        state, reported = step(graphdef, frozen, state, collate(samples, model.config, batch_shape))
        metrics.append(jax.tree.map(float, reported))
    final = torch_tensors(glamm_table(model.config), state.trainable)
    norms = {name: float(np.linalg.norm(x.astype(np.float64))) for name, x in final.items()}
    return StepsResult(metrics, norms)


def noise_parameters(info: RecordedFile, names: list[str]) -> set[str]:
    """Return the parameters whose recorded gradient is rounding noise in every step they are in.

    Adam divides the noise by its own size, so the final value of these parameters is random.
    Parameters with a gradient of exactly zero do not move and are not returned.
    """
    norms: dict[str, list[float]] = {}
    for case in dict.fromkeys(names):
        prefix = f"cases.{case}.grad_norm_sum_absmax."
        for name in info.names_under(prefix):
            summary = info.get(name)
            if summary is not None:
                norms.setdefault(name.removeprefix(prefix), []).append(float(summary[0]))
    return {name for name, values in norms.items() if 0 < max(values) < 1e-6}


def compare_steps(recorded: RecordedFile, result: StepsResult, noise: set[str]) -> None:
    """Compare losses and gradient norm of every step, and the final norm of every parameter.

    Args:
        recorded: `train_steps.json`.
        result: the computed steps.
        noise: parameters whose final norm is not compared.
    """
    for i, metrics in enumerate(result.metrics):
        prefix = f"steps[{i}]."
        parts = Losses(metrics.loss, metrics.ce, metrics.bce, metrics.dice)
        compare_losses(recorded, parts, "loss" if i == 0 else "adamw_loss", prefix)
        recorded.compare(f"{prefix}grad_norm_before_clip", metrics.grad_norm, "gradient_norm")
    for name in recorded.names_under("final_param_norms."):
        tensor = name.removeprefix("final_param_norms.")
        if tensor in noise:
            recorded.exclude(name, "gradient norms below 1e-6: moved by rounding noise")
        elif tensor in result.final_norms:
            recorded.compare(name, result.final_norms[tensor], "parameter_norm")
