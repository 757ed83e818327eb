"""Each file has a `get_config() -> ExperimentConfig`, which `python -m train --config` reads."""
