"""Image files whose pixels are labels: masks and label maps.

Lossy formats are refused: pixels near an edge get values in between, and would enlarge a mask. In a
mask file 0 is the background, and one other value is the foreground. Files with more values need
an object that says which of them belong to the mask:

    "masks/dog.png"                                                0 and one other value
    {"file": "masks/objects.png", "values": [3]}                   pixels of these values
    {"file": "masks/soft.png", "threshold": 128}                   pixels of at least this value
    {"file": "masks/voc.png", "values": [1], "ignore": 255}        255 is named, and not foreground
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, UnidentifiedImageError

from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, PNG_START, check_size, without_text_chunks
from glamm_jax.data.sources.dataset_files import OUTSIDE_HINT, find_image
from glamm_jax.data.sources.defects import BAD_MASK, MISSING_MASK, OUTSIDE_FILE, DefectLog, quoted
from glamm_jax.data.sources.json_files import Fields, as_whole_number
from glamm_jax.files import FileNameError, read_regular_file

LOSSLESS = ("PNG", "BMP", "PPM", "TIFF")
LOSSY = ("JPEG", "JPEG2000", "WEBP", "AVIF", "GIF")  # GIF: fewer colours
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
MAX_SHOWN = 6  # values of a mask in a message
MASK_FIELDS = ("file", "values", "threshold", "ignore")


class _LabelError(ValueError):
    """An image has no labels. Says why."""


def read_label_map(
    folder: Path, name: str, log: DefectLog, where: str, *, needs_background: bool = False
) -> np.ndarray | None:
    """Read an image of one channel as integers [height, width]; None and a defect on failure.

    The values of a palette image are its indices, not its colours. Equal colour channels are one.

    Args:
        folder: that `name` is relative to.
        name: of the image file.
        log: for the defect.
        where: the place that names the file, for the defect.
        needs_background: refuse a palette in which 0 is not the index of the background.
    """
    try:
        path = find_image(folder, [""], name)
        if path is None:
            log.add(MISSING_MASK, f"{where}: no file {quoted(name)}")
            return None
        data = read_regular_file(path, MAX_IMAGE_BYTES)
        try:
            return _labels(data, needs_background)
        except ValueError as error:
            if isinstance(error, _LabelError) or not data.startswith(PNG_START):
                raise
            return _labels(without_text_chunks(data), needs_background)  # Pillow limits their size
    except FileNameError as error:
        log.add(OUTSIDE_FILE, f"{where}: {error}; {OUTSIDE_HINT}")
    except UnidentifiedImageError:
        problem = f"is damaged, or in none of the formats {', '.join(LOSSLESS)}"
        log.add(BAD_MASK, f"{where}: {quoted(name)} {problem}")
    except _LabelError as error:
        log.add(BAD_MASK, f"{where}: {quoted(name)} {error}")
    except Exception as error:  # decoders raise many kinds
        log.add(BAD_MASK, f"{where}: {quoted(name)}: {error!r}")
    return None


def read_mask_file(
    folder: Path, value: str | Fields, log: DefectLog, where: str
) -> Bool[np.ndarray, "h w"] | None:
    """Read a mask from an image file; None and a defect on failure.

    Args:
        folder: that the name of the file is relative to.
        value: the name of the file, or an object with the fields `MASK_FIELDS`.
        log: for the defect.
        where: the place of the mask, for the defect.
    """
    fields: Fields = {"file": value} if isinstance(value, str) else value
    name, threshold = fields.get("file"), fields.get("threshold")
    values, ignored = (_whole_numbers(fields.get(field)) for field in ("values", "ignore"))
    problems = [
        f"{quoted(field)}: no such field; available: {', '.join(MASK_FIELDS)}"
        for field in fields
        if field not in MASK_FIELDS
    ]
    if not isinstance(name, str) or not name:
        problems.append(f"file: must be a path, not {quoted(name)}")
    for field, numbers in (("values", values), ("ignore", ignored)):
        if numbers is None:
            problems.append(f"{field}: {quoted(fields[field])} are not whole numbers")
    if threshold is not None and (as_whole_number(threshold) or 0) < 1:
        problems.append(f"threshold: {quoted(threshold)} is not a whole number above 0")
    if fields.get("values") == []:
        problems.append("values: an empty list")
    if threshold is not None and values:
        problems.append("values and threshold: give one of them")
    for problem in problems:
        log.add(BAD_MASK, f"{where}: {problem}")
    labels = None
    if not problems and isinstance(name, str):
        is_explicit = bool(values) or threshold is not None
        labels = read_label_map(folder, name, log, where, needs_background=not is_explicit)
    if labels is None:
        return None
    is_ignored = np.isin(labels, ignored or [])
    if values or threshold is not None:
        minimum = as_whole_number(threshold) or 0
        return (np.isin(labels, values) if values else labels >= minimum) & ~is_ignored
    present = np.unique(labels[~is_ignored & (labels != 0)]).tolist()
    if len(present) > 1:
        shown = _shown(present)
        log.add(
            BAD_MASK,
            f"{where}: {quoted(name)} has the values {shown} beside 0; say which are foreground: "
            '{"file": PATH, "values": [1]}, {"file": PATH, "threshold": 128}, or add "ignore": 255',
        )
        return None
    return (labels != 0) & ~is_ignored


def _shown(values: Sequence[Any]) -> str:
    """The first of several values, for a message."""
    return ", ".join(str(int(x)) for x in values[:MAX_SHOWN]) + ", ..." * (len(values) > MAX_SHOWN)


def _whole_numbers(value: Any) -> list[int] | None:
    """A whole number or a list of them as a list, empty for None; None for anything else."""
    listed: Sequence[Any] = value if isinstance(value, list) else [value] * (value is not None)
    numbers = [as_whole_number(x) for x in listed]
    return None if None in numbers else [x for x in numbers if x is not None]


def _labels(data: bytes, needs_background: bool) -> np.ndarray:
    """The labels of an image file.

    needs_background: refuse a palette in which 0 is not the index of the background.

    Raises:
        _LabelError: it is in a lossy format, or its pixels are not labels.
    """
    Image.init()
    formats = [name for name in (*LOSSLESS, *LOSSY) if name in Image.OPEN]
    with Image.open(io.BytesIO(data), formats=formats) as image:
        check_size(*image.size, "the mask")
        is_lossy_tiff = image.format == "TIFF" and image.info.get("compression") in LOSSY_TIFF
        if image.format not in LOSSLESS or is_lossy_tiff:
            raise _LabelError(
                f"is a {image.format} file, whose pixels are changed by compression; save the "
                "original mask as PNG"
            )
        if getattr(image, "n_frames", 1) > 1:
            raise _LabelError("has several frames; one is expected")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise _LabelError("has an EXIF rotation; save it upright")
        labels = np.asarray(image)
        has_alpha = image.mode in ("LA", "RGBA")
        if needs_background and image.mode == "P" and _has_other_background(image, labels):
            raise _LabelError(
                "has a palette whose black is not index 0, the background; say which indices are "
                'foreground: {"file": PATH, "values": [0]}'
            )
    if labels.ndim == 3 and has_alpha and (labels[..., -1] == 255).all():
        labels = labels[..., :-1]
    elif labels.ndim == 3 and has_alpha:
        raise _LabelError("has transparent pixels; one channel of whole numbers is expected")
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise _LabelError("has several channels; one channel of whole numbers is expected")
    if labels.dtype.kind not in "bui":
        raise _LabelError("has fractional values; one channel of whole numbers is expected")
    return labels


def _has_other_background(image: Image.Image, labels: np.ndarray) -> bool:
    """Whether a palette has a colour at 0, and black at another index that occurs.

    Programs that reduce the colours of a mask may order its palette from bright to dark.
    """
    palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    used = [index for index in np.unique(labels) if 0 < index < len(palette)]
    return len(palette) > 0 and bool(palette[0].any()) and not palette[used].any(axis=1).all()
