"""Report on a run: `python -m train.report` is `glamm-jax report`."""

import sys

from glamm_jax.cli.report import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m train.report"))
