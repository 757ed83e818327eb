"""Training configurations: each file has a `get_config() -> ExperimentConfig`."""
