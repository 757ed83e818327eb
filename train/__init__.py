"""The program that trains; see README.md beside this file."""
