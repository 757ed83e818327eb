"""`python -m tools.parity` is `glamm-jax convert parity`."""

import sys

from glamm_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main(["parity", *sys.argv[1:]]))
