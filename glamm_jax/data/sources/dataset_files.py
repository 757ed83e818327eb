"""Lookup of a dataset's splits, annotation files and images below the data folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, ImageError, open_image, with_end_marker
from glamm_jax.data.sources.defects import (
    MISSING_IMAGE,
    NO_END_MARKER,
    OUTSIDE_FILE,
    UNREADABLE_IMAGE,
    DefectLog,
    SourceError,
)
from glamm_jax.environment import allows_outside
from glamm_jax.files import FileNameError, confined_file, read_regular_file

OUTSIDE_HINT = "--allow-outside permits it"


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

    Raises:
        FileNameError: the name leads to a file outside of the folders.
    """
    allow_outside, outside = allows_outside(), None
    for folder in folders:
        try:
            path = confined_file(root / folder, name, allow_outside)
        except FileNameError as error:
            outside = outside or error
        else:
            if path is not None:
                return path
    if outside is not None:
        raise outside
    return None


def open_image_file(
    find: Callable[[str], Path | None], name: str, places: str, log: DefectLog
) -> ImageFile | None:
    """Look up and read an image; None and a defect where that is not possible.

    Args:
        find: returns the path of an image, as `find_image` does.
        name: what `find` takes.
        places: where it is looked up, for the defect "not in ...".
        log: for the defect.
    """
    try:
        path = find(name)
    except FileNameError as error:
        log.add(OUTSIDE_FILE, f"{error}; {OUTSIDE_HINT}")
        return None
    if path is None:
        log.add(MISSING_IMAGE, places)
    return read_image_file(path, log) if path else None


def read_image_file(path: Path, log: DefectLog) -> ImageFile | None:
    """Read an image and decode it completely; None and a defect where that is not possible."""
    try:
        stored = read_regular_file(path, MAX_IMAGE_BYTES)
        data = with_end_marker(stored)  # Pillow, which readers of the shards use, needs it
        height, width = open_image(data).shape[:2]
    except (ImageError, FileNameError) as error:
        log.add(UNREADABLE_IMAGE, f"{path.name}: {error}")
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        log.add(MISSING_IMAGE, f"{path.name}: {error}")
    else:
        if data is not stored:
            log.add(NO_END_MARKER, f"{path.name}: used, its pixels are complete")
        return ImageFile(data, height, width)
    return None
