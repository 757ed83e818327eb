"""Write the model of a training run as a model folder.

  glamm-jax export RUN --out MODEL                 the latest checkpoint
  glamm-jax export RUN --out MODEL --step 5000     that of step 5000
  glamm-jax convert merge MODEL --out MERGED       then, to fold LoRA adapters into the kernels

Trained weights are written in float32, all others as the run was initialized with them. The
tokenizer is copied into the folder. `glamm-jax ask`, `glamm-jax convert to-torch` and the `init`
of another run read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from glamm_jax.cli.program import make_parser, run_program
from glamm_jax.cli.progress import progress_bar
from glamm_jax.training.initialization import load_trained_model
from glamm_jax.weights.folder import write_model


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax export") -> int:
    """Write the folder; returns the exit status."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="a new folder")
    parser.add_argument("--step", type=int, metavar="N", help="default: the latest")
    options = parser.parse_args(arguments)
    return run_program("export", lambda: export(options))


def export(options: argparse.Namespace) -> None:
    """Load the trained model and write it."""
    config, model = load_trained_model(options.run, options.step)
    tokenizer = Path(config.data.tokenizer)
    with progress_bar(None, "writing") as advance:
        write_model(options.out, config.model, model, tokenizer, on_tensor=advance)
    print(f"{options.out}: glamm-jax ask --model {options.out} --image FILE --prompt TEXT")
