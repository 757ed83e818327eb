"""`python -m glamm_jax COMMAND` is `glamm-jax COMMAND`."""

import sys

from glamm_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
