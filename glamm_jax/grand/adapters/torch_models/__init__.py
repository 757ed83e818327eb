"""Adapters of models of transformers: `class = "transformers"` in a file of roles.

    [detectors.co_detr]
    class = "transformers"
    model = "PekingU/rtdetr_r50vd"   # or "ORG/NAME@REVISION", or a folder beside the file
    device = "cuda"                  # default: "auto"
    threshold = 0.1

`adapter` has what all share, `model_files` where the weights come from; every other module has one
family of models. The class of a model follows from the `model_type` of its config.json. Code of a
repository is never run, and weights are read from safetensors only.
"""
