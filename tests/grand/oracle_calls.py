"""Calls of the oracles with inputs that every role accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.grand.adapters import ORACLES, NoiseOptions
from glamm_jax.grand.adapters.noise import NO_NOISE
from glamm_jax.grand.roles import ChatMessage, LabelQuestion, LLMRequest, PhraseQuery, RoleImage
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.truth_folder import IMAGES, SceneTruth, open_truth

KINDS = tuple(kind for kind in ORACLES if kind != "llm")
OPTIONS: dict[str, dict[str, Any]] = {"detector": {"masks": True}}
EMPTY_BOX = (0.5, 0.5, 3.25, 4.75)  # too small for any object of the scenes


@lru_cache(maxsize=64)
def read_image(folder: Path, image_id: str) -> RoleImage:
    """Read an image of a folder of scenes."""
    with Image.open(folder / IMAGES / f"{image_id}.png") as image:
        return RoleImage(image_id, np.asarray(image))


def make_oracle(
    kind: str, folder: Path, noise: NoiseOptions = NO_NOISE, name: str = "model"
) -> Any:
    """Return an oracle that is ready."""
    role: Any = ORACLES[kind](folder, name, noise, **OPTIONS.get(kind, {}))
    role.setup()
    return role


def call(role: Any, kind: str, folder: Path, image_ids: Sequence[str]) -> list[Any]:
    """Call an oracle with images and whatever else its role needs."""
    images = [read_image(folder, image_id) for image_id in image_ids]
    return role(images, *columns(kind, folder, image_ids))


def columns(kind: str, folder: Path, image_ids: Sequence[str]) -> list[list[Any]]:
    """Return the inputs of a role other than the images."""
    column = _COLUMNS.get(kind)
    return [] if column is None else [[column(open_truth(folder)[i]) for i in image_ids]]


def true_boxes(truth: SceneTruth) -> list[Any]:
    """Return the boxes of all objects, and one that contains nothing."""
    return [item.box for item in truth.objects] + [EMPTY_BOX]


def phrase_queries(truth: SceneTruth) -> list[PhraseQuery]:
    """Return the phrases of the true captions, and three that name no object."""
    queries = [
        PhraseQuery(text, text[start:end], (start, end))
        for text, phrases in truth.captions
        for start, end, _ in phrases
    ]
    return queries + [PhraseQuery("", phrase, None) for phrase in ("a yard", "", "the star-like")]


_COLUMNS: dict[str, Any] = {
    "open_detector": lambda truth: [*SHAPES, "grass"],
    "region_classifier": true_boxes,
    "region_captioner": true_boxes,
    "segmenter": true_boxes,
    "label_chooser": lambda truth: [
        LabelQuestion(box, ("chair", *SHAPES)) for box in true_boxes(truth)
    ],
    "phrase_grounder": phrase_queries,
}


def graph_text(truth: SceneTruth) -> str:
    """Return a request for a dense caption: an example and feedback, then the scene graph."""
    groups = [f"Group {k}: {item.shape}/{item.description}" for k, item in enumerate(truth.objects)]
    return "\n".join(
        [
            "Describe the image. An example:",
            "Foreground:",
            "Group 0: dog/a brown dog",
            "Landmarks:",
            "Indoor scene, Living space",
            "Caption: A brown dog is near.",
            "Not in the graph: a cat",
            "",
            "Immediate Foreground:",
            groups[0],
            "Background:",
            *groups[1:],
            "",
            "Short Captions:",
            *(caption.text for caption in truth.captions),
            "",
            "Relationships:",
            "a phrase, Group Ids: (0)",
            "",
            "Landmarks:",
            ", ".join(truth.landmark),
            "",
        ]
    )


def request(text: str, image_id: str = "scene", seed: int = 0) -> LLMRequest:
    """Return a request of one user message, after a system message."""
    return LLMRequest(image_id, (ChatMessage("system", "."), ChatMessage("user", text)), seed)
