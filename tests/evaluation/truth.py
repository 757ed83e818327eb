"""Predictions that are right, and such that say nothing."""

from __future__ import annotations

from glamm_jax.evaluation.item import Item, Prediction


def right(item: Item) -> Prediction:
    """What the truth says, every mask with its phrase."""
    count = len(item.true_masks)
    return Prediction(
        item.id,
        item.image_id,
        item.true_texts[0] if item.true_texts else "",
        raw=marked(item),
        phrases=item.true_phrases,
        masks=item.true_masks,
        phrase_of=tuple(range(count)),
        scores=(0.9,) * count,
    )


def marked(item: Item) -> str:
    """The true text with its phrases marked, one after another."""
    text = item.true_texts[0] if item.true_texts else " and ".join(item.true_phrases)
    end = 0
    for phrase in item.true_phrases:
        start = text.index(phrase, end)
        told = f"<p> {phrase} </p> [SEG]"
        text = text[:start] + told + text[start + len(phrase) :]
        end = start + len(told)
    return text


def nothing(item: Item) -> Prediction:
    """An empty answer."""
    return Prediction(item.id, item.image_id, "")
