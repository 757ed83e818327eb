"""An item as two cards of a page: its prediction and its reference, in matching colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.benchmarks.base import Item, Prediction, RunLengths
from glamm_jax.report.html_page import Box, Card, TextLine, TextMark

MAX_SIDE = 320  # pixels of an image: a page has some dozens of them
MAX_TEXTS = 5  # reference texts of an item
MISSING_IMAGE_GREY = 128  # colour of the placeholder of an image that cannot be read
# Labels of lines.
PROMPT, PREDICTION, REFERENCE, PROBLEM = "prompt", "prediction", "reference", "problem"

ImageArray = UInt8[np.ndarray, "h w 3"]
LoadImage = Callable[[Item], ImageArray]


def image_loader(records: RecordSource) -> LoadImage:
    """Return a function that loads the upright image of an item of these records."""
    return lambda item: open_image(records[item.record].image)


def common_prompt(items: Iterable[Item]) -> str:
    """Return the prompt that all items share; "" if they differ."""
    prompts = {item.prompt for item in items}
    return prompts.pop() if len(prompts) == 1 else ""


def make_cards(
    item: Item, prediction: Prediction | None, load_image: LoadImage, title: str, show_prompt: bool
) -> tuple[Card, Card]:
    """Make a card of the prediction and one of the reference, each with image, masks and text.

    A predicted mask has the colour of the reference mask that it overlaps most, one to one; a mask
    that is left over has a colour of its own.

    Args:
        item: to be shown.
        prediction: of the item; None: there is none.
        load_image: as `image_loader` returns; an OSError or ValueError becomes a line of the card.
        title: of the prediction's card.
        show_prompt: whether the prediction's card has the prompt.
    """
    problems = list(prediction.problems) if prediction else []
    scale = 1.0
    try:
        image = load_image(item)
    except (OSError, ValueError) as error:
        image = np.full((MAX_SIDE * 3 // 4, MAX_SIDE, 3), MISSING_IMAGE_GREY, np.uint8)
        problems.append(f"no image: {error}")
    else:
        height, width = image.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    reference_masks = [_resize_mask(mask, image) for mask in item.reference_masks]
    masks = [_resize_mask(mask, image) for mask in prediction.masks] if prediction else []
    colours = _match_colours(masks, reference_masks)
    by_colour: list[Bool[np.ndarray, "h w"] | None] = [None] * max([0, *(c + 1 for c in colours)])
    for colour, mask in zip(colours, masks, strict=True):
        by_colour[colour] = mask
    boxes: list[Box] = [
        (x0 * scale, y0 * scale, x1 * scale, y1 * scale) for x0, y0, x1, y1 in item.regions
    ]
    lines = [
        *([TextLine(item.prompt, speaker=PROMPT, is_question=True)] if show_prompt else []),
        _prediction_line(prediction, colours),
        *(TextLine(problem, speaker=PROBLEM) for problem in problems),
    ]
    reference_lines = [
        TextLine(text, _marks(text, item.reference_phrases, range(len(reference_masks))), REFERENCE)
        for text in item.reference_texts[:MAX_TEXTS]
    ] or [_phrase_list(item.reference_phrases)]
    return (
        Card(image, lines, by_colour, [None] * len(by_colour) + boxes, title),
        Card(
            image,
            reference_lines,
            reference_masks,
            [None] * len(reference_masks) + boxes,
            REFERENCE,
        ),
    )


def _resize_mask(mask: RunLengths, image: ImageArray) -> Bool[np.ndarray, "h w"]:
    """Resize a mask to an image; a mask that cannot be decoded is empty."""
    size = image.shape[1::-1]
    try:
        pixels = rle.decode(mask)
    except rle.MaskError:
        return np.zeros(size[::-1], bool)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _match_colours(masks: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[int]:
    """Return for each mask the index of its reference, largest IoU first; new numbers without."""
    overlaps = []
    for i, mask in enumerate(masks):
        for j, reference in enumerate(references):
            if shared := int((mask & reference).sum()):
                overlaps.append((shared / int((mask | reference).sum()), i, j))
    matches: dict[int, int] = {}
    for _, i, j in sorted(overlaps, key=lambda overlap: -overlap[0]):
        if i not in matches and j not in matches.values():
            matches[i] = j
    new = iter(range(len(references), len(references) + len(masks)))
    return [matches[i] if i in matches else next(new) for i in range(len(masks))]


def _prediction_line(prediction: Prediction | None, colours: Sequence[int]) -> TextLine:
    if prediction is None:
        return TextLine("", speaker=PREDICTION, note="no prediction")
    # A phrase has the colour of its first mask.
    phrase_colours: list[int | None] = [None] * len(prediction.phrases)
    for phrase, colour in zip(prediction.phrase_of, colours, strict=False):
        if 0 <= phrase < len(phrase_colours) and phrase_colours[phrase] is None:
            phrase_colours[phrase] = colour
    marks = _marks(prediction.text, prediction.phrases, phrase_colours)
    note = "" if prediction.finish == "end" else f"finish: {prediction.finish}"
    return TextLine(prediction.text, marks, PREDICTION, note)


def _marks(text: str, phrases: Sequence[str], colours: Sequence[int | None]) -> list[TextMark]:
    """Locate phrases in a text, one after the other; a phrase without colour gets no mark."""
    marks, position = [], 0
    for phrase, colour in zip(phrases, colours, strict=True):
        start = text.lower().find(phrase.lower(), position)
        if phrase and start >= 0:
            position = start + len(phrase)
            marks += [] if colour is None else [TextMark(start, position, colour)]
    return marks


def _phrase_list(phrases: Sequence[str]) -> TextLine:
    """Return a line of reference phrases that are in no text."""
    text, marks = "", []
    for colour, phrase in enumerate(phrases):
        text += " · " if text else ""
        marks.append(TextMark(len(text), len(text) + len(phrase), colour))
        text += phrase
    return TextLine(text, marks, REFERENCE)
