"""The tiny model learns the mini-world from nothing: `python -m examples.learn_miniworld`."""
