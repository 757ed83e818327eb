"""`python -m annotate`: see README.md beside this file."""
