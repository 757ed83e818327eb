"""Train a model as a configuration file says, or go on with a run.

CONFIG is a Python file with `get_config() -> ExperimentConfig`; it is executed. Any field can be
changed by its dotted name, and an unknown name is answered with the nearest one:

  python -m train --config configs/tiny.py --out runs/tiny
  python -m train --config configs/tiny.py --out runs/slow --set optim.peak_lr=1e-4 data.seed=3
  python -m train --config configs/tiny.py --out runs/look --steps 5

The same command goes on with a run that was stopped or killed, from its last whole checkpoint, to
the same numbers as if it had not been. --steps is where to stop; the schedule of the learning rate
is that of optim.total_steps, so a later stop is the same run. SIGTERM and Ctrl-C save, then end.

  python -m train --config configs/pretrain.py --plan      what it would take, and nothing is made

RUN/config.json       the configuration as it was used
RUN/metrics.jsonl     one line a step: step, loss, ce, bce, dice, grad_norm, learning_rate, ...
RUN/events.jsonl      started, resumed_from, saved, skipped, evaluated, stopped
RUN/checkpoints/STEP  what training changes; python -m train.export makes a model of it
RUN/tensorboard       tensorboard --logdir RUN; python -m train.report RUN makes a page

Exit status: 0 done or stopped by a signal and saved, 2 something cannot be used.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import jax

from glamm_jax.aot.plan import chip_of, plan
from glamm_jax.cli.train_progress import show
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.config.overrides import with_overrides
from glamm_jax.data.batch_filling import DataError
from glamm_jax.data.loader import StateError
from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.evaluation.validation import make_evaluate
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.training.loop import Watcher, train
from glamm_jax.training.metric_writers import TensorBoard, WeightsAndBiases
from glamm_jax.training.placement import PlacementError
from glamm_jax.training.run_folder import RunError
from glamm_jax.weights.safetensors import TensorFileError

UNUSABLE = (
    *(ConfigError, DataError, FolderError, PlacementError, RunError, StateError),
    *(TensorFileError, TokenizerError),
)


def main(arguments: list[str] | None = None) -> int:
    """Parse, load, train; 2 with one line when something cannot be used."""
    options = parse(arguments)
    try:
        config = with_overrides(load_config(options.config), options.set)
        if options.plan:
            mesh = config.mesh
            print(plan(config, (max(mesh.data, 1), mesh.fsdp, mesh.tensor)).text())
            return 0
        told = watchers(options, config)
        records = train(config, options.out, options.steps, make_evaluate(config), told)
        show(records, options.steps or config.optim.total_steps, peak_seconds(config))
    except UNUSABLE as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


def peak_seconds(config: ExperimentConfig) -> float | None:
    """What a step takes at the peak of the devices that are here; None where that is not known."""
    chip = chip_of(jax.devices()[0].device_kind)
    if chip is None:
        return None
    return plan(config).step_flops / (chip.peak_flops * jax.device_count())


def watchers(options: argparse.Namespace, config: ExperimentConfig) -> list[Watcher]:
    """Who is told what happens."""
    found: list[Watcher] = [TensorBoard(options.out / "tensorboard")]
    if options.wandb:
        found.append(WeightsAndBiases(options.wandb, options.out, asdict(config)))
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, metavar="RUN", help="new, or a run that goes on")
    parser.add_argument("--plan", action="store_true", help="say what it would take, and end")
    parser.add_argument("--steps", type=int, metavar="N", help="stop when N steps are done")
    parser.add_argument("--wandb", metavar="PROJECT", help="tell Weights & Biases, too")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change fields of the configuration",
    )
    options = parser.parse_args(arguments)
    if options.out is None and not options.plan:
        parser.error("--out RUN says where the run lies (or --plan what it would take)")
    return options


def load_config(path: Path) -> ExperimentConfig:
    """What the file's `get_config()` returns.

    Raises: ConfigError when there is no such file, no such function, or another return.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    get_config = runpy.run_path(str(path)).get("get_config")
    if not callable(get_config):
        raise ConfigError(f"{path}: has no function get_config()")
    config = get_config()
    if not isinstance(config, ExperimentConfig):
        name = type(config).__name__
        raise ConfigError(f"{path}: get_config() returns {name}, not an ExperimentConfig")
    return config


if __name__ == "__main__":
    sys.exit(main())
