"""Eight photographs of scikit-image, scikit-learn and matplotlib, and a caption for each."""

from __future__ import annotations

from pathlib import Path

import matplotlib.cbook  # pyright: ignore[reportMissingImports]  # see __main__.py
import numpy as np
import skimage.data  # pyright: ignore[reportMissingImports]  # see __main__.py
from PIL import Image
from sklearn.datasets import load_sample_image

# Written by hand, looking at the photographs; they stand for those of a captioner.
CAPTIONS = {
    "astronaut": "A smiling woman in an orange space suit stands before a flag and a model of a "
    "space shuttle.",
    "chelsea": "A tabby cat looks past the camera.",
    "china": "Chinese palaces with curved roofs stand on a hill under a blue sky.",
    "coffee": "A cup of black coffee and a spoon stand on a saucer on a wooden table.",
    "flower": "A large orange flower grows in front of green leaves.",
    "grace_hopper": "An old woman in a dark uniform with a cap and a tie looks into the camera.",
    "motorcycle": "A red motorcycle stands in a garage in front of a workbench.",
    "rocket": "A rocket stands on a launch pad between two towers at dawn.",
}


def write_photographs(images: Path, captions: Path) -> None:
    """Write the photographs as PNG, and their captions as text.

    Args:
        images: folder of the photographs.
        captions: folder of the captions.
    """
    for name, caption in CAPTIONS.items():
        Image.fromarray(photograph(name)).save(images / f"{name}.png")
        (captions / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


def photograph(name: str) -> np.ndarray:
    """Return the pixels of a photograph, RGB."""
    if name == "motorcycle":
        return skimage.data.stereo_motorcycle()[0]
    if name in ("china", "flower"):
        return np.asarray(load_sample_image(f"{name}.jpg"))
    if name == "grace_hopper":
        path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
        with Image.open(str(path)) as file:
            return np.asarray(file.convert("RGB"))
    return np.asarray(getattr(skimage.data, name)())
