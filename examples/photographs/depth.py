"""Inverse depth of the photographs: of one measured, of the others a substitute.

`motorcycle` is the left image of a stereo pair: OpenCV's semi-global block matching gives its
disparities, which are inverse depth up to a factor. For the others no model of monocular depth is
at hand: what is lower in the image counts as nearer. That orders objects on a floor correctly, and
says nothing about objects whose feet are not seen.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data  # pyright: ignore[reportMissingImports]  # see __main__.py
from PIL import Image

DISPARITIES = 128  # pixels that are searched


def write_depth(images: Path, depth: Path) -> None:
    """Write a map of inverse depth for each photograph, as .npy.

    Args:
        images: folder of the photographs.
        depth: folder of the maps.
    """
    for path in sorted(images.iterdir()):
        if path.stem == "motorcycle":
            values = stereo_disparity()
        else:
            with Image.open(path) as image:
                width, height = image.size
            rows = np.linspace(0.0, 1.0, height, dtype=np.float32)
            values = np.repeat(rows[:, None], width, axis=1)
        np.save(depth / f"{path.stem}.npy", values)


def stereo_disparity() -> np.ndarray:
    """Return the disparities in pixels; where they are unknown, those next to the right."""
    left, right, _ = skimage.data.stereo_motorcycle()
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=DISPARITIES,
        blockSize=5,
        P1=8 * 3 * 25,
        P2=32 * 3 * 25,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
    )
    steps = matcher.compute(left, right)  # sixteenths of a pixel; negative: unknown
    values = steps.astype(np.float32) / 16
    for row in values:
        valid = np.flatnonzero(row > 0)
        if len(valid):
            row[:] = row[valid[np.searchsorted(valid, np.arange(len(row))).clip(0, len(valid) - 1)]]
        else:
            row[:] = 0
    return np.maximum(values, 0)
