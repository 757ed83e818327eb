"""Lookup of a dataset's splits, annotation files and images below the data folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.sources.defects import (
    MISSING_IMAGE,
    UNREADABLE_IMAGE,
    DefectLog,
    SourceError,
)


class ImageFile(NamedTuple):
    """The bytes of an image file, and the size of the upright image in pixels."""

    data: bytes
    height: int
    width: int


def require_split(name: str, split: str, splits: Collection[str]) -> None:
    """Check that a dataset has a split.

    Args:
        name: of the dataset, for the message.
        split: the requested one.
        splits: all that the dataset has.

    Raises:
        SourceError: it does not; lists the splits.
    """
    if split not in splits:
        raise SourceError(f"{name}: no split {split!r}; available: {', '.join(splits) or 'none'}")


def first_existing(root: Path, places: Iterable[str]) -> Path:
    """Return the first of several paths below `root` that exists.

    There are several because the layouts in the documentation and in the code of the original
    differ.

    Raises:
        SourceError: none exists; lists all of them.
    """
    places = list(places)
    for place in places:
        if (root / place).exists():
            return root / place
    raise SourceError(f"{root}: contains no {' and no '.join(places)}")


def find_image(root: Path, folders: Iterable[str], name: str) -> Path | None:
    """Return the path of an image in the first of several folders that contains it.

    Args:
        root: the data folder.
        folders: below `root`.
        name: of the image file.

    Returns:
        None if no folder contains it.
    """
    paths = (os.path.join(root, folder, name) for folder in folders)
    # Unlike Path.is_file, os.path.isfile does not raise for names that no file system allows.
    return next((Path(path) for path in paths if os.path.isfile(path)), None)


def open_image_file(path: Path | None, folders: Sequence[str], log: DefectLog) -> ImageFile | None:
    """Read an image that `find_image` looked up; None and a defect where that is not possible.

    Args:
        path: of the file; None if it was not found.
        folders: in which it was looked up, for the defect.
        log: for the defect.
    """
    if path is None:
        log.add(MISSING_IMAGE, f"not in {' or '.join(folders)}")
    return read_image_file(path, log) if path else None


def read_image_file(path: Path, log: DefectLog) -> ImageFile | None:
    """Read an image and decode it completely; None and a defect where that is not possible."""
    try:
        data = path.read_bytes()
        height, width = open_image(data).shape[:2]
    except ImageError as error:
        log.add(UNREADABLE_IMAGE, f"{path.name}: {error}")
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        log.add(MISSING_IMAGE, f"{path.name}: {error}")
    else:
        return ImageFile(data, height, width)
    return None
