"""`python -m train`, `train.export`, `train.report`: see README.md beside this file."""
