"""Errors of the oracles: one option for each kind of error that a model makes.

    NoiseOptions(misses=0.15)       # every detector misses 15 % of the objects
    NOISE["hard"]

All errors are functions of the image id and the name of the model: an image has the same errors in
every batch, and two models with different names make independent errors. Values of one option do
not shift the errors of another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from hashlib import blake2b

from glamm_jax.config.checks import require


@dataclass(frozen=True)
class NoiseOptions:
    """How often oracles err, and by how much; probabilities unless another unit is stated.

    Attributes:
        misses: a detector or dense captioner does not return an object.
        false_positives: boxes of a detector or dense captioner that contain no object: the mean
            number for an image.
        box_jitter: standard deviation of the edges of their boxes, in widths and heights of the
            box.
        label_confusion: a detector or region classifier returns another label.
        choice_errors: the label chooser prefers a wrong label of the list.
        attribute_errors: a dense or region captioner states another colour, texture or size.
        mask_erosion: pixels removed at the upper and at the lower edge of a mask of a detector,
            proposer or segmenter, in square roots of the mask's area: the mean.
        proposal_misses: the proposer does not return a region.
        depth_noise: standard deviation of the depth of an object, as a share of the full range.
        tag_misses: a tagger does not return a tag.
        landmark_errors: another kind of place.
        caption_omissions: a captioner does not name an object.
        caption_inventions: a captioner names an object that is not there.
        grounding_misses: a phrase grounder returns no box for a phrase.
        llm_inventions: a caption of the language model has an object that is not in its graph.
        llm_refusals: the language model refuses to answer.
        llm_truncations: its answer is cut.
        corrupt_images: no model can process the image.
    """

    misses: float = 0.0
    false_positives: float = 0.0
    box_jitter: float = 0.0
    label_confusion: float = 0.0
    choice_errors: float = 0.0
    attribute_errors: float = 0.0
    mask_erosion: float = 0.0
    proposal_misses: float = 0.0
    depth_noise: float = 0.0
    tag_misses: float = 0.0
    landmark_errors: float = 0.0
    caption_omissions: float = 0.0
    caption_inventions: float = 0.0
    grounding_misses: float = 0.0
    llm_inventions: float = 0.0
    llm_refusals: float = 0.0
    llm_truncations: float = 0.0
    corrupt_images: float = 0.0

    def __post_init__(self) -> None:
        limits = {"false_positives": 20.0, "box_jitter": 0.5, "mask_erosion": 0.25}
        for field in fields(self):
            limit = limits.get(field.name, 1.0)
            value = getattr(self, field.name)
            require(0 <= value <= limit, self, field.name, f"must be in 0 to {limit:g}")


NO_NOISE = NoiseOptions()
# The first three of "easy" and "hard" are those of the measurements in the specification.
NOISE: dict[str, NoiseOptions] = {
    "none": NO_NOISE,
    "easy": NoiseOptions(
        misses=0.15,
        false_positives=1.0,
        box_jitter=0.03,
        label_confusion=0.05,
        choice_errors=0.02,
        attribute_errors=0.05,
        mask_erosion=0.02,
        proposal_misses=0.1,
        depth_noise=0.01,
        tag_misses=0.05,
        landmark_errors=0.02,
        caption_omissions=0.1,
        caption_inventions=0.05,
        grounding_misses=0.05,
        llm_inventions=0.1,
        llm_refusals=0.02,
        llm_truncations=0.02,
    ),
    "hard": NoiseOptions(
        misses=0.3,
        false_positives=4.0,
        box_jitter=0.09,
        label_confusion=0.15,
        choice_errors=0.05,
        attribute_errors=0.15,
        mask_erosion=0.05,
        proposal_misses=0.3,
        depth_noise=0.04,
        tag_misses=0.15,
        landmark_errors=0.1,
        caption_omissions=0.3,
        caption_inventions=0.2,
        grounding_misses=0.2,
        llm_inventions=0.25,
        llm_refusals=0.05,
        llm_truncations=0.05,
        corrupt_images=0.01,
    ),
}


def seeded_random(*key: object) -> random.Random:
    """Return a random generator for a key, such as image id and name of the model."""
    digest = blake2b("\0".join(map(str, key)).encode("utf-8", "surrogatepass"), digest_size=8)
    return random.Random(int.from_bytes(digest.digest(), "little"))
