"""Captions of COCO, which help a language model to understand a scene."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glamm_jax.data.sources.coco_file import read_coco


def captions_of(root: Path, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the captions by the id of their image, of all files that exist.

    Args:
        root: the data folder.
        names: paths of the files below it.

    Raises:
        SourceError: a file is damaged.
    """
    captions: dict[str, tuple[str, ...]] = {}
    for name in names:
        if (root / name).is_file():
            for key, annotations in read_coco(root / name).annotations.items():
                texts = (annotation.get("caption") for annotation in annotations)
                valid = tuple(text for text in texts if isinstance(text, str) and text.strip())
                captions[key] = captions.get(key, ()) + valid
    return captions
