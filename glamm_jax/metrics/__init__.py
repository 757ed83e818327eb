"""What answers are worth: numpy and run lengths, no model.

iou: how well masks agree. phrases: which true phrases an answer names.
"""
