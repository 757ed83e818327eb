"""Evaluate: `python -m eval` is `glamm-jax eval`."""

import sys

from glamm_jax.cli.eval import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m eval"))
