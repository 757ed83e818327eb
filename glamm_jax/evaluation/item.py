"""A question of a benchmark and its truth, and what a model said to it.

    Item("sa_1000", "sa_1000", 0, "Could you describe the image? ...",
         true_texts=("A dog runs.",), true_phrases=("A dog",), true_masks=({"size": ...},))
    Prediction("sa_1000", "sa_1000", "A dog runs.", "<p> A dog </p> [SEG] runs.",
               phrases=("A dog",), masks=({"size": ...},), phrase_of=(0,), scores=(0.93,))

Masks are COCO run lengths `{"size": [h, w], "counts": str}` at the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RunLengths = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one picture.

    id: its own among all of a split. image_id: the picture's, which items may share.
    record: number of the picture in the source of records.
    prompt, history, regions: what is asked, as in `glamm_jax.inference.chat.Question`; regions in
        pixels of the upright picture. A history is answered by the truth (teacher forcing).
    true_texts: all that would be right: captions, descriptions of a region, reference answers.
    true_phrases, true_masks: one mask a phrase, in the order of the text; an expression that means
        several things has the union of their masks.
    true_twice: of every true mask the pixels that its polygons cover twice, or None; the original
        takes them for background (trap 22). Empty where there are none at all.
    about: what else a judge is told: of a conversation its "category" and the picture's "context".
    max_tokens: of the answer; as the run says, unless given.
    """

    id: str
    image_id: str
    record: int
    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    regions: tuple[tuple[float, float, float, float], ...] = ()
    reference_texts: tuple[str, ...] = ()
    reference_phrases: tuple[str, ...] = ()
    reference_masks: tuple[RunLengths, ...] = ()
    reference_overlaps: tuple[RunLengths | None, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model said to an item.

    text: the words alone. raw: the same with <p>, </p> and [SEG]; empty where it is not known.
    phrases: every <p> phrase </p>, in order. masks: one a [SEG], in order, those of the history
        first. phrase_of: for every mask the number of its phrase, -1 where it has none.
    scores: the decoder's own estimate of every mask's IoU.
    finish: as `Answer.finish`, or "failed" where nothing could be asked.
    problems: what was malformed, or why nothing could be asked, in words.
    """

    id: str
    image_id: str
    text: str
    raw: str = ""
    phrases: tuple[str, ...] = ()
    masks: tuple[RunLengths, ...] = ()
    phrase_of: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    finish: str = "end"
    problems: tuple[str, ...] = ()
