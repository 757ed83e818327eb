"""Texts about a scene are true and unambiguous, and spans cover their phrases."""

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
from glamm_jax.miniworld import EASY, FULL, Scene, render_scene, scene_record
from glamm_jax.miniworld.annotations import (
    encode_jpeg,
    entity_mask,
    mask_box,
    referring_expressions,
    scene_entities,
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
from tests.miniworld.conftest import max_masks
from tests.miniworld.expression_parser import matching_objects

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks

SIZE = 64
PART = re.compile(r"^(\w+) (band|cap) of the (.*)$")
NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(params=["full", "easy"])
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    return request.getfixturevalue(f"{request.param}_scenes")


def test_expressions_mean_their_target_and_nothing_else(scenes: list[Scene]) -> None:
    relations: Counter[str] = Counter()
    for scene in scenes:
        expressions = referring_expressions(scene, text_rng(scene))
        assert expressions
        for text, entities in expressions:
            part = PART.match(text)
            owner = part.group(3) if part else text
            assert matching_objects(scene, owner) == {entity.index for entity in entities}, text
            if part:
                item = scene.objects[entities[0].index]
                assert entities[0].category == "part"
                assert tuple(item.part or ()) == (part.group(2), part.group(1))
            relations[" ".join(text.split()[-6:-3])] += 1
    assert len(relations) > (10 if scene.world is FULL else 0)


def test_every_form_of_expression_is_used(full_scenes: list[Scene]) -> None:
    texts = "\n".join(
        text for scene in full_scenes for text, _ in referring_expressions(scene, text_rng(scene))
    )
    for words in (
        *("leftmost", "rightmost", "topmost", "lowest", "small", "large", "striped", "on the "),
        *("left of", "right of", "above", "below", "behind", "in front of", "standing on"),
        *("band of", "cap of", "circles\n", "in the sky", "red thing"),
    ):
        assert words in texts


def _similar(item: SceneObject, **fields: object) -> SceneObject:
    return replace(item, part=None, base_index=-1, **fields)  # type: ignore[arg-type]  # any fields


def _scene_of(*objects: SceneObject) -> Scene:
    """Return a scene with other objects; its image is not rendered again."""
    scene = render_scene(0, 0, SIZE, EASY)
    return replace(scene, layout=replace(scene.layout, objects=objects))


def test_ambiguous_and_vague_expressions_are_rejected() -> None:
    star = replace(
        render_scene(0, 0, SIZE, EASY).objects[0], shape="star", colour="red", x=0.2, y=0.5
    )
    ring = _similar(star, shape="ring", colour="blue", x=0.6)
    two = _scene_of(star, _similar(star, x=0.9), ring)
    assert not is_unambiguous(two, ObjectQuery("red", "star"), frozenset((0,)))
    assert is_unambiguous(two, ObjectQuery("red", "star", plural=True), frozenset((0, 1)))
    assert is_unambiguous(two, ObjectQuery("red", "star", extreme="leftmost"), frozenset((0,)))
    left = ObjectQuery("red", "star", relation="left of", other=ObjectQuery("blue", "ring"))
    assert is_unambiguous(two, left, frozenset((0,)))
    vague = _scene_of(star, _similar(star, x=0.61), ring)  # hardly right of the ring
    assert not is_unambiguous(vague, left, frozenset((0,)))
    nearly = _scene_of(star, _similar(star, x=0.25), ring)  # hardly the leftmost
    assert not is_unambiguous(
        nearly, ObjectQuery("red", "star", extreme="leftmost"), frozenset((0,))
    )
    unclear = ObjectQuery("blue", "ring", relation="right of", other=ObjectQuery("red", "star"))
    assert not is_unambiguous(two, unclear, frozenset((2,)))  # of which star?
    alone = ObjectQuery("blue", "ring", extreme="leftmost")
    assert not is_unambiguous(two, alone, frozenset((2,)))  # a superlative needs others
    assert simple_expression(_scene_of(star, star), 0) is None
    assert plural_expression(_scene_of(star, star), 0) is not None


def _captions(scene: Scene) -> Iterator[SceneCaption]:
    rng = text_rng(scene)
    yield dense_caption(scene, rng)
    yield from short_captions(scene, rng)


def test_phrases_name_what_they_are_linked_to(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in _captions(scene):
            last = 0
            for start, end, entities in caption.phrases:
                assert last <= start < end <= len(caption.text)
                last = end
                words = caption.text[start:end]
                assert words == words.strip(" .,")
                for entity in entities:
                    _check_name(scene, words, entity, several=len(entities) > 1)


def _check_name(scene: Scene, words: str, entity: SceneEntity, *, several: bool) -> None:
    if entity.category == "stuff":
        assert words.lower() == f"the {scene.stuff[entity.index]}"
        return
    item = scene.objects[entity.index]
    if entity.category == "part":
        assert item.part is not None
        assert words.endswith(f"{item.part.colour} {item.part.name}")
        return
    assert f"{item.colour} {item.shape}" in words
    if several:
        assert words.split()[0].lower() in NUMBERS
    if words.startswith("The "):
        assert matching_objects(scene, words[4:]) == {entity.index}


def test_no_phrase_occurs_in_a_caption_twice(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in _captions(scene):
            phrases = [caption.text[start:end].lower() for start, end, _ in caption.phrases]
            assert len(set(phrases)) == len(phrases)


def test_a_dense_caption_names_everything_once(scenes: list[Scene]) -> None:
    for scene in scenes:
        caption = dense_caption(scene, text_rng(scene))
        counts = Counter(entity for phrase in caption.phrases for entity in phrase.entities)
        if scene.world.text_style == "plain":
            assert set(counts) == {SceneEntity("object", i) for i in range(len(scene.objects))}
            assert set(counts.values()) == {1}
            continue
        assert set(counts) == set(scene_entities(scene))
        assert sum(counts.values()) - len(counts) <= 2 * MAX_RELATIONS
        assert len(caption.phrases) <= max_masks(scene.world)
        for sentence in caption.text.split(". ")[len(scene.stuff) :]:
            match = re.match(r"^The (.*) is (.*? the .*?)\.?$", sentence)
            assert match is not None
            (subject,) = matching_objects(scene, match.group(1))
            item = scene.objects[subject]
            related = f"{item.colour} {item.shape} {match.group(2)}"
            assert subject in matching_objects(scene, related)


def test_answers_are_true(scenes: list[Scene]) -> None:
    counts: Counter[str] = Counter()
    for scene in scenes:
        turns = vqa_turns(scene, text_rng(scene))
        assert 4 <= len(turns) <= 8
        assert len(turns) % 2 == 0
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            counts[" ".join(question.split()[:2])] += _check_answer(scene, question, answer)
    assert len(counts) == (7 if scene.world is FULL else 6)  # the easy world has no "where"
    assert min(counts.values()) > 0


def _check_answer(scene: Scene, question: str, answer: str) -> int:
    if match := re.match(r"How many (.*) are there\?", question):
        number = NUMBERS[answer.split()[2]]
        assert number == len(matching_objects(scene, match.group(1)))
        return 1
    if match := re.match(r"Is there an? (.*) in the picture\?", question):
        assert answer.startswith("Yes") == bool(matching_objects(scene, match.group(1)))
        return 1
    if match := re.match(r"What (?:colour is|shape does) the (.*?)(?: have)?\?", question):
        (number,) = matching_objects(scene, match.group(1))
        assert answer.rstrip(".").split()[-1] in scene.objects[number].kind
        return 1
    if match := re.match(r"Where is the (.*)\?", question):
        (number,) = matching_objects(scene, match.group(1))
        assert answer.endswith(f"the {scene.stuff[scene.objects[number].ground_index]}.")
        return 1
    if match := re.match(r"Is the (.*?) ((?:left of|right of|above|below) the .*)\?", question):
        (number,) = matching_objects(scene, match.group(1))
        item = scene.objects[number]
        related = number in matching_objects(scene, f"{item.colour} {item.shape} {match.group(2)}")
        assert answer == ("Yes, it is." if related else "No, it is not.")
        return 1
    assert question == "What kind of place is this?"
    assert scene.layout.place in answer
    return 1


def test_a_record_has_all_tasks_and_its_masks_are_exact(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        record = scene_record(scene, "val")
        check_record(record)
        assert {annotation.task for annotation in record.annotations} == set(TASKS)
        assert (record.split, record.source) == ("val", "miniworld")
        assert len(record.regions) == len(scene_entities(scene))
        for region, entity in zip(record.regions, scene_entities(scene), strict=True):
            assert region.mask is not None
            mask = rle.decode({"size": [SIZE, SIZE], "counts": region.mask})
            np.testing.assert_array_equal(mask, entity_mask(scene, entity))
            assert region.box_xyxy_pixel == mask_box(mask)
        assert np.asarray(Image.open(io.BytesIO(record.image))).shape == (SIZE, SIZE, 3)


def test_a_class_has_all_that_belongs_to_it(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        record = scene_record(scene)
        covered = np.zeros((SIZE, SIZE), int)
        for annotation in record.annotations:
            if annotation.task == "semantic":
                for link in annotation.links:
                    runs = {"size": [SIZE, SIZE], "counts": record.regions[link.region].mask}
                    covered += rle.decode(runs)
        assert (covered == 1).all()


def test_boxes_are_tight() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert mask_box(mask) == (3, 2, 9, 5)


def test_an_image_is_stored_as_the_same_bytes() -> None:
    image = render_scene(0, 0, SIZE).image
    assert encode_jpeg(image) == encode_jpeg(image.copy())
    stored = np.asarray(Image.open(io.BytesIO(encode_jpeg(image))))
    assert np.abs(stored.astype(int) - image).mean() < 4
