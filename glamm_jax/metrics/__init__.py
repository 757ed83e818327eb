"""Metrics of answers, computed from numpy arrays and run lengths, without a model.

iou: overlap of masks. phrase_matching: which reference phrases an answer contains. gcg, refseg,
captions, phrase_grounding, average_precision: the metrics of the paper, as the original code
computes them (compat) and by their definitions (strict). similarity: similarity of phrases. result:
the results of all metrics. docs/metrics.md compares the two modes.
"""
