"""Ask a model about an image: `python -m demo.ask` is `glamm-jax ask`."""

import sys

from glamm_jax.cli.ask import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m demo.ask"))
