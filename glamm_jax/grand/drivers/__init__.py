"""Drivers: the same chunks, processed on one machine (`local`), or by Apache Beam or Ray.

Each has a function `run_NAME(run, graph, ...)`, which can be called again after any interruption,
also with another driver: what is finished is kept.
"""
