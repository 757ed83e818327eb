"""A tiny GLaMM learns the mini-world from random weights: `python -m examples.learn_miniworld`."""
