"""Export a run: `python -m train.export` is `glamm-jax export`."""

import sys

from glamm_jax.cli.export import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m train.export"))
