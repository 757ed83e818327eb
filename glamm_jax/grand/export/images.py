"""Annotated images, as exporters take them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, ImageError
from glamm_jax.files import FileNameError, read_regular_file
from glamm_jax.grand.record import GrandRecord

ImageStatus = Literal["ok", "partial", "rejected", "discarded"]
ImagePlacement = Literal["none", "copy", "link"]
TRAIN, VALIDATION = "train", "val"
# Reasons for which an export leaves an image out.
UNREADABLE, UNSAFE_NAME = "images: cannot be read", "images: unsafe file name"
REPEATED_NAME = "images: repeated file name"


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image of a run.

    Attributes:
        image_id: of the run; images are exported in the order of their ids.
        file_name: of the image file, without folder, different for each image.
        content: path of the image file, or a function that returns its bytes.
        sha256: of the file, in hexadecimal digits; it decides the split.
        height: of the upright image, in pixels.
        width: of the upright image, in pixels.
        difference_hash: 64 bits that are similar for similar images; None: not computed.
        status: rejected images, and those that a person discarded, are never exported.
    """

    image_id: str
    file_name: str
    content: Path | Callable[[], bytes]
    sha256: str
    height: int
    width: int
    difference_hash: int | None = None
    status: ImageStatus = "ok"

    @classmethod
    def from_section(
        cls,
        image_id: str,
        section: Mapping[str, Any],
        content: Path | Callable[[], bytes],
        status: ImageStatus = "ok",
    ) -> AnnotatedImage:
        """Return the image that the section of the stage `image` describes.

        Args:
            image_id: of the run.
            section: with file, sha256, height, width, and the hash as hexadecimal digits.
            content: path of the image file, or a function that returns its bytes.
            status: of the image.
        """
        digits = section.get("dhash")
        return cls(
            image_id,
            flat_name(section["file"]),
            content,
            section["sha256"],
            section["height"],
            section["width"],
            None if digits is None else int(digits, 16),
            status,
        )

    def read(self) -> bytes:
        """Read the image file.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            if isinstance(self.content, Path):
                return read_regular_file(self.content, MAX_IMAGE_BYTES)
            return self.content()
        except (OSError, FileNameError) as error:
            raise ImageError(f"{self.file_name}: {error}") from error


def flat_name(path: str) -> str:
    """Return a file name for a path below the folder of photographs: a/b.jpg is a__b.jpg.

    Where another image has this name already, exporters leave the second one out and count it.
    """
    return path.replace("/", "__")


ExportItem = tuple[AnnotatedImage, GrandRecord]


def image_split(image: AnnotatedImage, validation_share: float) -> str:
    """Return the split of an image, "train" or "val", by its hash alone.

    So copies of a file are in the same split, and an image stays in its split when others are added
    or removed.

    Args:
        image: to be assigned.
        validation_share: of all images, between 0 and 1.
    """
    digits = image.sha256
    if not digits:
        digits = hashlib.sha256(image.image_id.encode("utf-8", "surrogatepass")).hexdigest()
    return VALIDATION if int(digits[:16], 16) < validation_share * 2.0**64 else TRAIN


def place_image(
    image: AnnotatedImage, path: Path, placement: ImagePlacement, dropped: Counter[str]
) -> bool:
    """Put the image file of an image into an export; returns whether the image can be exported.

    Args:
        image: to be placed.
        path: where to put it; its folder is created.
        placement: "none" does nothing; "link" is a symbolic link, or a copy if the image has no
            path.
        dropped: receives why the image cannot be exported.
    """
    if placement == "none":
        return True
    if os.path.lexists(path):
        dropped[REPEATED_NAME] += 1
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    link_target: Path | None = None
    data = b""
    try:
        if placement == "link" and isinstance(image.content, Path):
            link_target = image.content.resolve()
            link_target.open("rb").close()  # whether it can be read
        else:
            data = image.read()
    except (OSError, ImageError):
        dropped[UNREADABLE] += 1
        return False
    if link_target is None:
        path.write_bytes(data)
    else:
        os.symlink(link_target, path)
    return True
