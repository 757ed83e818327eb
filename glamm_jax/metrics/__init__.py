"""What answers are worth: numpy and run lengths, no model.

iou: how well masks agree. phrases: which true phrases an answer names. gcg, refseg, captions,
grounding: the paper's figures, as the original counts them and as their definitions say; scored: what
they give back. similarity: which phrases mean the same. docs/metrics.md compares the two modes.
"""
