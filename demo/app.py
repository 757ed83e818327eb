"""The web app: `python -m demo.app` is `glamm-jax app`."""

import sys

from glamm_jax.cli.app import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m demo.app"))
