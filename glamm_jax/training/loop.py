"""The order of things in a training run.

1. The number of steps, the tokenizer and its ids are checked.
2. The folder of the run is claimed; its `config.json` says all that the run follows from.
3. The model is drawn from the seed and split into what is trained and what is frozen.
4. Every step: take the batch, step, one line to `metrics.jsonl`.

Nothing is saved of the weights yet, and a run cannot be continued.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from glamm_jax.data.pipeline import Batches, open_batches
from glamm_jax.experiment import ExperimentConfig
from glamm_jax.files import write_whole
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.optim import is_trained, make_optimizer
from glamm_jax.training.state import split_model
from glamm_jax.training.step import make_step

METRICS = "metrics.jsonl"  # name of the file in a run's folder

Record = dict[str, Any]


class RunError(ValueError):
    """A run that cannot start. Says why and what to do."""


def train(config: ExperimentConfig, folder: Path, num_steps: int | None = None) -> Iterator[Record]:
    """Run the first `num_steps` steps (all, without a number), as the records are asked for.

    A record is a line of `metrics.jsonl`: step, loss, ce, bce, dice, grad_norm, learning_rate and
    the seconds that it took, the making of the batch included; the first compiles.

    Raises: before the first record RunError when the folder holds a run already or there are fewer
    steps than asked for, and what `open_batches` raises; with a record DataError from its batch.
    """
    total = config.optim.total_steps
    num_steps = total if num_steps is None else num_steps
    if not 1 <= num_steps <= total:
        raise RunError(f"{num_steps} steps asked for, optim.total_steps = {total}; 1 to {total}")
    batches = open_batches(config.data, config.model)
    return _run(config, batches, claim(folder, config), num_steps)


def _run(
    config: ExperimentConfig, batches: Batches, metrics_file: Path, num_steps: int
) -> Iterator[Record]:
    model, optimizer = draw_model(config), make_optimizer(config.optim)
    graphdef, frozen, state = split_model(model, is_trained(config.optim.trained), optimizer)
    step = make_step(config.model, config.optim, config.losses, config.seed)
    with metrics_file.open("x", encoding="utf-8") as lines, closing(batches):
        for number in range(num_steps):
            started = time.perf_counter()
            state, metrics = step(graphdef, frozen, state, next(batches))
            values = jax.tree.map(float, metrics)._asdict()
            seconds = round(time.perf_counter() - started, 3)
            record: Record = {"step": number, **values, "seconds": seconds}
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            yield record


def claim(folder: Path, config: ExperimentConfig) -> Path:
    """Make the run's folder with its `config.json`; returns where the metrics go.

    Raises: RunError when metrics are there already.
    """
    metrics = folder / METRICS
    if metrics.exists():
        raise RunError(
            f"{metrics} exists: the folder holds a run, and runs cannot be continued yet; "
            "choose another folder or remove this one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    write_whole(folder / "config.json", json.dumps(asdict(config), indent=1) + "\n")
    return metrics


def draw_model(config: ExperimentConfig) -> GLaMM:
    """The whole model with first weights that follow from the seed, and from the kind of device.

    One program draws all of them, with the device's own generator: leaf by leaf, or with jax's,
    compiling takes several times as long.
    """
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: GLaMM(config.model, rngs=nnx.Rngs(0))))
    draw = jax.jit(lambda key: nnx.state(GLaMM(config.model, rngs=nnx.Rngs(key))))
    return nnx.merge(graphdef, draw(jax.random.key(config.seed, impl="rbg")))
