"""Predictions that are right, and such that say nothing."""

from __future__ import annotations

from glamm_jax.evaluation.item import Item, Prediction


def right(item: Item) -> Prediction:
    """What the truth says, every mask with its phrase."""
    count = len(item.reference_masks)
    return Prediction(
        item.id,
        item.image_id,
        item.reference_texts[0] if item.reference_texts else "",
        raw=marked(item),
        phrases=item.reference_phrases,
        masks=item.reference_masks,
        phrase_of=tuple(range(count)),
        scores=(0.9,) * count,
    )


def marked(item: Item) -> str:
    """The true text with its phrases marked, one after another."""
    text = item.reference_texts[0] if item.reference_texts else " and ".join(item.reference_phrases)
    end = 0
    for phrase in item.reference_phrases:
        start = text.index(phrase, end)
        told = f"<p> {phrase} </p> [SEG]"
        text = text[:start] + told + text[start + len(phrase) :]
        end = start + len(told)
    return text


def nothing(item: Item) -> Prediction:
    """An empty answer."""
    return Prediction(item.id, item.image_id, "")
