"""What is said about a scene is true, means what it should, and spans cover their phrases."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.record import TASKS, check_record
from glamm_jax.miniworld import EASY, FULL, Scene, scene_record, render_scene
from glamm_jax.miniworld.annotations import (
    scene_entities,
    mask_box,
    referring_expressions,
    encode_jpeg,
    entity_mask,
    text_rng,
)
from glamm_jax.miniworld.captions import SceneCaption, SceneEntity, dense_caption, short_captions
from glamm_jax.miniworld.expressions import (
    ObjectQuery,
    is_unambiguous,
    plural_expression,
    simple_expression,
)
from glamm_jax.miniworld.layout import SceneObject
from glamm_jax.miniworld.vqa import vqa_turns
from glamm_jax.miniworld.world import MAX_RELATIONS
from tests.miniworld.reading import things_meant

SIZE = 64
PART = re.compile(r"^(\w+) (band|cap) of the (.*)$")
NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(params=["full", "easy"])
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    return request.getfixturevalue(f"{request.param}_scenes")


def test_expressions_mean_one_thing_and_nothing_else(scenes: list[Scene]) -> None:
    relations: Counter[str] = Counter()
    for one in scenes:
        said = referring_expressions(one, text_rng(one))
        assert said
        for text, mentions in said:
            part = PART.match(text)
            owner = part.group(3) if part else text
            assert things_meant(one, owner) == {mention.index for mention in mentions}, text
            if part:
                thing = one.objects[mentions[0].index]
                assert mentions[0].category == "part"
                assert tuple(thing.part or ()) == (part.group(2), part.group(1))
            relations[" ".join(text.split()[-6:-3])] += 1
    assert len(relations) > (10 if one.world is FULL else 0)


def test_every_way_of_telling_things_apart_is_used(full_scenes: list[Scene]) -> None:
    texts = "\n".join(text for one in full_scenes for text, _ in referring_expressions(one, text_rng(one)))
    for words in (
        *("leftmost", "rightmost", "topmost", "lowest", "small", "large", "striped", "on the "),
        *("left of", "right of", "above", "below", "behind", "in front of", "standing on"),
        *("band of", "cap of", "circles\n", "in the sky", "red thing"),
    ):
        assert words in texts


def _like(thing: SceneObject, **fields: object) -> SceneObject:
    return replace(thing, part=None, base=-1, **fields)  # type: ignore[arg-type]  # any fields


def _staged(*things: SceneObject) -> Scene:
    """A scene with other things in its place; the picture stays the old one."""
    one = render_scene(0, 0, SIZE, EASY)
    return replace(one, plan=replace(one.layout, things=things))


def test_the_checker_refuses_what_is_ambiguous_or_vague() -> None:
    star = replace(render_scene(0, 0, SIZE, EASY).objects[0], shape="star", colour="red", x=0.2, y=0.5)
    ring = _like(star, shape="ring", colour="blue", x=0.6)
    two = _staged(star, _like(star, x=0.9), ring)
    assert not is_unambiguous(two, ObjectQuery("red", "star"), frozenset((0,)))
    assert is_unambiguous(two, ObjectQuery("red", "star", plural=True), frozenset((0, 1)))
    assert is_unambiguous(two, ObjectQuery("red", "star", extreme="leftmost"), frozenset((0,)))
    left = ObjectQuery("red", "star", relation="left of", other=ObjectQuery("blue", "ring"))
    assert is_unambiguous(two, left, frozenset((0,)))
    vague = _staged(star, _like(star, x=0.61), ring)  # hardly right of the ring
    assert not is_unambiguous(vague, left, frozenset((0,)))
    nearly = _staged(star, _like(star, x=0.25), ring)  # hardly the leftmost
    assert not is_unambiguous(nearly, ObjectQuery("red", "star", extreme="leftmost"), frozenset((0,)))
    unclear = ObjectQuery("blue", "ring", relation="right of", other=ObjectQuery("red", "star"))
    assert not is_unambiguous(two, unclear, frozenset((2,)))  # of which star?
    alone = ObjectQuery("blue", "ring", extreme="leftmost")
    assert not is_unambiguous(two, alone, frozenset((2,)))  # a superlative needs others
    assert simple_expression(_staged(star, star), 0) is None
    assert plural_expression(_staged(star, star), 0) is not None


def _captions(one: Scene) -> Iterator[SceneCaption]:
    rng = text_rng(one)
    yield dense_caption(one, rng)
    yield from short_captions(one, rng)


def test_phrases_name_what_they_are_linked_to(scenes: list[Scene]) -> None:
    for one in scenes:
        for caption in _captions(one):
            last = 0
            for start, end, mentions in caption.phrases:
                assert last <= start < end <= len(caption.text)
                last = end
                words = caption.text[start:end]
                assert words == words.strip(" .,")
                for mention in mentions:
                    _check_name(one, words, mention, several=len(mentions) > 1)


def _check_name(one: Scene, words: str, mention: SceneEntity, *, several: bool) -> None:
    if mention.category == "stuff":
        assert words.lower() == f"the {one.stuff[mention.index]}"
        return
    thing = one.objects[mention.index]
    if mention.category == "part":
        assert thing.part is not None
        assert words.endswith(f"{thing.part.colour} {thing.part.name}")
        return
    assert f"{thing.colour} {thing.shape}" in words
    if several:
        assert words.split()[0].lower() in NUMBERS
    if words.startswith("The "):
        assert things_meant(one, words[4:]) == {mention.index}


def test_no_phrase_stands_in_a_caption_twice(scenes: list[Scene]) -> None:
    for one in scenes:
        for caption in _captions(one):
            said = [caption.text[start:end].lower() for start, end, _ in caption.phrases]
            assert len(set(said)) == len(said)


def test_a_dense_caption_tells_everything_once(scenes: list[Scene]) -> None:
    for one in scenes:
        caption = dense_caption(one, text_rng(one))
        told = Counter(mention for phrase in caption.phrases for mention in phrase.entities)
        if one.world.text_style == "plain":
            assert set(told) == {SceneEntity("thing", i) for i in range(len(one.objects))}
            assert set(told.values()) == {1}
            continue
        assert set(told) == set(scene_entities(one))
        assert sum(told.values()) - len(told) <= 2 * MAX_RELATIONS
        assert len(caption.phrases) <= one.world.max_masks
        for sentence in caption.text.split(". ")[len(one.stuff) :]:
            match = re.match(r"^The (.*) is (.*? the .*?)\.?$", sentence)
            assert match is not None
            (subject,) = things_meant(one, match.group(1))
            thing = one.objects[subject]
            related = f"{thing.colour} {thing.shape} {match.group(2)}"
            assert subject in things_meant(one, related)


def test_answers_are_true(scenes: list[Scene]) -> None:
    asked: Counter[str] = Counter()
    for one in scenes:
        turns = vqa_turns(one, text_rng(one))
        assert 4 <= len(turns) <= 8
        assert len(turns) % 2 == 0
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            asked[" ".join(question.split()[:2])] += _check_answer(one, question, answer)
    assert len(asked) == (7 if one.world is FULL else 6)  # the easy world has no "where"
    assert min(asked.values()) > 0


def _check_answer(one: Scene, question: str, answer: str) -> int:
    if match := re.match(r"How many (.*) are there\?", question):
        number = NUMBERS[answer.split()[2]]
        assert number == len(things_meant(one, match.group(1)))
        return 1
    if match := re.match(r"Is there an? (.*) in the picture\?", question):
        assert answer.startswith("Yes") == bool(things_meant(one, match.group(1)))
        return 1
    if match := re.match(r"What (?:colour is|shape does) the (.*?)(?: have)?\?", question):
        (number,) = things_meant(one, match.group(1))
        assert answer.rstrip(".").split()[-1] in one.objects[number].kind
        return 1
    if match := re.match(r"Where is the (.*)\?", question):
        (number,) = things_meant(one, match.group(1))
        assert answer.endswith(f"the {one.stuff[one.objects[number].ground_index]}.")
        return 1
    if match := re.match(r"Is the (.*?) ((?:left of|right of|above|below) the .*)\?", question):
        (number,) = things_meant(one, match.group(1))
        thing = one.objects[number]
        holds = number in things_meant(one, f"{thing.colour} {thing.shape} {match.group(2)}")
        assert answer == ("Yes, it is." if holds else "No, it is not.")
        return 1
    assert question == "What kind of place is this?"
    assert one.layout.place in answer
    return 1


def test_a_record_says_all_tasks_and_its_masks_return(scenes: list[Scene]) -> None:
    for one in scenes[:50]:
        made = scene_record(one, "val")
        check_record(made)
        assert {annotation.task for annotation in made.annotations} == set(TASKS)
        assert (made.split, made.source) == ("val", "miniworld")
        assert len(made.regions) == len(scene_entities(one))
        for region, mention in zip(made.regions, scene_entities(one), strict=True):
            assert region.mask is not None
            mask = rle.decode({"size": [SIZE, SIZE], "counts": region.mask})
            np.testing.assert_array_equal(mask, entity_mask(one, mention))
            assert region.box_xyxy_pixel == mask_box(mask)
        assert np.asarray(Image.open(io.BytesIO(made.image))).shape == (SIZE, SIZE, 3)


def test_a_class_has_all_that_belongs_to_it(scenes: list[Scene]) -> None:
    for one in scenes[:50]:
        made = scene_record(one)
        covered = np.zeros((SIZE, SIZE), int)
        for annotation in made.annotations:
            if annotation.task == "semantic":
                for link in annotation.links:
                    runs = {"size": [SIZE, SIZE], "counts": made.regions[link.region].mask}
                    covered += rle.decode(runs)
        assert (covered == 1).all()


def test_boxes_are_tight() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert mask_box(mask) == (3, 2, 9, 5)


def test_a_picture_is_stored_as_the_same_bytes() -> None:
    image = render_scene(0, 0, SIZE).image
    assert encode_jpeg(image) == encode_jpeg(image.copy())
    stored = np.asarray(Image.open(io.BytesIO(encode_jpeg(image))))
    assert np.abs(stored.astype(int) - image).mean() < 4
