"""Programs that score models and predictions: `python -m eval BENCHMARK`."""
