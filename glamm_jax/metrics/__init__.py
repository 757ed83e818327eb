"""What answers are worth: numpy and run lengths, no model.

iou: how well masks agree. phrases: which true phrases an answer names. gcg, refseg, captions,
grounding: the paper's figures, as the original counts them and as their definitions say.
similarity: which phrases mean the same. scored: what all of them give back. docs/metrics.md sets
the two ways of counting side by side.
"""
