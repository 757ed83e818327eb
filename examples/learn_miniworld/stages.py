"""The stages of `make learn`, each in a folder of its own; a stage that is done is not repeated.

    OUT/tags, OUT/masks     pretraining aids, side by side, one core each
    OUT/first, OUT/speak    the whole model, encoders frozen: ordinary runs
    OUT/whole, OUT/polish   everything learns: ordinary runs
    OUT/adapted, OUT/retrained      a second world, from OUT/polish: `released` set, everything

A stage's folder has metrics.jsonl, config.json and, once it is done, the weights: of an aid
learned.safetensors, a part of a model's leaves; of a run model/, a model folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array
from safetensors.numpy import load_file, save

from configs import learn as recipe
from examples.learn_miniworld.aids import Aid, run_aid
from glamm_jax.config import DType
from glamm_jax.config.experiment import ExperimentConfig, InitConfig, OptimConfig
from glamm_jax.files import write_atomic
from glamm_jax.training.initialization import load_trained_model, random_model
from glamm_jax.training.loop import train
from glamm_jax.training.run_folder import METRICS
from glamm_jax.weights.flat_state import fill_state, flatten_state
from glamm_jax.weights.folder import write_model

MODEL, LEARNED = "model", "learned.safetensors"  # of a run, of an aid
Leaves = Mapping[str, Array | np.ndarray]
Record = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage: an aid or a run, the stages whose weights it begins with, and the dtype in which
    a run's model is written."""

    name: str
    about: str
    made_of: Aid | ExperimentConfig
    starts_from: tuple[str, ...] = ()
    dtype: DType = "float32"

    @property
    def steps(self) -> int:
        return self.made_of.optim.total_steps


def all_stages() -> dict[str, Stage]:
    """Every stage by its name, in an order in which they can be run."""
    new = ("polish",)
    stages = (
        Stage(
            "tags", "CLIP learns to name what covers each patch", _make_aid("tags", pale_steps=450)
        ),
        Stage(
            "masks", "SAM learns to outline what a vector names", _make_aid("masks", pale_steps=0)
        ),
        Stage("first", "the decoder learns to speak", recipe.first(), ("tags", "masks")),
        Stage("speak", "... and the world's own colours", recipe.speak(), ("first",)),
        Stage("whole", "everything learns together", recipe.get_config(), ("speak",)),
        # What is handed over: half the bytes, and the scores are those of these very weights.
        Stage("polish", "... once more, at half the rate", recipe.polish(), ("whole",), "bfloat16"),
        Stage("adapted", "a second world: the released set", recipe.second_world("released"), new),
        Stage("retrained", "a second world: everything", recipe.second_world("everything"), new),
    )
    return {stage.name: stage for stage in stages}


def _make_aid(name: str, pale_steps: int) -> Aid:
    optim = OptimConfig(
        peak_lr=2e-3,
        muon_lr=1e-2,
        warmup_steps=20,
        total_steps=1200,
        trainable="everything",
        unused_parts="zero",
    )
    return Aid(name, recipe.model_config(), optim, recipe.IMAGE_SIZE, pale_steps=pale_steps)


def is_done(out: Path, stage: Stage) -> bool:
    """Whether the stage has left its weights."""
    return (out / stage.name / (LEARNED if isinstance(stage.made_of, Aid) else MODEL)).exists()


def run_stage(out: Path, stage: Stage) -> Iterator[Record]:
    """Learn step by step; a record is a line of the stage's metrics. Its weights come last.

    A run that was stopped goes on from its last checkpoint; an aid begins anew.
    """
    if isinstance(stage.made_of, Aid):
        yield from _aid(out / stage.name, stage.made_of)
        return
    config = replace(stage.made_of, init=InitConfig(model=str(_start(out, stage))))
    yield from train(config, out / stage.name)
    _, model = load_trained_model(out / stage.name)
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(stage.dtype), nnx.state(model)))
    write_model(out / stage.name / MODEL, config.model, model, Path(recipe.TOKENIZER))


def _start(out: Path, stage: Stage) -> Path:
    """The model that a run begins with: the stage before, or what the aids have learned."""
    if len(stage.starts_from) == 1:
        return out / stage.starts_from[0] / MODEL
    folder = out / f"{stage.name}-start"
    if not folder.exists():
        assert isinstance(stage.made_of, ExperimentConfig)
        model = random_model(stage.made_of.model, stage.made_of.seed)
        state = nnx.state(model)
        leaves = flatten_state(state)
        for name in stage.starts_from:
            learned = load_file(out / name / LEARNED)  # the aids' own heads end here
            leaves |= {leaf: learned[leaf] for leaf in leaves if leaf in learned}
        nnx.update(model, fill_state(state, leaves))
        write_model(folder, stage.made_of.model, model, Path(recipe.TOKENIZER))
    return folder


def _aid(folder: Path, aid: Aid) -> Iterator[Record]:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(asdict(aid), indent=1) + "\n")
    partial = folder / f"{METRICS}.partial"
    leaves: Callable[[], Leaves] = dict
    with partial.open("w", encoding="utf-8") as lines:
        for record, now in run_aid(aid):
            leaves = now
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            yield record
    partial.rename(folder / METRICS)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves().items()}
    write_atomic(folder / LEARNED, save(arrays))
