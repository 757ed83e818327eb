"""Conversion of models' results to sections, the JSON that stages write, and back.

A result that is not what its role promises raises `OutputError`; the stage's section is then an
error of kind "output", and no other image is affected.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from glamm_jax.data import rle
from glamm_jax.data.rle import MaskError
from glamm_jax.errors import GLaMMError
from glamm_jax.grand.geometry import Box
from glamm_jax.grand.record import Detection, GrandRecord, encode_json, encode_text
from glamm_jax.grand.roles import RoleError
from glamm_jax.grand.stages import ParsedSection, Section, StageError, StageImage, StageResult

Context = TypeVar("Context")

MAX_TEXT = 20_000  # characters of a caption or an answer


class OutputError(GLaMMError):
    """A model returned something else than its role promises."""


def to_sections(
    results: Any,
    contexts: Sequence[Context],
    convert: Callable[[Any, Context], Section | ParsedSection],
) -> list[StageResult]:
    """Convert the results of a model for a batch.

    Args:
        results: one per image.
        contexts: what `convert` needs of each image: the image, or what was asked about it.
        convert: makes the section of one result and its context; may raise `OutputError`.

    Raises:
        OutputError: the number of results is wrong.
    """
    if not isinstance(results, list | tuple) or len(results) != len(contexts):
        raise OutputError(f"{len(contexts)} results are due, got {_describe(results)}")
    sections: list[StageResult] = []
    for result, context in zip(results, contexts, strict=True):
        if isinstance(result, RoleError):
            sections.append(result)
            continue
        try:
            sections.append(convert(result, context))
        except OutputError as error:
            sections.append(StageError("output", str(error)))
    return sections


def record_section(record: GrandRecord) -> ParsedSection:
    """Return the section of a bookkeeping stage."""
    return ParsedSection(lambda: f'{{"record":{record.json_text()}}}', read_record, record)


def read_record(section: Section) -> GrandRecord:
    """Return the record of a bookkeeping stage's section."""
    return GrandRecord.from_json(section["record"])


def detection_section(detections: Any, image: StageImage, *, needs: str) -> ParsedSection:
    """Return the section of the boxes of a model.

    Args:
        detections: of one image.
        image: that they belong to.
        needs: "label", "description" or "mask": what each box has.
    """
    items = [checked_detection(item, needs) for item in checked_list(detections)]
    for item in items:
        if item.mask is not None:
            check_mask(item.mask, image_size(image))

    def text() -> str:
        return f'{{"detections":[{",".join([detection_text(item) for item in items])}]}}'

    return ParsedSection(text, read_detections, items)


def check_mask(mask: Any, size: tuple[int, int]) -> None:
    """Check the run lengths of a model.

    Args:
        mask: of the model.
        size: width and height of the image.

    Raises:
        OutputError: it is no mask of the size of the image.
    """
    try:
        rle.check(mask)
    except (MaskError, TypeError) as error:
        raise OutputError(f"a mask is due: {error}") from error
    height, width = mask["size"]
    if (width, height) != size:
        raise OutputError(f"a mask of {size[1]} x {size[0]} is due, got {height} x {width}")


def checked_detection(item: Any, needs: str = "") -> Detection:
    """Return a detection as it is read from a section that has it.

    Args:
        item: of a model.
        needs: the field that must not be None; "": none.
    """
    if not isinstance(item, Detection):
        raise OutputError(f"a detection is due, got {_describe(item)}")
    if needs and getattr(item, needs) is None:
        raise OutputError(f"a detection has no {needs}")
    box, score = checked_box(item.box), checked_score(item.score)
    for text in (item.label, item.description):
        if text is not None:
            checked_text(text)
    mask = item.mask
    if mask is not None:
        if not isinstance(mask, Mapping):
            raise OutputError(f"a mask has size and counts, got {_describe(mask)}")
        # JSON has no tuples.
        mask = {key: list(part) if isinstance(part, tuple) else part for key, part in mask.items()}
    elif box is item.box and score is item.score:
        return item
    return Detection(box, score, item.label, item.description, mask)


def detection_text(item: Detection) -> str:
    """Return a detection of `checked_detection` as JSON."""
    x0, y0, x1, y1 = item.box
    text = f'{{"bbox":[{x0!r},{y0!r},{x1!r},{y1!r}],"score":{item.score!r}'
    if item.label is not None:
        text += f',"label":{encode_text(item.label)}'
    if item.description is not None:
        text += f',"description":{encode_text(item.description)}'
    if item.mask is not None:
        text += f',"segmentation":{encode_json(item.mask)}'
    return text + "}"


def read_detections(section: Section) -> list[Detection]:
    """Return the boxes of a section of `detection_section`."""
    return [
        Detection(
            tuple(value["bbox"]),
            value["score"],
            value.get("label"),
            value.get("description"),
            value.get("segmentation"),
        )
        for value in section["detections"]
    ]


def depth_section(depth: Any, image: StageImage, levels: int) -> Section:
    """Return the section of a depth map: quantized, compressed, with its range.

    Args:
        depth: inverse depth of each pixel.
        image: that it belongs to.
        levels: number of steps between the smallest and the largest value, 255 or 65535.
    """
    height, width = image_size(image)[::-1]
    if not isinstance(depth, np.ndarray) or depth.shape != (height, width):
        raise OutputError(f"a depth map of {height} x {width} is due, got {_describe(depth)}")
    low, high = float(depth.min()), float(depth.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise OutputError("a depth map has values that are not finite")
    shares = depth - low
    shares *= levels / (high - low) if high > low else 0.0
    steps = np.round(shares, out=shares).astype("<u2" if levels > 255 else "u1")
    data = base64.b64encode(zlib.compress(steps.tobytes(), 1)).decode("ascii")
    return {"size": [height, width], "min": low, "max": high, "levels": levels, "data": data}


def read_depth(section: Section) -> Float32[np.ndarray, "h w"]:
    """Return the depth map of a section of `depth_section`."""
    levels, low, high = section["levels"], section["min"], section["max"]
    data = zlib.decompress(base64.b64decode(section["data"]))
    steps = np.frombuffer(data, "<u2" if levels > 255 else "u1").reshape(section["size"])
    depth = steps.astype(np.float32)
    depth /= levels
    depth *= high - low
    depth += low
    return depth


def image_size(image: StageImage) -> tuple[int, int]:
    """Return width and height of the upright image, which stage `image` found."""
    section = image.sections["image"]
    assert section is not None
    return section["width"], section["height"]


def checked_list(value: Any, length: int | None = None) -> Sequence[Any]:
    """Return a list, of a given length if one is given."""
    if not isinstance(value, list | tuple):
        raise OutputError(f"a list is due, got {_describe(value)}")
    if length is not None and len(value) != length:
        raise OutputError(f"a list of {length} is due, got {len(value)}")
    return value


def checked_box(box: Any) -> Box:
    """Return the numbers of a box as float; they are finite and in order."""
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
        raise OutputError(f"a box has four numbers, got {_describe(box)}")
    x0, y0, x1, y1 = box
    if not type(x0) is type(y0) is type(x1) is type(y1) is float or type(box) is not tuple:
        box = x0, y0, x1, y1 = float(x0), float(y0), float(x1), float(y1)
    if not (-math.inf < x0 <= x1 < math.inf and -math.inf < y0 <= y1 < math.inf):
        raise OutputError(f"a box is x0 y0 x1 y1, got {[x0, y0, x1, y1]}")
    return box


def checked_score(score: Any) -> float:
    """Return a score as float; it is in [0, 1]."""
    value = float(score)  # the same object if it is one
    if not 0.0 <= value <= 1.0:
        raise OutputError(f"a score is in [0, 1], got {value}")
    return value


def checked_text(text: Any) -> str:
    """Return a text of at most `MAX_TEXT` characters."""
    if not isinstance(text, str):
        raise OutputError(f"a text is due, got {_describe(text)}")
    if len(text) > MAX_TEXT:
        raise OutputError(f"a text of {len(text)} characters; at most {MAX_TEXT} are read")
    return text


def available(names: Iterable[str], image: StageImage) -> list[tuple[str, Section]]:
    """Return (name, section) of those inputs of an image that have one."""
    pairs = ((name, image.sections[name]) for name in names)
    return [(name, section) for name, section in pairs if section is not None]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
