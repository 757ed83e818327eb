"""Questions to start from: a preset for each task, and examples with an image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glamm_jax.app.regions import Box, region_question
from glamm_jax.data.preprocess import open_image
from glamm_jax.files import write_atomic
from glamm_jax.miniworld import EASY, Scene, render_scene
from glamm_jax.miniworld.annotations import mask_box
from glamm_jax.miniworld.expressions import simple_expression
from glamm_jax.text.questions import CAPTION_QUESTIONS, GCG_QUESTIONS, SEGMENTATION_QUESTIONS

OBJECT = "object"  # in the preset; the person writes the name of one instead
# Name on the page -> question. The preset about boxes depends on their number.
PRESETS = {
    "Describe with masks": GCG_QUESTIONS[0],
    "Segment an object": SEGMENTATION_QUESTIONS[0].format(name=OBJECT),
    "Describe the image": CAPTION_QUESTIONS[0],
}
REGION_PRESET = "Describe the boxes"
THUMBNAIL = 160  # pixels
SCENE_SEED = 77_002  # training renders scenes of other seeds
SCENE_SIZE = 64  # pixels of a side, as the shipped model was trained


@dataclass(frozen=True, eq=False)
class ImageExample:
    """An image and a question about it.

    Attributes:
        pixels: the image.
        question: in raw form.
        boxes: that the question refers to, in pixels.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    question: str
    boxes: tuple[Box, ...] = ()


def preset_question(name: str, num_boxes: int) -> str:
    """Return the question of a preset.

    Args:
        name: of the preset.
        num_boxes: boxes on the image.
    """
    return region_question(max(1, num_boxes)) if name == REGION_PRESET else PRESETS[name]


def scene_examples() -> list[ImageExample]:
    """Return rendered scenes, one for each preset."""
    scenes = [render_scene(SCENE_SEED, number, SCENE_SIZE, EASY) for number in range(4)]
    front = [len(scene.objects) - 1 for scene in scenes]
    return [
        ImageExample(scenes[0].image, PRESETS["Describe with masks"]),
        ImageExample(scenes[1].image, _segmentation_question(scenes[1])),
        ImageExample(
            scenes[2].image, region_question(1), (mask_box(scenes[2].object_mask(front[2])),)
        ),
        ImageExample(scenes[3].image, PRESETS["Describe the image"]),
    ]


def file_example(path: Path) -> ImageExample:
    """Return an image file with the question for a description with masks.

    Raises:
        ImageError: it is not a readable image.
    """
    return ImageExample(open_image(path), PRESETS["Describe with masks"])


def write_thumbnails(examples: list[ImageExample], folder: Path) -> Iterator[Path]:
    """Write the images of examples as PNG files, and yield their paths."""
    for number, example in enumerate(examples):
        path, png = folder / f"example-{number + 1}.png", io.BytesIO()
        image = Image.fromarray(example.pixels)
        image.resize((THUMBNAIL, max(1, THUMBNAIL * image.height // image.width))).save(png, "PNG")
        write_atomic(path, png.getvalue())
        yield path


def _segmentation_question(scene: Scene) -> str:
    objects = reversed(range(len(scene.objects)))
    queries = (simple_expression(scene, index) for index in objects)
    name = next((query.text for query in queries if query is not None), OBJECT)
    return SEGMENTATION_QUESTIONS[0].format(name=name.removeprefix("the "))
