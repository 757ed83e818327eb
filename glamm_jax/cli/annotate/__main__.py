"""`python -m glamm_jax.cli.annotate` is `glamm-jax annotate`."""

import sys

from glamm_jax.cli.annotate import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.annotate"))
