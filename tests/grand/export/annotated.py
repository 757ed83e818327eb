"""Small annotated images, for the tests of the exporters."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.grand.export.images import AnnotatedImage, ExportItem
from glamm_jax.grand.record import (
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Relation,
    Vote,
)

HEIGHT, WIDTH = 48, 64
DENSE = "A brown dog and another brown dog sit beside a glass, near the fence."
SHORT = "Two dogs beside a glass"


def mask_array(x0: int, y0: int, x1: int, y1: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask that is a rectangle without its first pixel."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    mask[y0, x0] = False
    return mask


def _mask(*box: int) -> dict[str, Any]:
    return rle.encode(mask_array(*box))


def _votes(*sources: str) -> tuple[Vote, ...]:
    return tuple(Vote(source, "dog", 0.5) for source in sources)


DOG = GrandObject(
    0,
    (2.0, 3.0, 20.0, 23.0),
    ("dog", "puppy"),
    0.9,
    ("the brown dog", "a sitting animal"),
    _votes("eva", "codetr", "owl"),
    "dog",
    12.5,
    _mask(2, 3, 20, 23),
    "SAM",
)
GLASS = GrandObject(
    1, (30.25, 10.5, 40.5, 30.0), ("wine_glass",), 0.4, ("the glass",), _votes("eva", "codetr")
)
SECOND_DOG = replace(
    DOG,
    id=4,
    box=(41.0, 3.0, 60.0, 23.0),
    score=0.7,
    attributes=("the brown dog",),
    votes=_votes("eva", "owl"),
    mask=_mask(41, 3, 60, 23),
)
# A phrase made it, so it has no score.
FENCE = GrandObject(5, (0.0, 40.0, 64.0, 48.0), ("fence",), mask=_mask(0, 40, 64, 48))
SHADOW = GrandObject(6, (4.0, 30.0, 8.0, 33.0), ("shadow",), 0.2, None, _votes("pomp"))


def _grounding(text: str, phrase: str, *items: GrandObject, start: int = 0) -> PhraseGrounding:
    start = text.index(phrase, start)
    return PhraseGrounding(
        phrase,
        (start, start + len(phrase)),
        tuple(item.id for item in items),
        tuple(item.box for item in items),
    )


FULL = GrandRecord(
    objects=(DOG, GLASS, SECOND_DOG),
    floating_objects=(FENCE, SHADOW),
    landmark={"category": "Outdoor scene", "fine_category": "Rural landscape"},
    affordances={
        "sit": {"description": "", "object_ids": [0, 4], "labels": ["dog"]},
        "pour": {"description": "", "object_ids": [1], "labels": ["wine glass"]},
    },
    links=(PhraseLink("two dogs", (0, 4)), PhraseLink("a glass", (1,))),
    linked_ids=(0, 1, 4),
    relations=(Relation((0, 4), "beside", (1,)),),
    id_counter=7,
    short_captions=(
        GrandCaption(
            SHORT, (_grounding(SHORT, "Two dogs", DOG), _grounding(SHORT, "a glass", GLASS))
        ),
        GrandCaption("Animals outside"),
    ),
    dense_caption=GrandCaption(
        DENSE,
        (
            _grounding(DENSE, "A brown dog", DOG),
            _grounding(DENSE, "another brown dog", SECOND_DOG),
            _grounding(DENSE, "a glass", GLASS),
            _grounding(DENSE, "the fence", FENCE),
        ),
    ),
    dense_source="llm",
    verified=True,
    additional_context="Dogs like company.",
)
UNVERIFIED = replace(FULL, verified=False)
TEMPLATE = replace(FULL, dense_source="template", verified=True)
EMPTY = GrandRecord()


def image_bytes(seed: int, extension: str = "jpg") -> bytes:
    """An image file of smooth noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if extension == "png" else "JPEG")
    return file.getvalue()


def make_item(
    file_name: str, record: GrandRecord = FULL, folder: Path | None = None, **fields: Any
) -> ExportItem:
    """An annotated image; with a folder, its file is there."""
    seed = int.from_bytes(hashlib.sha256(file_name.encode()).digest()[:4], "little")
    data = image_bytes(seed, file_name.rpartition(".")[2])
    content: Any = lambda: data  # noqa: E731
    if folder is not None:
        content = folder / file_name
        content.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    image = AnnotatedImage(file_name, file_name, content, digest, HEIGHT, WIDTH)
    return replace(image, **fields), record


# Spaces, letters outside of ASCII, equal stems, no extension.
NAMES = ("a.jpg", "a.png", "sa 2.jpg", "straße 犬.jpg", "noext")


def make_items(folder: Path | None = None) -> list[ExportItem]:
    """Images with all kinds of names and records, and a rejected one."""
    records = (FULL, FULL, UNVERIFIED, TEMPLATE, EMPTY)
    items = [make_item(name, record, folder) for name, record in zip(NAMES, records, strict=True)]
    return [*items, make_item("z.jpg", FULL, folder, status="rejected")]


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder and its subfolders."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
