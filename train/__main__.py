"""Train a model: `python -m train` is `glamm-jax train`."""

import sys

from glamm_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m train"))
