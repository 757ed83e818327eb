"""What a record is asked by each benchmark, and what would be right: items out of annotations.

One function a benchmark: (record, its number, how it is asked) -> items. Ids are the picture's,
with the number of the annotation behind it where a picture has several items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.conversation_sampler import decode_union, mark_phrases, phrase_spans
from glamm_jax.data.record import Annotation, Link, Record
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.item import Item, RunLengths
from glamm_jax.text import questions
from glamm_jax.text.special_tokens import REGION, SEG

SENTENCES = 3  # of a picture, that the original's referring segmentation asks for (trap 48)
FORCED = "/forced"  # ends the id of a conversation whose answers are given
# Behind a conversation whose answers are given; what is said to it is not looked at.
LAST_WORD = "Is that all?"


class PromptTemplateError(GLaMMError):
    """A question that cannot be asked. Says what is wrong with it."""


@dataclass(frozen=True)
class PromptTemplate:
    """How a benchmark asks.

    question: `{name}` becomes an expression or a caption with its phrases marked, `{regions}` the
        region, for which `<bbox>` may stand, too.
    answer: what teacher forcing answers an expression with.
    seed: draws the sentences that are asked for with teacher forcing.
    """

    question: str
    answer: str = f"Sure, it is {SEG}."
    seed: int = 0

    def format(self, name: str = "", num_regions: int = 0) -> str:
        """The question about something.

        Raises: WordingError when its braces name something else.
        """
        try:
            return questions.format_question([self.question], 0, name=name, num_regions=num_regions)
        except (KeyError, ValueError, IndexError) as error:
            raise PromptTemplateError(
                f"the question {self.question!r} has braces around something else than name or "
                "regions; write them twice where they are meant"
            ) from error


MakeItems = Callable[[Record, int, PromptTemplate], Iterator[Item]]


def grounded_caption(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """A caption with masks: the first that the record has, its phrases from left to right."""
    for caption in _said(record, "gcg")[:1]:
        spans = phrase_spans(caption, [])
        yield Item(
            record.image_id,
            record.image_id,
            number,
            wording.format(),
            reference_texts=(caption.text,),
            reference_phrases=tuple(caption.text[start:end] for start, end in spans),
            reference_masks=tuple(union(record, links) for links in spans.values()),
        )


def grounded_phrases(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """The caption is given with its phrases marked, and the masks are asked for."""
    for caption in _said(record, "gcg")[:1]:
        spans = phrase_spans(caption, [])
        if spans:
            yield Item(
                record.image_id,
                record.image_id,
                number,
                wording.format(mark_phrases(caption.text, spans)),
                reference_phrases=tuple(caption.text[start:end] for start, end in spans),
                reference_masks=tuple(union(record, links) for links in spans.values()),
            )


def referring(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """Every sentence by itself, and up to three of them in one conversation with known answers.

    Source: dataset/segm_datasets/RefCOCO_Segm_ds.py (inference=True). Differs: its three sentences
    are drawn by a global generator, anew in each run; ours follow from the seed and the picture.
    """
    said = [each for each in _said(record, "referring") if _has_masks(record, each)]
    names = [each.text.strip().lower() for each in said]
    prompts = [wording.format(name) for name in names]
    truths = [union(record, each.links) for each in said]
    twice = [_covered_twice(record, each.links) for each in said]
    for k, (prompt, name, truth) in enumerate(zip(prompts, names, truths, strict=True)):
        identity = f"{record.image_id}/{k}"
        yield Item(
            identity,
            record.image_id,
            number,
            prompt,
            reference_phrases=(name,),
            reference_masks=(truth,),
            reference_overlaps=(twice[k],) if twice[k] else (),
        )
    if said:
        drawn = _draw(len(said), wording.seed, record.image_id)
        yield Item(
            f"{record.image_id}{FORCED}",
            record.image_id,
            number,
            LAST_WORD,
            history=tuple((prompts[k], wording.answer) for k in drawn),
            reference_phrases=tuple(names[k] for k in drawn),
            reference_masks=tuple(truths[k] for k in drawn),
            reference_overlaps=tuple(twice[k] for k in drawn)
            if any(twice[k] for k in drawn)
            else (),
            max_tokens=1,
        )


def region(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """Every description of one box."""
    for k, each in enumerate(_said(record, "region")):
        boxes = [record.regions[link.region].box_xyxy_pixel for link in each.links]
        if len(boxes) == 1 and boxes[0] is not None:
            identity = f"{record.image_id}/{k}"
            prompt = wording.format(num_regions=1)
            yield Item(
                identity,
                identity,
                number,
                prompt,
                regions=(boxes[0],),
                reference_texts=(each.text,),
            )


def caption(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """A description of the picture; all that are known are right."""
    texts = tuple(each.text for each in _said(record, "caption"))
    if texts:
        name = record.image_id
        yield Item(name, name, number, wording.format(), reference_texts=texts)


def conversation(record: Record, number: int, wording: PromptTemplate) -> Iterator[Item]:
    """Every question of a recorded conversation, after the known answers to those before it."""
    for k, each in enumerate(_said(record, "vqa")):
        pairs = [*zip(each.turns[::2], each.turns[1::2], strict=True)]
        for turn, (asked, answer) in enumerate(pairs):
            identity = f"{record.image_id}/{k}/{turn}"
            yield Item(
                identity,
                record.image_id,
                number,
                asked,
                history=tuple(pairs[:turn]),
                reference_texts=(answer,),
            )


def union(record: Record, links: Sequence[Link]) -> RunLengths:
    """The pixels that the masks of these regions cover together."""
    masks = [record.regions[link.region].mask for link in links]
    if len(masks) == 1 and masks[0] is not None:
        return {"size": [record.height, record.width], "counts": masks[0].decode("ascii")}
    counts = np.zeros((record.height, record.width), np.uint8)
    decode_union(record, links, counts)
    return rle.encode(counts != 0)


def _covered_twice(record: Record, links: Sequence[Link]) -> RunLengths | None:
    """The pixels of `union` that count 2."""
    if all(record.regions[link.region].overlap is None for link in links):
        return None
    counts = np.zeros((record.height, record.width), np.uint8)
    decode_union(record, links, counts)
    return rle.encode(counts > 1)


def check_prompt_template(wording: PromptTemplate, num_regions: int) -> None:
    """Raises: WordingError for unknown braces, or another number of `<bbox>` than of regions."""
    found = wording.format("a name", num_regions).count(REGION)
    if found != num_regions:
        raise PromptTemplateError(
            f"the question {wording.question!r} speaks of {found} regions, and is asked with "
            f"{num_regions}: write {{regions}} or {REGION} once for each"
        )


def _said(record: Record, task: str) -> list[Annotation]:
    return [each for each in record.annotations if each.task == task]


def _has_masks(record: Record, annotation: Annotation) -> bool:
    return all(record.regions[link.region].mask is not None for link in annotation.links)


def _draw(count: int, seed: int, image_id: str) -> list[int]:
    """Numbers of the sentences of a forced conversation, in their drawn order."""
    if count < SENTENCES:
        return [*range(count)]
    lots = np.random.default_rng([seed, *image_id.encode("utf-8")])
    return lots.choice(count, SENTENCES, replace=False).tolist()
