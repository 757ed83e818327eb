"""The demo: a model learns a new world; and questions to a model on the command line."""
