"""Train a model as a configuration file says.

CONFIG is a Python file with `get_config() -> ExperimentConfig`; it is executed. Any field can be
changed by its dotted name, and an unknown name is answered with the nearest one:

  python -m train --config configs/tiny.py --out runs/tiny
  python -m train --config configs/tiny.py --out runs/slow --set optim.peak_lr=1e-4 data.seed=3
  python -m train --config configs/tiny.py --out runs/look --steps 5

RUN/config.json is the configuration as it was used; RUN/metrics.jsonl gets one line a step: step,
loss, ce, bce, dice, grad_norm, learning_rate, seconds. --steps stops early; the schedule of the
learning rate stays that of optim.total_steps. Weights are not saved yet, and a run cannot be
continued: a RUN that holds metrics is refused.

Exit status: 0 done, 2 the configuration, the tokenizer or RUN cannot be used.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from tqdm import tqdm

from glamm_jax.checks import ConfigError
from glamm_jax.data.fill import DataError
from glamm_jax.experiment import ExperimentConfig
from glamm_jax.overrides import with_overrides
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.training.loop import METRICS, RunError, train


def main(arguments: list[str] | None = None) -> int:
    """Parse, load, train; 2 with one line when something cannot be used."""
    options = parse(arguments)
    try:
        config = with_overrides(load_config(options.config), options.set)
        records = train(config, options.out, options.steps)
        print(f"drawing and compiling; metrics go to {options.out / METRICS}", flush=True)
        for record in (bar := tqdm(records, total=options.steps or config.optim.total_steps)):
            losses = (f"{name} {record[name]:.3f}" for name in ("loss", "ce", "bce", "dice"))
            bar.set_postfix_str(" ".join(losses))
    except (ConfigError, TokenizerError, DataError, RunError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="a new folder")
    parser.add_argument("--steps", type=int, metavar="N", help="stop after N steps")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change fields of the configuration",
    )
    return parser.parse_args(arguments)


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
