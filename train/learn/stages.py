"""The stages of `make learn`, each in a folder of its own; a stage that is done is not repeated.

    OUT/tags, OUT/masks     pretraining aids, side by side, one core each
    OUT/first, OUT/speak    the whole model, encoders frozen: ordinary runs
    OUT/whole, OUT/polish   everything learns: ordinary runs
    OUT/adapted, OUT/retrained      a second world, from OUT/polish: `released` set, everything

A stage's folder has metrics.jsonl, config.json and, once it is done, model/: a model folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from configs import learn as recipe
from glamm_jax.config import GLaMMConfig
from glamm_jax.data.pipeline import open_batches
from glamm_jax.experiment import ExperimentConfig, OptimConfig
from glamm_jax.files import write_whole
from glamm_jax.inference.chat import Assistant
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.training.loop import draw_model
from glamm_jax.training.optim import is_trained, make_optimizer
from glamm_jax.training.state import split_model
from glamm_jax.training.step import make_step
from glamm_jax.weights.folder import ModelFolder, new_folder, seal
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter
from glamm_jax.weights.state import fill, flatten
from train.learn.aids import Aid, run_aid

METRICS, MODEL = "metrics.jsonl", "model"
Leaves = Mapping[str, Array | np.ndarray]
Record = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage: an aid or a run, and the stages whose weights it begins with."""

    name: str
    about: str
    made_of: Aid | ExperimentConfig
    starts_from: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        return self.made_of.optim.total_steps


def all_stages() -> dict[str, Stage]:
    """Every stage by its name, in an order in which they can be run."""
    new = ("polish",)
    stages = (
        Stage("tags", "CLIP learns to name what covers each patch", _aid("tags", pale_steps=450)),
        Stage("masks", "SAM learns to outline what a vector names", _aid("masks", pale_steps=0)),
        Stage("first", "the decoder learns to speak", recipe.first(), ("tags", "masks")),
        Stage("speak", "... and the world's own colours", recipe.speak(), ("first",)),
        Stage("whole", "everything learns together", recipe.get_config(), ("speak",)),
        Stage("polish", "... once more, at half the rate", recipe.polish(), ("whole",)),
        Stage("adapted", "a second world: the released set", recipe.adapting("released"), new),
        Stage("retrained", "a second world: everything", recipe.adapting("everything"), new),
    )
    return {stage.name: stage for stage in stages}


def _aid(name: str, pale_steps: int) -> Aid:
    optim = OptimConfig(
        peak_lr=2e-3,
        muon_lr=1e-2,
        warmup_steps=20,
        total_steps=1200,
        trained="everything",
        untouched="zero",
    )
    return Aid(name, recipe.model_config(), optim, recipe.PICTURE, pale_steps=pale_steps)


def is_done(out: Path, stage: Stage) -> bool:
    """Whether the stage has left its weights."""
    return (out / stage.name / MODEL).is_dir()


def run_stage(out: Path, stage: Stage) -> Iterator[Record]:
    """Learn step by step; a record is a line of the stage's metrics. Its weights come last."""
    folder = out / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", json.dumps(asdict(stage.made_of), indent=1) + "\n")
    start: dict[str, Any] = {}
    for name in stage.starts_from:
        start |= read_leaves(out / name / MODEL)
    made_of = stage.made_of
    steps = run_aid(made_of) if isinstance(made_of, Aid) else _run(made_of, start)
    partial = folder / f"{METRICS}.partial"
    began = time.process_time()
    leaves: Callable[[], Leaves] = dict
    with partial.open("w", encoding="utf-8") as lines:
        for record, now in steps:
            leaves = now
            record["cpu_seconds"] = round(time.process_time() - began, 2)
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            yield record
    partial.rename(folder / METRICS)
    write_model(folder / MODEL, made_of.model, leaves())


def _run(config: ExperimentConfig, start: Leaves) -> Iterator[tuple[Record, Callable[[], Leaves]]]:
    """An ordinary run, from these leaves as far as they go."""
    model = draw_model(config)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, fill(state, {**flatten(state), **_known(state, start)}))
    optimizer = make_optimizer(config.optim)
    graph, frozen, state = split_model(model, is_trained(config.optim.trained), optimizer)
    step = make_step(config.model, config.optim, config.losses, config.seed)
    batches = open_batches(config.data, config.model)

    def leaves() -> Leaves:
        return flatten(nnx.state(nnx.merge(graph, state.trainable, frozen)))

    for number in range(config.optim.total_steps):
        started = time.perf_counter()
        state, metrics = step(graph, frozen, state, next(batches))
        values = jax.tree.map(float, metrics)._asdict()
        yield {"step": number, **values, "seconds": time.perf_counter() - started}, leaves
    batches.close()


def _known(state: nnx.State, start: Leaves) -> dict[str, Any]:
    """Those of the leaves that the model has; aids have heads of their own."""
    return {leaf: start[leaf] for leaf in flatten(state) if leaf in start}


def read_leaves(folder: Path) -> dict[str, np.ndarray]:
    """All leaves of a model folder."""
    opened = ModelFolder(folder)
    return {name: np.array(opened.read(name)) for name in opened.leaves}


def write_model(folder: Path, config: GLaMMConfig, leaves: Leaves) -> None:
    """A model folder with its tokenizer, whole or not at all.

    An aid's folder holds a part of the leaves only, and so cannot be loaded as a model.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    infos = {name: TensorInfo(each.dtype, each.shape) for name, each in arrays.items()}
    with new_folder(folder, sum(each.nbytes for each in arrays.values())) as made:
        with TensorWriter(made, infos) as writer:
            for name, each in arrays.items():
                writer.write(name, each)
        seal(made, config, {"source": "glamm_jax train.learn"}, Path(recipe.TOKENIZER))


def load_assistant(folder: Path) -> Assistant:
    """The model of a stage that is done, its adapters still beside its kernels."""
    opened = ModelFolder(folder)
    assert isinstance(opened.config, GLaMMConfig)
    graph, state = abstract_model(opened.config)
    model: GLaMM = nnx.merge(graph, opened.fill(state))
    return Assistant(model, load_tokenizer(folder, opened.config.tokens))
