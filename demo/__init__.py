"""The demo: a model is trained on a new world; and `demo.ask`, questions on the command line."""
