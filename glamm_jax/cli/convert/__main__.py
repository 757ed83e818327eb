"""`python -m glamm_jax.cli.convert` is `glamm-jax convert`."""

import sys

from glamm_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.convert"))
