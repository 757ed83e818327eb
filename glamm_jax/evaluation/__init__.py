"""Evaluation of a model on benchmarks: items, predictions, scores, reports.

Order of the data: `items` opens a benchmark's items (`benchmarks`), `predict` and `runner` generate
predictions, the benchmark scores them with `glamm_jax.metrics`, and the pages show the result.
`evaluation_run` is one evaluation from beginning to end.
"""
