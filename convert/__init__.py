"""`python -m convert COMMAND`: see README.md beside this file."""
