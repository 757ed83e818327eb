"""The items of every benchmark from records, and their references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.data.record import Annotation, Link, Record, Region
from glamm_jax.evaluation.benchmarks import (
    BENCHMARKS,
    conversation,
    gcg,
    image_caption,
    phrase_grounding,
    refseg,
    region_caption,
)
from glamm_jax.evaluation.benchmarks.base import PromptTemplate, PromptTemplateError
from glamm_jax.evaluation.benchmarks.refseg import NUM_FORCED
from glamm_jax.miniworld import WORLDS, render_scene, scene_record

RICH = scene_record(render_scene(5, 3, 64, WORLDS["full"]))


def pixels(columns: slice) -> np.ndarray:
    mask = np.zeros((4, 6), bool)
    mask[:, columns] = True
    return mask


def region(columns: slice, overlapping: slice | None = None) -> Region:
    counts = rle.encode(pixels(columns))["counts"].encode()
    overlap = None if overlapping is None else rle.encode(pixels(overlapping))["counts"].encode()
    return Region((float(columns.start), 0.0, float(columns.stop), 4.0), counts, overlap)


def small(*annotations: Annotation) -> Record:
    regions = (region(slice(0, 2)), region(slice(3, 5), slice(4, 5)))
    return Record(b"", "7", "test", "val", 4, 6, regions, annotations)


def test_a_grounded_caption_has_its_phrases_in_order_and_unions_as_masks() -> None:
    links = (Link(1, 13, 19), Link(0, 0, 5), Link(1, 0, 5))
    [item] = gcg.items_from_record(
        small(Annotation("gcg", "A dog chases a ball.", links)), 3, PromptTemplate("Describe.")
    )
    assert (item.id, item.record, item.prompt) == ("7", 3, "Describe.")
    assert item.reference_phrases == ("A dog", "a ball")
    both = pixels(slice(0, 2)) | pixels(slice(3, 5))
    np.testing.assert_array_equal(rle.decode(item.reference_masks[0]), both)
    np.testing.assert_array_equal(rle.decode(item.reference_masks[1]), pixels(slice(3, 5)))


def test_phrase_grounding_gives_the_caption_with_its_phrases_marked() -> None:
    caption = Annotation("gcg", "A dog chases a ball.", (Link(0, 0, 5), Link(1, 13, 19)))
    [item] = phrase_grounding.items_from_record(small(caption), 0, PromptTemplate("Ground: {name}"))
    assert item.prompt == "Ground: <p> A dog </p> chases <p> a ball </p>."


def test_every_sentence_is_asked_and_three_of_them_in_a_conversation_with_answers() -> None:
    prompt = BENCHMARKS["refseg"].prompt_template("original")
    *free, forced = refseg.items_from_record(RICH, 0, prompt)
    annotations = [each for each in RICH.annotations if each.task == "referring"]
    assert len(free) == len(annotations) > NUM_FORCED
    assert [item.reference_phrases for item in free] == [(each.text,) for each in annotations]
    assert free[0].prompt == f"Please segment the {annotations[0].text} in the image."
    assert len(forced.history) == len(forced.reference_masks) == NUM_FORCED
    assert forced.max_tokens == 1
    for (question, answer), name, mask in zip(
        forced.history, forced.reference_phrases, forced.reference_masks, strict=True
    ):
        own = next(item for item in free if item.reference_phrases == (name,))
        assert (question, mask) == (own.prompt, own.reference_masks[0])
        assert answer == "Sure, it is [SEG]."


def test_the_sentences_follow_from_seed_and_picture() -> None:
    def sample(seed: int, image_id: str = RICH.image_id) -> tuple[str, ...]:
        other = replace(RICH, image_id=image_id)
        return [*refseg.items_from_record(other, 0, PromptTemplate("{name}", seed=seed))][
            -1
        ].reference_phrases

    assert sample(0) == sample(0)
    assert len({sample(seed) for seed in range(8)}) > 1
    assert len({sample(0, f"picture {i}") for i in range(8)}) > 1


def test_pixels_that_polygons_cover_twice_travel_along() -> None:
    record_ = small(
        Annotation("referring", "It ", (Link(1),)), Annotation("referring", "x", (Link(0),))
    )
    first, second, forced = refseg.items_from_record(record_, 0, PromptTemplate("Where is {name}?"))
    assert first.prompt == "Where is it?"
    assert first.reference_overlaps[0] is not None
    np.testing.assert_array_equal(rle.decode(first.reference_overlaps[0]), pixels(slice(4, 5)))
    assert second.reference_overlaps == ()
    assert [each is None for each in forced.reference_overlaps] == [False, True]


def test_regions_captions_and_conversations_are_asked_by_their_annotations() -> None:
    record_ = small(
        Annotation("region", "a dog", (Link(0),)),
        Annotation("region", "both", (Link(0), Link(1))),
        Annotation("caption", "A dog."),
        Annotation("caption", "A ball."),
        Annotation("vqa", turns=("Is it?", "Yes.", "Why?", "Because.")),
    )
    [item] = region_caption.items_from_record(
        record_, 0, BENCHMARKS["region_caption"].prompt_template()
    )
    assert item.regions == ((0.0, 0.0, 2.0, 4.0),)
    assert (item.reference_texts, item.prompt.count("<bbox>")) == (("a dog",), 1)
    [item] = image_caption.items_from_record(record_, 0, PromptTemplate("What is it?"))
    assert item.reference_texts == ("A dog.", "A ball.")
    first, second = conversation.items_from_record(record_, 0, PromptTemplate(""))
    assert (first.history, first.reference_texts) == ((), ("Yes.",))
    assert (second.prompt, second.history) == ("Why?", (("Is it?", "Yes."),))


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("What is {thing}?", "braces around something other"),
        ("What is {", "braces around something other"),
        ("What is it?", "refers to 0 regions"),
        ("<bbox> or <bbox>?", "refers to 2 regions"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(question: str, problem: str) -> None:
    with pytest.raises(PromptTemplateError, match=problem):
        BENCHMARKS["region_caption"].prompt_template(question)
