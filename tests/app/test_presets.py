"""Presets and examples are questions that can be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from glamm_jax.app.conversation import Conversation, picture_of
from glamm_jax.app.presets import (
    OBJECT,
    PRESETS,
    REGION_PRESET,
    file_example,
    preset_question,
    scene_examples,
    write_thumbnails,
)
from glamm_jax.data.boxes import check_boxes


def test_examples_are_scenes_with_valid_questions() -> None:
    examples = scene_examples()
    assert len({example.question for example in examples}) == len(examples) == 4
    for example in examples:
        session = Conversation(picture_of(example.pixels), example.boxes)
        session.request(example.question, {})
        check_boxes(example.boxes, *example.pixels.shape[:2])
        assert f"the {OBJECT} " not in example.question


def test_the_preset_of_boxes_names_all_of_them() -> None:
    assert preset_question(REGION_PRESET, 0).count("<bbox>") == 1  # asks to draw one
    assert preset_question(REGION_PRESET, 3).count("<bbox>") == 3
    assert f"the {OBJECT} " in preset_question("Segment an object", 0)
    assert all(preset_question(name, 2) for name in PRESETS)


def test_thumbnails_are_small_images(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((10, 2000, 3), np.uint8)).save(path)
    folder = tmp_path / "thumbnails"
    [thumbnail] = write_thumbnails([file_example(path)], folder)
    with Image.open(thumbnail) as image:
        assert image.size == (160, 1)
