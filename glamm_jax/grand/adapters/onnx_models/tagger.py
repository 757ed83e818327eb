"""Classifiers in ONNX and TFLite files as taggers.

tagger = ONNXTagger("efficientnet.toml", "efficientnet")
tagger([RoleImage("a.jpg", pixels)])[0][0]          # Tag("tabby cat", 0.61)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glamm_jax.grand.adapters.onnx_models.decoding import (
    Outputs,
    probabilities,
    vector_of,
)
from glamm_jax.grand.adapters.onnx_models.described_model import DescribedModel
from glamm_jax.grand.adapters.onnx_models.images import PreparedImage
from glamm_jax.grand.roles import Results, RoleImage, Tag


class ONNXTagger(DescribedModel):
    """A classifier whose best classes are the tags; arguments as of `DescribedModel`.

    With `activation = "softmax"` the scores of all classes add up to 1, with "sigmoid" each class
    is decided for itself.
    """

    decodings = ("classes",)

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Tag]]:
        return self.answer_each(images)

    def answer(self, outputs: Outputs, image: PreparedImage) -> list[Tag]:
        """Return the tags of one image, the highest score first.

        Args:
            outputs: of the model.
            image: its input.
        """
        options, names = self.description.output, self.description.classes
        values = vector_of(outputs, options.scores[0], len(names))
        scores = probabilities(values, options.activation)
        tags = []
        for number in np.argsort(-scores, kind="stable")[: options.top].tolist():
            if names[number] and scores[number] >= self.description.min_score:
                tags.append(Tag(names[number], float(scores[number])))
        return tags
