"""Models whose failures are written in the names of the images: `scripted_roles.toml` names them.

Every image shows one dog, in the box `dog_box`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.grand.prompts import default_prompts, parse_request
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, PhraseQuery, RoleError, RoleImage

CAPTION = "A dog stands alone and looks around."
CONTEXT = (
    "Dogs have lived with people for thousands of years and guard their houses. They also help "
    "hunters, shepherds and the police. A dog that is alone may become anxious. It should be "
    "taken for a walk several times a day."
)
REFUSAL = "I'm sorry, I cannot help with that."
# Word in the name of an image -> answer to each request for a dense caption.
ANSWERS: dict[str, LLMAnswer] = {
    "refusal": LLMAnswer(REFUSAL, "stop"),
    "no answer": LLMAnswer("", "stop"),
    "unfinished": LLMAnswer("A dog stands alone and", "length"),
    "too long": LLMAnswer(f"A dog sees {' '.join(f'thing{k}' for k in range(300))}.", "stop"),
    "markup": LLMAnswer("- a dog\n- a street\n- a house\n- a tree", "stop"),
    "repeats": LLMAnswer(default_prompts().caption("")[2].text, "stop"),
    "inventions": LLMAnswer("A dog stands alone beside a white elephant.", "stop"),
}
ROLES = """
[detectors.a]
class = "tests.grand.scripted_roles:ScriptedDetector"
name = "a"
[detectors.b]
class = "tests.grand.scripted_roles:ScriptedDetector"
name = "b"
[detectors.c]
class = "tests.grand.scripted_roles:ScriptedDetector"
name = "c"
[region_proposer]
class = "tests.grand.scripted_roles:ScriptedProposer"
[segmenter]
class = "tests.grand.scripted_roles:ScriptedSegmenter"
[depth_estimator]
class = "tests.grand.scripted_roles:ScriptedDepth"
[captioners.a]
class = "tests.grand.scripted_roles:ScriptedCaptioner"
[phrase_grounder]
class = "tests.grand.scripted_roles:ScriptedGrounder"
[llm]
class = "tests.grand.scripted_roles:ScriptedWriter"
"""


def write_roles(path: Path) -> Path:
    """Write the file that `--roles` names."""
    path.write_text(ROLES)
    return path


def dog_box(image: RoleImage) -> Box:
    height, width = image.pixels.shape[:2]
    return 0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height


def box_mask(image: RoleImage, box: Box) -> Any:
    mask = np.zeros(image.pixels.shape[:2], bool)
    x0, y0, x1, y1 = map(int, box)
    mask[y0:y1, x0:x1] = True
    return rle.encode(mask)


class _ScriptedRole:
    needs_device = False

    def __init__(self, name: str = ""):
        self.name = name or type(self).__name__
        self.fingerprint = f"{self.name}-1"

    def setup(self) -> None: ...


class ScriptedDetector(_ScriptedRole):
    """Its batches do not fit the memory if there is a large image, unless they are of two."""

    def __call__(self, images: Sequence[RoleImage]) -> list[Any]:
        names = [image.image_id for image in images]
        if self.name == "c" and any("raises" in name for name in names):
            raise RuntimeError("the model is broken")
        if len(names) > 2 and any("large" in name for name in names):
            raise RuntimeError("CUDA out of memory")
        return [self._detect(image) for image in images]

    def _detect(self, image: RoleImage) -> Any:
        name = image.image_id
        if ("one missing" in name and self.name == "c") or (
            "two missing" in name and self.name != "a"
        ):
            return RoleError("model", "no result")
        if "invalid" in name and self.name == "c":
            return [Detection((9.0, 9.0, 3.0, 3.0), 0.9, "dog")]
        return [] if "nothing" in name else [Detection(dog_box(image), 0.9, "dog")]


class ScriptedProposer(_ScriptedRole):
    def __call__(self, images: Sequence[RoleImage]) -> list[Any]:
        return [[] if "nothing" in x.image_id else [self._propose(x)] for x in images]

    def _propose(self, image: RoleImage) -> Detection:
        box, (height, width) = dog_box(image), image.pixels.shape[:2]
        mask = box_mask(image, box)
        if "empty mask" in image.image_id:
            mask = rle.encode(np.zeros((height, width), bool))
        if "mask elsewhere" in image.image_id:
            mask = box_mask(image, (0.0, 0.0, 5.0, 5.0))
        if "mask of another size" in image.image_id:
            mask = rle.encode(np.ones((3, 5), bool))
        if "no run lengths" in image.image_id:
            mask = {"size": [height, width], "counts": [1, -7]}
        return Detection(box, 0.9, mask=mask)


class ScriptedSegmenter(_ScriptedRole):
    def __call__(self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]) -> list[Any]:
        return [
            [
                box_mask(image, (0.0, 0.0, 0.0, 0.0) if "twice" in image.image_id else box)
                for box in group
            ]
            for image, group in zip(images, boxes, strict=True)
        ]


class ScriptedDepth(_ScriptedRole):
    def __call__(self, images: Sequence[RoleImage]) -> list[Any]:
        return [np.ones(image.pixels.shape[:2], np.float32) for image in images]


class ScriptedCaptioner(_ScriptedRole):
    def __call__(self, images: Sequence[RoleImage]) -> list[Any]:
        return ["A dog stands there." for _ in images]


class ScriptedGrounder(_ScriptedRole):
    def __call__(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> list[Any]:
        return [
            [[] if "nothing" in image.image_id else [Detection(dog_box(image), 0.9)] for _ in group]
            for image, group in zip(images, phrases, strict=True)
        ]


class ScriptedWriter(_ScriptedRole):
    """Writes captions, checklists and contexts."""

    def __call__(self, requests: Sequence[LLMRequest]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: LLMRequest) -> LLMAnswer:
        kind = parse_request(request.messages, default_prompts()).kind
        if kind == "checklist":
            text = "There is a dog." if "checklist" in request.image_id else "OBJECT: a dog"
            return LLMAnswer("" if "inventions" in request.image_id else text, "stop")
        if kind == "context":
            return LLMAnswer(CONTEXT, "stop")
        special = next((ANSWERS[word] for word in ANSWERS if word in request.image_id), None)
        return special or LLMAnswer(CAPTION, "stop")
