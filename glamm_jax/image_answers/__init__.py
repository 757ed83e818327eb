"""Answers about the images of a folder, as lines of JSON and in the formats of other programs."""
