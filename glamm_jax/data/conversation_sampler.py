"""Sample conversations from a record: annotations of a task become questions and answers.

    sampled = sample_conversations(record, ("gcg", "region"), ConversationConfig(), seed=0)
    sampled.examples[0].turns  # (("Describe the image ...", "<p> A dog </p> [SEG] runs."),)

Everything sampled follows from seed, epoch, record and task, so an example is the same wherever it
is made. Questions are those of `glamm_jax.text.questions`, or of the `ConversationConfig`, which
also says which properties of the released training are reproduced.

Source: dataset/{segm,gcg,region,caption}_datasets of the original. Differs: there every class
samples with global generators, for one task.
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
from glamm_jax.data.annotation_rules import RESERVED_TOKEN, annotation_problem
from glamm_jax.data.boxes import to_unit
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record import Annotation, Link, Record
from glamm_jax.text import questions
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG
from glamm_jax.types import Example

Element = TypeVar("Element")
Span = tuple[int, int]
# Values of a mask's pixels: 0, 1, and 2 where two polygons overlap (quirk 22).
CountMask = UInt8[np.ndarray, "h w"]

# Events, counted under these names.
NO_ANNOTATION = "no annotation of this task"
OVERLAPPING = "overlapping phrases shortened"
NO_BOX = "region without a box"
NO_MASK = "region without a mask"


class SampledConversations(NamedTuple):
    """Conversations about one image.

    Attributes:
        examples: share one image array.
        notes: what happened, as "TASK: EVENT".
    """

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


@dataclass
class ConversationBuilder:
    """A conversation being built.

    Attributes:
        turns: questions and answers in turn.
        boxes: x0 y0 x1 y1 in pixels, one for each `<bbox>`; None: there are none.
        masks: for each [SEG] the regions whose union it is; None: there are none.
    """

    turns: list[str] = field(default_factory=list)
    boxes: list[tuple[float, ...]] | None = None
    masks: list[Sequence[Link]] | None = None

    def add_turn(self, question: str, answer: str) -> None:
        """Append a question and its answer."""
        self.turns += [question, answer]


class SeededSampler:
    """Random choices of one conversation, by a generator seeded with what it is about.

    Args:
        record: whose annotations are sampled.
        task: of the conversation.
        config: without `shuffle`, the first elements are chosen.
        seed: of the data.
        epoch: how often the record was sampled before.
    """

    def __init__(
        self, record: Record, task: str, config: ConversationConfig, seed: int, epoch: int
    ):
        self.config, self.notes = config, []
        name = "\0".join((str(seed), str(epoch), record.source, record.image_id, task))
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._rng = np.random.default_rng(np.frombuffer(digest, np.uint32))

    def sample(self, elements: Sequence[Element], limit: int) -> list[Element]:
        """At most `limit` elements, in random order."""
        if not self.config.shuffle:
            return list(elements[:limit])
        return [elements[i] for i in self._rng.permutation(len(elements))[:limit]]

    def choose(self, elements: Sequence[Element]) -> Element:
        """One element."""
        return elements[int(self._rng.integers(len(elements))) if self.config.shuffle else 0]

    def question(self, templates: Sequence[str], **values: Any) -> str:
        """A question from the configuration's templates, or from these; values are filled in."""
        template = self.choose(self.config.questions or templates)
        return questions.format_question([template], 0, **values)


def sample_conversations(
    record: Record,
    tasks: Sequence[ConversationTask],
    config: ConversationConfig,
    seed: int = 0,
    epoch: int = 0,
    max_mask_size: tuple[int, int] | None = None,
) -> SampledConversations:
    """Sample one conversation for every task that the record has annotations for.

    Args:
        record: image and annotations.
        tasks: of the conversations.
        config: how they are sampled.
        seed: of the data.
        epoch: how often the record was sampled before.
        max_mask_size: height and width that masks may have; those of a larger image are decoded at
            the largest size that fits (`rle.decode_into`).

    Raises:
        ImageError: the image cannot be read.
        MaskError: a mask cannot be read.
    """
    conversations: list[tuple[str, ConversationBuilder]] = []
    notes: list[str] = []
    for task in tasks:
        sampler = SeededSampler(record, task, config, seed, epoch)
        conversation = _TASKS[task](record, sampler)
        notes += [f"{task}: {note}" for note in sampler.notes]
        if conversation is None or not conversation.turns:
            notes.append(f"{task}: {NO_ANNOTATION}")
        else:
            conversations.append((task, conversation))
    if not conversations:
        return SampledConversations((), tuple(notes))
    image = open_image(record.image)
    size = (record.height, record.width)
    mask_size = rle.size_within(size, max_mask_size or size)
    examples = []
    for task, conversation in conversations:
        boxes = masks = None
        if conversation.boxes is not None:  # divided by the size of the original image (quirk 12)
            boxes = to_unit(np.array(conversation.boxes, np.float64), *size)
        if conversation.masks:
            masks = np.zeros((len(conversation.masks), *mask_size), np.uint8)
            for mask, links in zip(masks, conversation.masks, strict=True):
                decode_union(record, links, mask, config.count_overlaps)
        turns = tuple(conversation.turns)
        examples.append(Example(image, turns, boxes, masks, task, record.source, record.image_id))
    return SampledConversations(tuple(examples), tuple(notes))


def decode_union(
    record: Record, links: Sequence[Link], out: CountMask, count_overlaps: bool = True
) -> None:
    """Decode the union of the masks of all linked regions into an array of zeros.

    Args:
        record: holds the regions.
        links: to regions; those without a mask count nothing.
        out: uint8[h, w], zeros; smaller than the image, it receives the values at the centres of
            its larger pixels.
        count_overlaps: put 2 where two polygons of a region overlap (quirk 22).
    """
    size = (record.height, record.width)
    for i, link in enumerate(links):
        counts = np.zeros_like(out) if i else out
        region = record.regions[link.region]
        if region.mask is not None:
            rle.decode_into({"size": size, "counts": region.mask}, counts)
        if region.overlap is not None and count_overlaps:
            overlap = np.zeros_like(out)
            rle.decode_into({"size": size, "counts": region.overlap}, overlap)
            counts += overlap
        if i:
            np.maximum(out, counts, out=out)


def _annotations(record: Record, task: str, sampler: SeededSampler) -> list[Annotation]:
    """Annotations of a task that training can use; see `annotation_problem`."""
    annotations = [annotation for annotation in record.annotations if annotation.task == task]
    usable = [annotation for annotation in annotations if annotation_problem(annotation) is None]
    sampler.notes += [RESERVED_TOKEN] * (len(annotations) - len(usable))
    return usable


def _annotations_with_masks(record: Record, task: str, sampler: SeededSampler) -> list[Annotation]:
    """Annotations of a task all of whose regions have masks."""
    annotations = _annotations(record, task, sampler)
    complete = [
        annotation
        for annotation in annotations
        if all(record.regions[link.region].mask is not None for link in annotation.links)
    ]
    sampler.notes += [NO_MASK] * (len(annotations) - len(complete))
    return complete


# ---------------------------------------------------------------------------- segmentation


def _segmentation(task: str) -> Callable[[Record, SeededSampler], ConversationBuilder]:
    """One turn for each of a few expressions or classes, each with one mask (quirk 41)."""

    def build(record: Record, sampler: SeededSampler) -> ConversationBuilder:
        config = sampler.config
        candidates = _annotations_with_masks(record, task, sampler)
        annotations = sampler.sample(candidates, config.max_turns)
        conversation = ConversationBuilder(masks=[annotation.links for annotation in annotations])
        for annotation in annotations:
            name = annotation.text.strip().lower()
            question = sampler.question(questions.SEGMENTATION_QUESTIONS, name=name)
            answer = sampler.choose(config.answers or questions.SEGMENTATION_ANSWERS)
            conversation.add_turn(question, answer)
        return conversation

    return build


# ---------------------------------------------------------------------------- grounded captions


def _gcg(record: Record, sampler: SeededSampler) -> ConversationBuilder | None:
    """A caption with a mask for each phrase, in the order of the text."""
    captions = _annotations_with_masks(record, "gcg", sampler)
    if not captions:
        return None
    caption = sampler.choose(captions)
    spans = phrase_spans(caption, sampler.notes)
    conversation = ConversationBuilder(masks=list(spans.values()))
    question = sampler.question(questions.GCG_QUESTIONS)
    conversation.add_turn(question, mark_phrases(caption.text, spans, suffix=f" {SEG}"))
    return conversation


def _grounding(record: Record, sampler: SeededSampler) -> ConversationBuilder | None:
    """The question has the caption with its phrases marked, the answer a mask for each phrase."""
    captions = _annotations_with_masks(record, "gcg", sampler)
    if not captions:
        return None
    caption = sampler.choose(captions)
    spans = phrase_spans(caption, sampler.notes)
    if not spans:
        return None
    phrases = (caption.text[start:end] for start, end in spans)
    answer = ", ".join(f"{PHRASE_START} {phrase} {PHRASE_END} {SEG}" for phrase in phrases)
    conversation = ConversationBuilder(masks=list(spans.values()))
    marked = mark_phrases(caption.text, spans)
    question = sampler.question(questions.GROUNDING_QUESTIONS, name=marked)
    conversation.add_turn(question, f"{answer}.")
    return conversation


def phrase_spans(caption: Annotation, notes: list[str]) -> dict[Span, list[Link]]:
    """The phrases of a caption from left to right, with the regions that each refers to.

    Where two overlap, the first ends where the second begins; a phrase that becomes empty is
    removed with its mask. (Quirk 40: the original shortens phrases that do not overlap, too.)

    Args:
        caption: with links to regions; a span of -1, -1 is the complete text.
        notes: receives `OVERLAPPING` for each phrase that is shortened.
    """
    links_by_span: dict[Span, list[Link]] = {}
    for link in caption.links:
        is_complete = (link.start, link.end) == (-1, -1)
        span = (0, len(caption.text)) if is_complete else (link.start, link.end)
        links_by_span.setdefault(span, []).append(link)
    ordered = sorted(links_by_span)
    next_starts = [start for start, _ in ordered[1:]] + [len(caption.text)]
    spans: dict[Span, list[Link]] = {}
    for (start, end), next_start in zip(ordered, next_starts, strict=False):
        stop = min(end, next_start)
        notes += [OVERLAPPING] * (stop < end)
        phrase = caption.text[start:stop].rstrip()
        if phrase:
            spans[start, start + len(phrase)] = links_by_span[start, end]
    return spans


def mark_phrases(text: str, spans: Iterable[Span], suffix: str = "") -> str:
    """Put every phrase between `<p>` and `</p>`.

    Args:
        text: with the phrases.
        spans: (start, end) of the phrases in characters, in order.
        suffix: follows every `</p>`.
    """
    for start, end in reversed(list(spans)):
        phrase = f"{PHRASE_START} {text[start:end]} {PHRASE_END}{suffix}"
        text = text[:start] + phrase + text[end:]
    return text


# ---------------------------------------------------------------------------- regions


def _region(record: Record, sampler: SeededSampler) -> ConversationBuilder:
    """Ask for descriptions of regions, one per turn; first of a group of regions, if there is one.

    A description of several regions answers the question about the group (Flickr30k). The boxes are
    given once for each time that they are mentioned. Differs: the original gives them once, and its
    model fails (quirk 16).
    """
    annotations = _annotations(record, "region", sampler)
    with_boxes = [annotation for annotation in annotations if _has_boxes(record, annotation)]
    sampler.notes += [NO_BOX] * (len(annotations) - len(with_boxes))
    groups = [annotation for annotation in with_boxes if len(annotation.links) > 1]
    singles = [annotation for annotation in with_boxes if len(annotation.links) == 1]
    group = sampler.choose(groups) if groups else None
    if group is not None:
        members = {link.region for link in group.links}
        singles = [annotation for annotation in singles if annotation.links[0].region in members]
    limit = sampler.config.max_regions
    singles = sampler.sample(singles, limit)
    boxes = [_box(record, annotation.links[0]) for annotation in singles]
    conversation, group_boxes = ConversationBuilder(), []
    if group is not None:
        group_boxes = boxes or [_box(record, link) for link in sampler.sample(group.links, limit)]
        templates = sampler.config.group_questions or questions.REGION_GROUP_QUESTIONS
        template = sampler.choose(templates)
        question = questions.format_question([template], 0, num_regions=len(group_boxes))
        conversation.add_turn(question, group.text)
    for i, annotation in enumerate(singles):
        question = sampler.question(questions.REGION_QUESTIONS, num_regions=1, first_region=i + 1)
        conversation.add_turn(question, annotation.text)
    conversation.boxes = [*group_boxes, *boxes]
    return conversation


def _has_boxes(record: Record, annotation: Annotation) -> bool:
    boxes = [record.regions[link.region].box_xyxy_pixel for link in annotation.links]
    return bool(boxes) and None not in boxes


def _box(record: Record, link: Link) -> tuple[float, ...]:
    return record.regions[link.region].box_xyxy_pixel or ()


# ---------------------------------------------------------------------------- the complete image


def _caption(record: Record, sampler: SeededSampler) -> ConversationBuilder | None:
    """A caption of the image."""
    captions = _annotations(record, "caption", sampler)
    if not captions:
        return None
    conversation = ConversationBuilder()
    question = sampler.question(questions.CAPTION_QUESTIONS)
    conversation.add_turn(question, sampler.choose(captions).text)
    return conversation


def _vqa(record: Record, sampler: SeededSampler) -> ConversationBuilder | None:
    """A conversation as it was recorded."""
    annotations = _annotations(record, "vqa", sampler)
    return ConversationBuilder(list(sampler.choose(annotations).turns)) if annotations else None


_TASKS: dict[str, Callable[[Record, SeededSampler], ConversationBuilder | None]] = {
    "gcg": _gcg,
    "referring": _segmentation("referring"),
    "semantic": _segmentation("semantic"),
    "grounding": _grounding,
    "region": _region,
    "caption": _caption,
    "vqa": _vqa,
}
