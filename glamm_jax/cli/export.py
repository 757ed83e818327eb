"""A run's model as a model folder: for `demo.ask`, `convert to-torch`, or the start of another run.

  python -m train.export RUN --out MODEL                 of the latest checkpoint
  python -m train.export RUN --out MODEL --step 5000     of that one
  python -m convert merge MODEL --out MERGED             then, to fold adapters into the kernels

What was trained is written in float32, all else as the run began with it. The tokenizer is put
beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.training.initialization import trained_model
from glamm_jax.training.run_folder import RunError
from glamm_jax.weights.folder import write_model
from glamm_jax.weights.safetensors import TensorFileError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; 2 when the run or the folder cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m train.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="a new folder")
    parser.add_argument("--step", type=int, metavar="N", help="default: the latest")
    options = parser.parse_args(arguments)
    try:
        config, model = trained_model(options.run, options.step)
        with tqdm(desc="writing", unit="B", unit_scale=True, disable=None) as bar:

            def advance(name: str, nbytes: int) -> None:
                bar.update(nbytes)

            tokenizer = Path(config.data.tokenizer)
            write_model(options.out, config.model, model, tokenizer, on_tensor=advance)
    except (ConfigError, FolderError, RunError, TensorFileError) as error:
        print(f"train.export: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: python -m demo.ask --model {options.out} --image FILE --prompt TEXT"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
