"""The demo: a model is trained on a new world; `demo.ask` and `demo.app` ask a model questions."""
