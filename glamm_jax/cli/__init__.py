"""The programs: `glamm-jax COMMAND`, or `python -m train | eval | convert` in a checkout."""
