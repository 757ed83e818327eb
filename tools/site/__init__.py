"""The documentation site (`make docs`): which files of the repository are pages of it."""
