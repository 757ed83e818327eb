"""What a picture is asked: a record and a task become a conversation, by a seed.

    drawn = draw_examples(record, ("gcg", "region"), Asking(), seed=0, epoch=3)
    drawn.examples[0].turns    ("Describe the image in detail. ...", "<p> A dog </p> [SEG] runs.")

The lots follow from seed, epoch, record and task, so an example is the same wherever it is made.
Questions are our own (`glamm_jax.text.questions`); `Asking` takes others, and says which habits of
the released training are followed.

Source: dataset/{segm,gcg,region,caption}_datasets of the original. Differs: there every class draws
with global generators, and asks one task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data import rle
from glamm_jax.data.boxes import to_unit
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record import Annotation, Link, Record
from glamm_jax.text import questions
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG
from glamm_jax.types import Example

Item = TypeVar("Item")
Span = tuple[int, int]
# What a mask counts in a pixel: 0, 1, and 2 where two polygons overlap (trap 22).
Counts = UInt8[np.ndarray, "h w"]

# What can happen on the way; counted by these names.
NOTHING = "nothing of this task"
OVERLAPPING = "overlapping phrases cut"
NO_BOX = "region without a box"
NO_MASK = "region without a mask"


class Drawn(NamedTuple):
    """Conversations about one picture, and what happened on the way."""

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Talk:
    """A conversation in the making. None: nothing is marked by boxes, or by masks."""

    turns: list[str] = field(default_factory=list)
    boxes: list[tuple[float, ...]] | None = None
    masks: list[Sequence[Link]] | None = None  # the regions that each of them unites

    def say(self, question: str, answer: str) -> None:
        self.turns += [question, answer]


class _Lots:
    """What is drawn for one conversation."""

    def __init__(
        self, record: Record, task: str, asking: ConversationConfig, seed: int, epoch: int
    ):
        self.asking, self.notes = asking, []
        name = "\0".join((str(seed), str(epoch), record.source, record.image_id, task))
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._rng = np.random.default_rng(np.frombuffer(digest, np.uint32))

    def some(self, items: Sequence[Item], limit: int) -> list[Item]:
        """At most so many, in a drawn order."""
        if not self.asking.shuffle:
            return list(items[:limit])
        return [items[i] for i in self._rng.permutation(len(items))[:limit]]

    def one(self, items: Sequence[Item]) -> Item:
        """One of several."""
        return items[0 if not self.asking.shuffle else int(self._rng.integers(len(items)))]

    def question(self, ours: Sequence[str], **about: Any) -> str:
        """A question of a list, about something; see `glamm_jax.text.questions.ask`."""
        return questions.format_question([self.one(self.asking.questions or ours)], 0, **about)


def draw_examples(
    record: Record,
    tasks: Sequence[ConversationTask],
    asking: ConversationConfig,
    seed: int = 0,
    epoch: int = 0,
    room: tuple[int, int] | None = None,
) -> Drawn:
    """A conversation for every task that the record says something for, all with one image.

    room: height and width that masks may have; those of a larger picture are read at the largest
        size that fits (`rle.paint`).

    Raises: ImageError when the picture cannot be read.
    """
    talks: list[tuple[str, _Talk]] = []
    notes: list[str] = []
    for task in tasks:
        lots = _Lots(record, task, asking, seed, epoch)
        talk = _MAKERS[task](record, lots)
        notes += [f"{task}: {note}" for note in lots.notes]
        if talk is None or not talk.turns:
            notes.append(f"{task}: {NOTHING}")
        else:
            talks.append((task, talk))
    if not talks:
        return Drawn((), tuple(notes))
    image = open_image(record.image)
    name, size = (record.source, record.image_id), (record.height, record.width)
    examples = (
        Example(
            image,
            tuple(talk.turns),
            _boxes(talk, size),
            _masks(record, talk, asking.count_overlaps, room),
            task,
            *name,
        )
        for task, talk in talks
    )
    return Drawn(tuple(examples), tuple(notes))


def _boxes(talk: _Talk, size: tuple[int, int]) -> np.ndarray | None:
    """Divided by the size of the original picture, in float32 (trap 12)."""
    return None if talk.boxes is None else to_unit(np.array(talk.boxes, np.float64), *size)


def _masks(
    record: Record, talk: _Talk, overlaps_count: bool, room: tuple[int, int] | None
) -> UInt8[np.ndarray, "k h w"] | None:
    """Of each mask the union of what its regions count; without regions it is empty."""
    if not talk.masks:
        return None
    size = (record.height, record.width)
    fitted = rle.size_within(size, room or size)
    counts = np.zeros((len(talk.masks), *fitted), np.uint8)
    for out, links in zip(counts, talk.masks, strict=True):
        count_pixels(record, links, out, overlaps_count)
    return counts


def count_pixels(
    record: Record,
    links: Sequence[Link],
    out: Counts,
    overlaps_count: bool = True,
) -> None:
    """Put what the masks of all linked regions count together into an array of zeros.

    One that is smaller than the picture holds what they count at the centres of its larger pixels.
    """
    size = (record.height, record.width)
    for i, link in enumerate(links):
        one = np.zeros_like(out) if i else out
        region = record.regions[link.region]
        if region.mask is not None:
            rle.decode_into({"size": size, "counts": region.mask}, one)
        if region.overlap is not None and overlaps_count:
            twice = np.zeros_like(out)
            rle.decode_into({"size": size, "counts": region.overlap}, twice)
            one += twice
        if i:
            np.maximum(out, one, out=out)


def _said(record: Record, task: str) -> list[Annotation]:
    return [each for each in record.annotations if each.task == task]


def _masked(record: Record, task: str, lots: _Lots) -> list[Annotation]:
    """Annotations of a task all of whose regions have masks."""
    said = _said(record, task)
    whole = [
        each
        for each in said
        if all(record.regions[link.region].mask is not None for link in each.links)
    ]
    lots.notes += [NO_MASK] * (len(said) - len(whole))
    return whole


# ---------------------------------------------------------------------------- segmentation


def _segmentation(task: str) -> Callable[[Record, _Lots], _Talk]:
    """One turn for each of a few expressions or classes, each with one mask (trap 41)."""

    def make(record: Record, lots: _Lots) -> _Talk:
        asking = lots.asking
        asked = lots.some(_masked(record, task, lots), asking.max_turns)
        talk = _Talk(masks=[each.links for each in asked])
        for each in asked:
            name = each.text.strip().lower()
            question = lots.question(questions.SEGMENTATION_QUESTIONS, name=name)
            talk.say(question, lots.one(asking.answers or questions.SEGMENTATION_ANSWERS))
        return talk

    return make


# ---------------------------------------------------------------------------- grounded captions


def _gcg(record: Record, lots: _Lots) -> _Talk | None:
    """A caption whose phrases carry masks, in the order of the text."""
    said = _masked(record, "gcg", lots)
    if not said:
        return None
    caption = lots.one(said)
    spans = phrase_spans(caption, lots.notes)
    talk = _Talk(masks=list(spans.values()))
    talk.say(lots.question(questions.GCG_QUESTIONS), mark_phrases(caption.text, spans, f" {SEG}"))
    return talk


def _grounding(record: Record, lots: _Lots) -> _Talk | None:
    """The caption is given, its phrases marked; each is answered by its mask."""
    said = _masked(record, "gcg", lots)
    if not said:
        return None
    caption = lots.one(said)
    spans = phrase_spans(caption, lots.notes)
    if not spans:
        return None
    phrases = (caption.text[start:end] for start, end in spans)
    answer = ", ".join(f"{PHRASE_START} {phrase} {PHRASE_END} {SEG}" for phrase in phrases)
    talk = _Talk(masks=list(spans.values()))
    marked = mark_phrases(caption.text, spans)
    talk.say(lots.question(questions.GROUNDING_QUESTIONS, name=marked), f"{answer}.")
    return talk


def phrase_spans(caption: Annotation, notes: list[str]) -> dict[Span, list[Link]]:
    """Phrases from left to right, each with what it means; what was cut is added to the notes.

    Where two overlap, the one that begins first ends where the other begins; what is empty then
    goes, with its mask (trap 40: the original cuts phrases that do not even overlap).
    """
    found: dict[Span, list[Link]] = {}
    for link in caption.links:
        whole = (link.start, link.end) == (-1, -1)
        span = (0, len(caption.text)) if whole else (link.start, link.end)
        found.setdefault(span, []).append(link)
    ordered = sorted(found)
    nexts = [start for start, _ in ordered[1:]] + [len(caption.text)]
    kept: dict[Span, list[Link]] = {}
    for (start, end), following in zip(ordered, nexts, strict=False):
        stop = min(end, following)
        notes += [OVERLAPPING] * (stop < end)
        phrase = caption.text[start:stop].rstrip()
        if phrase:
            kept[start, start + len(phrase)] = found[start, end]
    return kept


def mark_phrases(text: str, spans: Iterable[Span], behind: str = "") -> str:
    """The text with every phrase between its marks, and something behind each."""
    for start, end in reversed(list(spans)):
        phrase = f"{PHRASE_START} {text[start:end]} {PHRASE_END}{behind}"
        text = text[:start] + phrase + text[end:]
    return text


# ---------------------------------------------------------------------------- regions


def _region(record: Record, lots: _Lots) -> _Talk:
    """Descriptions of regions, one turn each; first of all of them together where one is known.

    A description of several regions is the answer about the group (Flickr30k). The boxes are given
    once for every time they are spoken of. Differs: there the original gives them once, and its
    model fails (trap 16).
    """
    said = [each for each in _said(record, "region") if _has_boxes(record, each)]
    lots.notes += [NO_BOX] * (len(_said(record, "region")) - len(said))
    groups = [each for each in said if len(each.links) > 1]
    single = [each for each in said if len(each.links) == 1]
    group = lots.one(groups) if groups else None
    if group is not None:
        members = {link.region for link in group.links}
        single = [each for each in single if each.links[0].region in members]
    asked, limit = lots.some(single, lots.asking.max_regions), lots.asking.max_regions
    boxes = [_box_of(record, each.links[0]) for each in asked]
    talk, together = _Talk(), []
    if group is not None:
        together = boxes or [_box_of(record, link) for link in lots.some(group.links, limit)]
        ours = lots.asking.group_questions or questions.REGION_GROUP_QUESTIONS
        question = questions.format_question([lots.one(ours)], 0, num_regions=len(together))
        talk.say(question, group.text)
    for i, each in enumerate(asked):
        question = lots.question(questions.REGION_QUESTIONS, num_regions=1, first_region=i + 1)
        talk.say(question, each.text)
    talk.boxes = [*together, *boxes]
    return talk


def _has_boxes(record: Record, annotation: Annotation) -> bool:
    boxes = [record.regions[link.region].box_xyxy_pixel for link in annotation.links]
    return bool(boxes) and None not in boxes


def _box_of(record: Record, link: Link) -> tuple[float, ...]:
    return record.regions[link.region].box_xyxy_pixel or ()


# ---------------------------------------------------------------------------- whole pictures


def _caption(record: Record, lots: _Lots) -> _Talk | None:
    """A description of the picture."""
    said = _said(record, "caption")
    if not said:
        return None
    talk = _Talk()
    talk.say(lots.question(questions.CAPTION_QUESTIONS), lots.one(said).text)
    return talk


def _vqa(record: Record, lots: _Lots) -> _Talk | None:
    """A conversation as it was recorded."""
    said = _said(record, "vqa")
    return _Talk(list(lots.one(said).turns)) if said else None


_MAKERS: dict[str, Callable[[Record, _Lots], _Talk | None]] = {
    "gcg": _gcg,
    "referring": _segmentation("referring"),
    "semantic": _segmentation("semantic"),
    "grounding": _grounding,
    "region": _region,
    "caption": _caption,
    "vqa": _vqa,
}
