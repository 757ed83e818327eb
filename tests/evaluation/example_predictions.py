"""Predictions that repeat the reference, and predictions of an empty answer."""

from __future__ import annotations

from glamm_jax.evaluation.benchmarks.base import Item, Prediction


def perfect_prediction(item: Item) -> Prediction:
    """The reference, every mask with its phrase."""
    num_masks = len(item.reference_masks)
    return Prediction(
        item.id,
        item.image_id,
        item.reference_texts[0] if item.reference_texts else "",
        raw=marked_reference(item),
        phrases=item.reference_phrases,
        masks=item.reference_masks,
        phrase_of=tuple(range(num_masks)),
        scores=(0.9,) * num_masks,
    )


def marked_reference(item: Item) -> str:
    """The reference text with its phrases marked, one after another."""
    text = item.reference_texts[0] if item.reference_texts else " and ".join(item.reference_phrases)
    end = 0
    for phrase in item.reference_phrases:
        start = text.index(phrase, end)
        marked = f"<p> {phrase} </p> [SEG]"
        text = text[:start] + marked + text[start + len(phrase) :]
        end = start + len(marked)
    return text


def empty_prediction(item: Item) -> Prediction:
    """An empty answer."""
    return Prediction(item.id, item.image_id, "")
