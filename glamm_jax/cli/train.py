"""Train a model according to a configuration file, or resume a run.

examples:
  glamm-jax train --config configs/tiny.py --out runs/tiny
  glamm-jax train --config configs/tiny.py --out runs/short --steps 5 --set optim.peak_lr=1e-4
  glamm-jax train --config configs/finetune_own.py --data shards --out runs/own
  glamm-jax train --config configs/pretrain.py --plan                     # train nothing
  glamm-jax train --config configs/tiny.py --out runs/tiny --from-step 20 # go back to a checkpoint

The configuration is a Python file with `get_config() -> ExperimentConfig`; it is executed. --set
changes fields by their dotted names; for an unknown name, the error message suggests the nearest
one. --data replaces the mixture of the configuration: it trains on these datasets, with equal
weights, for all tasks that they have annotations of. --plan prints the parameters, memory, FLOPs
and time that the run would need.

The same command resumes a run that was stopped or killed, from its last complete checkpoint; the
result is bit-identical to that of an uninterrupted run. --steps only determines where to stop: the
learning-rate schedule always ends at optim.total_steps. After SIGTERM, Ctrl-C or a notice of
Google's metadata server that the machine is about to be taken, a checkpoint is saved first, and
also when the data cannot be loaded any more: a worker process was killed, or more records are
dropped than data.max_unreadable and data.max_dropped allow.

A checkpoint is verified before it is used; for a damaged one the error names the newest intact one.
--from-step N resumes from the checkpoint of step N (0: starts again). Later checkpoints and the
metrics are moved to RUN/discarded, nothing is deleted. Only one run can train in RUN at a time.

When the first step is compiled, a table shows the mesh, the rows and images of each device, over
which axes each part of the model is divided, the memory that each part, the batches and the step
need on a device, and how much of the input quotas the first batch fills.

On a terminal a bar shows losses, speed, the share of the devices' peak FLOPS (MFU), and the share
of the time in which they waited for data; in a log there is a line every 30 seconds, which also has
the goodput: the share of the time of all processes of the run that was spent in steps whose result
is kept. The last line says what the rest was spent on. When a step takes ten times the median (at
least 5 s), the stacks of all threads are printed. --profile 10:13 traces four steps with JAX's
profiler, for TensorBoard's profile plugin or Perfetto.

RUN/config.json       the configuration of the run
RUN/metrics.jsonl     one line per step: step, loss, ce, bce, dice, grad_norm, learning_rate, ...
RUN/events.jsonl      started, resumed_from, placed, saved, skipped, dropped, validated, slow, ...
RUN/goodput.jsonl     what the time was spent on; see train/README.md
RUN/checkpoints/STEP  trained parameters; `glamm-jax export RUN --out MODEL` writes the model
RUN/profile           of --profile 10:13: what devices and host did in the steps 10 to 13
RUN/tensorboard       event files of TensorBoard; `glamm-jax report RUN` writes a web page

RUN, SHARDS, and the folders in the configuration may be in a bucket (gs://BUCKET/FOLDER); see
docs/storage.md. What is read of shards is kept in data.cache_dir, up to data.cache_bytes.

Exit status: 0 success, or stopped by a signal after saving; 2 unusable input, a killed worker
process, or a disk that is full; 3 another process of the run was lost or failed.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jax

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.aot.chips import chip_of
from glamm_jax.aot.plan import configured_mesh, plan
from glamm_jax.cli.processes import add_process_arguments, start_processes
from glamm_jax.cli.program import any_path, make_parser, run_program, this_machine
from glamm_jax.cli.train_progress import PeakStepSeconds, show_progress
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.config.flat import flatten_config
from glamm_jax.config.overrides import with_overrides
from glamm_jax.data.dataset_mixture import mixture_of
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation.validation import make_validate
from glamm_jax.training.clock import process_start
from glamm_jax.training.goodput import read_goodput
from glamm_jax.training.loop import MetricWriter, train
from glamm_jax.training.metric_writers import TensorBoard, WeightsAndBiases
from glamm_jax.training.profile_window import parse_steps
from glamm_jax.training.run_folder import print_line
from glamm_jax.training.step_layout import laid_out
from glamm_jax.weights.config_file import config_to_json


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax train") -> int:
    """Train; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("train", lambda: run(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax train") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "--config",
        type=this_machine,
        required=True,
        metavar="FILE",
        help="configuration of the run",
    )
    parser.add_argument(
        "--out", type=any_path, metavar="RUN", help="new folder, or the run to resume"
    )
    parser.add_argument("--plan", action="store_true", help="print what the run would need")
    parser.add_argument("--steps", type=int, metavar="N", help="stop after step N")
    parser.add_argument(
        "--from-step", type=int, metavar="N", help="resume from this checkpoint, not the latest"
    )
    parser.add_argument(
        "--profile", metavar="A:B", help="write a trace of the steps A to B to RUN/profile"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="also log to Weights & Biases")
    add_overrides(parser)
    add_process_arguments(parser)
    options = parser.parse_args(arguments)
    if options.out is None and not options.plan:
        parser.error("give --out RUN, the folder of the run (or --plan)")
    return options


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--data` and `--set NAME=VALUE ...`; see `configuration`."""
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="SHARDS",
        help="train on these datasets instead of the configuration's: folders written by "
        "`glamm-jax convert dataset`, or SCHEME/NAME",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change fields of the configuration, for example optim.peak_lr=1e-4",
    )


def run(options: argparse.Namespace) -> None:
    """Train according to the parsed command line."""
    config = configuration(load_config(options.config), options)
    if options.plan:
        mesh = configured_mesh(config)
        print(plan(laid_out(config, mesh.data * mesh.fsdp), mesh).text())
        return
    # The file of the configuration is compared as well as the command line.
    fields = flatten_config(config_to_json(config))
    group = start_processes("train", options, options.out, fields)
    writers: list[MetricWriter] = [TensorBoard(options.out / "tensorboard")]
    if options.wandb and (group is None or group.index == 0):
        writers.append(WeightsAndBiases(options.wandb, options.out, asdict(config)))
    profile_steps = parse_steps(options.profile) if options.profile else None
    records = train(
        config,
        options.out,
        options.steps,
        make_validate(config),
        writers,
        options.from_step,
        profile_steps,
        process_start(),
    )
    show_progress(records, options.steps or config.optim.total_steps, _peak_step_seconds(config))
    goodput = read_goodput(options.out) if group is None or group.index == 0 else None
    if goodput:
        print_line(goodput.summary())


def configuration(config: ExperimentConfig, options: argparse.Namespace) -> ExperimentConfig:
    """Return the configuration with the changes of `--data`, then of `--set`.

    Raises:
        ConfigError: a dataset does not exist, a name is unknown, or a value is invalid.
    """
    if options.data:
        mixture = mixture_of(options.data, config.data.mixture)
        config = replace(config, data=replace(config.data, mixture=mixture))
    return with_overrides(config, options.set)


def load_config(path: Path) -> ExperimentConfig:
    """Execute a configuration file and return what its `get_config()` returns.

    The file may import other modules of its own package (`configs.mixtures`) in any working
    directory.

    Raises:
        ConfigError: the file or the function does not exist, or the function returns another type.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    root = path.resolve().parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    get_config = runpy.run_path(str(path)).get("get_config")
    if not callable(get_config):
        raise ConfigError(f"{path}: has no function get_config()")
    config = get_config()
    if not isinstance(config, ExperimentConfig):
        name = type(config).__name__
        raise ConfigError(f"{path}: get_config() returns {name}, not an ExperimentConfig")
    return config


def _peak_step_seconds(config: ExperimentConfig) -> PeakStepSeconds | None:
    """Return the function of `show_progress`; None for unknown devices."""
    chip = chip_of(jax.devices()[0].device_kind)
    if chip is None:
        return None
    used, planned = config.mesh.devices or jax.device_count(), plan(config)
    return lambda fill: planned.filled_flops(fill) / (chip.peak_flops * used)


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.train"))
