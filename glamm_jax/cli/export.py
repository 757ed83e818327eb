"""Write the trained model of a run as a model folder.

examples:
  glamm-jax export runs/gcg --out trained                 # the latest checkpoint
  glamm-jax export runs/gcg --out trained --step 5000     # the checkpoint of step 5000
  glamm-jax convert merge trained --out merged            # then: merge the LoRA adapters

The checkpoint is verified first; for a damaged one the error names the newest intact earlier one.
Trained weights are written in float32, all others as the run was initialized with them. The
tokenizer is copied into the folder. `glamm-jax ask`, `glamm-jax eval`, `glamm-jax convert to-torch`
and `init.model` of another run read the folder.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from glamm_jax.cli.program import any_path, make_parser, run_program
from glamm_jax.cli.progress import progress_bar
from glamm_jax.storage import to_path
from glamm_jax.training.initialization import load_trained_model
from glamm_jax.weights.folder import write_model


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax export") -> int:
    """Write the folder; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("export", lambda: export(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax export") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("run", type=any_path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="MODEL", help="new model folder"
    )
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    return parser.parse_args(arguments)


def export(options: argparse.Namespace) -> None:
    """Load the trained model and write it."""
    config, model = load_trained_model(options.run, options.step)
    tokenizer = to_path(config.data.tokenizer)
    with progress_bar(None, "writing") as advance:
        write_model(options.out, config.model, model, tokenizer, on_tensor=advance)
    print(f"{options.out}: glamm-jax ask --model {options.out} --image FILE --prompt TEXT")


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.export"))
