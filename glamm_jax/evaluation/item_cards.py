"""An item as cards: what was said beside what is true; the same thing has the same colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.report.html_page import Box, Card, TextLine, TextMark

SIDE = 320  # pixels of a picture: a page holds some dozens of them
MAX_TEXTS = 5  # true texts of an item
NO_PICTURE = 128  # grey, in its place
ASKS, SAYS, TRUE, ODD = "asked", "said", "true", "odd"

Picture = UInt8[np.ndarray, "h w 3"]
LoadImage = Callable[[Item], Picture]


def image_loader(records: RecordSource) -> LoadImage:
    """The upright pictures of items that were made from these records."""
    return lambda item: open_image(records[item.record].image)


def common_question(items: Iterable[Item]) -> str:
    """What all of them ask; "" where they ask different things."""
    prompts = {item.prompt for item in items}
    return prompts.pop() if len(prompts) == 1 else ""


def cards_of(
    item: Item, said: Prediction | None, pictures: LoadImage, title: str, asks: bool
) -> tuple[Card, Card]:
    """What was said and what is true, each a picture with masks and words.

    A mask that was said has the colour of the true one that it overlaps most, or one of its own.

    asks: whether the question is shown.
    """
    image, scale, trouble = _small(item, pictures)
    true = [_fitted(mask, image) for mask in item.reference_masks]
    own = [_fitted(mask, image) for mask in said.masks] if said else []
    colours = _paired(own, true)
    coloured: list[Bool[np.ndarray, "h w"] | None] = [None] * max([0, *(c + 1 for c in colours)])
    for colour, mask in zip(colours, own, strict=True):
        coloured[colour] = mask
    boxes: list[Box] = [
        (x0 * scale, y0 * scale, x1 * scale, y1 * scale) for x0, y0, x1, y1 in item.regions
    ]
    of_phrases = _colours_of_phrases(said, colours) if said else []
    question = [TextLine(item.prompt, speaker=ASKS, is_question=True)] if asks else []
    problems = [*(said.problems if said else ()), *trouble]
    lines = [
        *question,
        _said(said, of_phrases),
        *(TextLine(each, speaker=ODD) for each in problems),
    ]
    truth = [
        TextLine(text, _marks(text, item.reference_phrases, range(len(true))), TRUE)
        for text in item.reference_texts[:MAX_TEXTS]
    ] or [_listed(item.reference_phrases)]
    return (
        Card(image, lines, coloured, [None] * len(coloured) + boxes, title),
        Card(image, truth, true, [None] * len(true) + boxes, TRUE),
    )


def _small(item: Item, pictures: LoadImage) -> tuple[Picture, float, list[str]]:
    """The picture, at most `SIDE` long, how much smaller it is, and why there is none."""
    try:
        image = pictures(item)
    except (OSError, ValueError) as error:
        grey = np.full((SIDE * 3 // 4, SIDE, 3), NO_PICTURE, np.uint8)
        return grey, 1.0, [f"no picture: {error}"]
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small), scale, []


def _fitted(mask: RunLengths, image: Picture) -> Bool[np.ndarray, "h w"]:
    """The mask at the size of the small picture; nothing where it cannot be read."""
    size = image.shape[1::-1]
    try:
        pixels = rle.decode(mask)
    except rle.MaskError:
        return np.zeros(size[::-1], bool)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _paired(own: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> list[int]:
    """For every mask the number of its true one, the best pairs first; new numbers for the rest."""
    overlaps = []
    for i, mask in enumerate(own):
        for j, other in enumerate(true):
            if shared := int((mask & other).sum()):
                overlaps.append((shared / int((mask | other).sum()), i, j))
    partner: dict[int, int] = {}
    for _, i, j in sorted(overlaps, key=lambda found: -found[0]):
        if i not in partner and j not in partner.values():
            partner[i] = j
    new = iter(range(len(true), len(true) + len(own)))
    return [partner[i] if i in partner else next(new) for i in range(len(own))]


def _colours_of_phrases(said: Prediction, colours: Sequence[int]) -> list[int | None]:
    """Of every phrase the colour of its first mask."""
    found: list[int | None] = [None] * len(said.phrases)
    for owner, colour in zip(said.phrase_of, colours, strict=False):
        if 0 <= owner < len(found) and found[owner] is None:
            found[owner] = colour
    return found


def _said(said: Prediction | None, colours: Sequence[int | None]) -> TextLine:
    if said is None:
        return TextLine("", speaker=SAYS, note="no prediction")
    note = "" if said.finish == "end" else f"ended by: {said.finish}"
    return TextLine(said.text, _marks(said.text, said.phrases, colours), SAYS, note)


def _marks(text: str, phrases: Sequence[str], colours: Sequence[int | None]) -> list[TextMark]:
    """Phrases where they stand in the text, one after the other; those without colour stay bare."""
    marks, done = [], 0
    for phrase, colour in zip(phrases, colours, strict=True):
        start = text.lower().find(phrase.lower(), done)
        if phrase and start >= 0:
            done = start + len(phrase)
            marks += [] if colour is None else [TextMark(start, done, colour)]
    return marks


def _listed(phrases: Sequence[str]) -> TextLine:
    """True phrases that stand in no text."""
    text, marks = "", []
    for colour, phrase in enumerate(phrases):
        text += " · " if text else ""
        marks.append(TextMark(len(text), len(text) + len(phrase), colour))
        text += phrase
    return TextLine(text, marks, TRUE)
