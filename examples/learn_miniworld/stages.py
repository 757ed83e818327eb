"""The training stages, each in a folder of its own; a stage that is done is not repeated.

    OUT/clip, OUT/sam                        pretraining of the encoders, side by side
    OUT/decoder, OUT/decoder-mixed           the whole model, frozen encoders: training runs
    OUT/joint, OUT/joint-final               all parameters: training runs
    OUT/adapted-released, OUT/adapted-all    another world, from OUT/joint-final

The folder of a stage has metrics.jsonl and config.json, and once it is done its weights: that of an
encoder encoder.safetensors, some of the model's leaves; that of a training run model/, a model
folder.
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
from examples.learn_miniworld.encoder_pretraining import EncoderPretraining, pretrain
from glamm_jax.config import DType
from glamm_jax.config.experiment import ExperimentConfig, InitConfig, OptimConfig
from glamm_jax.files import write_atomic
from glamm_jax.training.initialization import load_trained_model, random_model
from glamm_jax.training.loop import train
from glamm_jax.training.run_folder import METRICS
from glamm_jax.weights.flat_state import fill_state, flatten_state
from glamm_jax.weights.folder import write_model

MODEL, ENCODER = "model", "encoder.safetensors"  # weights of a training run, of an encoder
FINAL = "joint-final"  # the stage whose model is published
Leaves = Mapping[str, Array | np.ndarray]
Record = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its folder.
        description: in one line.
        config: of the pretraining or of the training run.
        starts_from: stages whose weights it starts from; none: random weights.
        dtype: of the weights in the model folder.
    """

    name: str
    description: str
    config: EncoderPretraining | ExperimentConfig
    starts_from: tuple[str, ...] = ()
    dtype: DType = "float32"

    @property
    def steps(self) -> int:
        return self.config.optim.total_steps


def all_stages() -> dict[str, Stage]:
    """Return the stages by name, in an order in which they can be run."""
    clip = _pretraining("clip", 1200, ("easy-pale", "easy-seen"), num_first_steps=450)
    sam = _pretraining("sam", 2400, ("easy-similar", "easy-pale-similar"))
    stages = (
        Stage("clip", "CLIP classifies patches", clip),
        Stage("sam", "SAM segments objects by colour and shape", sam),
        Stage(
            "decoder",
            "language model, every colour on every shape",
            recipe.decoder(),
            ("clip", "sam"),
        ),
        Stage(
            "decoder-mixed",
            "language model, the world's own colours too",
            recipe.decoder_mixed(),
            ("decoder",),
        ),
        Stage("joint", "all parameters", recipe.get_config(), ("decoder-mixed",)),
        # The evaluation loads these weights, so its metrics are those of the published dtype.
        Stage(
            FINAL,
            "all parameters, half the learning rate",
            recipe.joint_final(),
            ("joint",),
            "bfloat16",
        ),
        Stage(
            "adapted-released",
            "another world, set `released`",
            recipe.adapt("released"),
            (FINAL,),
        ),
        Stage(
            "adapted-all",
            "another world, all parameters",
            recipe.adapt("everything"),
            (FINAL,),
        ),
    )
    return {stage.name: stage for stage in stages}


def _pretraining(
    encoder: str, steps: int, worlds: tuple[str, ...], num_first_steps: int = 0
) -> EncoderPretraining:
    optim = OptimConfig(
        peak_lr=2e-3,
        muon_lr=1e-2,
        warmup_steps=20,
        total_steps=steps,
        trainable="everything",
        unused_parts="zero",
    )
    return EncoderPretraining(
        encoder,
        recipe.model_config(),
        optim,
        recipe.IMAGE_SIZE,
        worlds,
        num_first_steps=num_first_steps,
    )


def is_done(out: Path, stage: Stage) -> bool:
    """Return whether the stage has written its weights."""
    weights = ENCODER if isinstance(stage.config, EncoderPretraining) else MODEL
    return (out / stage.name / weights).exists()


def run_stage(out: Path, stage: Stage) -> Iterator[Record]:
    """Train step by step, and write the weights.

    A training run that was stopped resumes from its last checkpoint; a pretraining starts again.

    Args:
        out: folder of all stages.
        stage: to be run.

    Yields:
        The metrics of a step, as in the stage's metrics.jsonl.
    """
    if isinstance(stage.config, EncoderPretraining):
        yield from _run_pretraining(out / stage.name, stage.config)
        return
    config = replace(stage.config, init=InitConfig(model=str(_initial_model(out, stage))))
    yield from train(config, out / stage.name)
    _, model = load_trained_model(out / stage.name)
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(stage.dtype), nnx.state(model)))
    write_model(out / stage.name / MODEL, config.model, model, Path(recipe.TOKENIZER))


def _initial_model(out: Path, stage: Stage) -> Path:
    """Return the model folder that a run starts from; join the encoders to one if necessary."""
    if len(stage.starts_from) == 1:
        return out / stage.starts_from[0] / MODEL
    folder = out / f"{stage.name}-initial"
    if not folder.exists():
        assert isinstance(stage.config, ExperimentConfig)
        model = random_model(stage.config.model, stage.config.seed)
        state = nnx.state(model)
        leaves = flatten_state(state)
        for name in stage.starts_from:
            trained = load_file(out / name / ENCODER)  # heads and embeddings are discarded here
            leaves |= {leaf: trained[leaf] for leaf in leaves if leaf in trained}
        nnx.update(model, fill_state(state, leaves))
        write_model(folder, stage.config.model, model, Path(recipe.TOKENIZER))
    return folder


def _run_pretraining(folder: Path, config: EncoderPretraining) -> Iterator[Record]:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(asdict(config), indent=1) + "\n")
    partial_file = folder / f"{METRICS}.partial"
    get_leaves: Callable[[], Leaves] = dict
    with partial_file.open("w", encoding="utf-8") as lines:
        for record, get_current in pretrain(config):
            get_leaves = get_current
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            yield record
    partial_file.rename(folder / METRICS)
    arrays = {name: np.asarray(leaf) for name, leaf in get_leaves().items()}
    write_atomic(folder / ENCODER, save(arrays))


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m examples.learn_miniworld")
