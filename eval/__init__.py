"""`python -m eval`: see README.md beside this file."""
