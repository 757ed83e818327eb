"""What a scene graph has of what a caption names, and the caption made of a graph alone."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.phrase_matching import KnownObjects, matching_tables, named_objects
from glamm_jax.grand.roles import ParsedText
from glamm_jax.grand.template_caption import template_caption
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.miniworld import FULL, render_scene
from glamm_jax.miniworld.captions import dense_caption, object_description

PARSER = RuleParser()
GRAPH = GraphText(
    "7",
    "",
    (
        ObjectFacts(0, ("sofa",), ("a red sofa",)),
        ObjectFacts(1, ("person",), ("a woman in a green dress",), ("the woman",)),
        ObjectFacts(2, ("bus_(vehicle)",), ("the bus is yellow and blue",)),
        ObjectFacts(3, ("star",), ("a small red star with a white band",)),
        ObjectFacts(4, ("hot_dog",)),
        ObjectFacts(5, ("dog",), ("the gray dog",)),
        ObjectFacts(6, ("wine_glass",)),
        ObjectFacts(7, ("knife", "butter knife")),
    ),
    ("Outdoor scene", "Urban landscape"),
    ("sky",),
)
KNOWN = KnownObjects(GRAPH, PARSER)


@pytest.mark.parametrize(
    "phrase",
    [
        "a sofa",
        "The couch",
        "couches",
        "a red couch",
        "a man",
        "several people",
        "a group of people",
        "her hand",
        "a dress",
        "a blue bus",
        "vehicles",
        "a yellow vehicle",
        "the wheels of the bus",
        "a white band",
        "food",
        "a hot dog",
        "the grey dog",
        "an animal",
        "the dog's tail",
        "a wine glass",
        "knives",
        "a city street",
        "the blue sky",
        "the background",
        "the left side",
        "a relaxed atmosphere",
        "red",
        "",
    ],
)
def test_phrases_that_the_graph_has(phrase: str) -> None:
    assert KNOWN.missing([phrase]) == ()


@pytest.mark.parametrize(
    "phrase",
    [
        "two cats",
        "a green couch",
        "a red dress",
        "a white bus",
        "a red vehicle",
        "a white star",
        "a red band",
        "a black dog",
        "a group of birds",
        "a star next to a lamp",
        "a ring and a star",
        "a kitchen",
        "a red street",
        "unheard-of gizmos",
    ],
)
def test_phrases_that_it_lacks(phrase: str) -> None:
    assert KNOWN.missing([phrase, "a sofa", phrase]) == (phrase,)


def test_colours_can_be_ignored() -> None:
    known = KnownObjects(GRAPH, PARSER, use_colours=False)
    assert known.missing(["a green couch", "a green cat"]) == ("a green cat",)


def test_tags_and_mentions_do_not_allow_any_colour() -> None:
    entries = (
        ObjectFacts(0, ("triangle",), ("a green triangle",)),
        ObjectFacts(1, ("circle",), ("a red circle",), ("a circle left of the triangle",)),
    )
    known = KnownObjects(GraphText("7", "", entries, stuff=("triangle", "park")), PARSER)
    assert known.missing(["a pink triangle", "a pink circle"]) == (
        "a pink triangle",
        "a pink circle",
    )
    assert known.missing(["a triangle", "a red circle", "the green triangle", "a park"]) == ()


def test_a_more_general_label_does_not_cover_a_special_word() -> None:
    known = KnownObjects(GraphText("7", "", (ObjectFacts(0, ("animal",)),)), PARSER)
    assert known.missing(["a dog", "an animal"]) == ("a dog",)


def test_a_hot_dog_is_no_dog() -> None:
    known = KnownObjects(GraphText("7", "", (ObjectFacts(0, ("hot_dog",)),)), PARSER)
    assert known.missing(["a dog", "hot dogs"]) == ("a dog",)


def test_named_objects() -> None:
    text = "A group of people near the black and white cow. The car is red."
    (parsed,) = PARSER([text])
    assert isinstance(parsed, ParsedText)
    found = [(text[x.start : x.end], x.name, set(x.colours)) for x in named_objects(text, parsed)]
    assert found == [
        ("people", "person", set()),
        ("the black and white cow", "cow", {"black", "white"}),
        ("The car", "automobile", {"red"}),
    ]


def test_the_tables_have_no_contradictions() -> None:
    tables = matching_tables()
    for name in ("dog", "automobile", "person", "drinking glass"):
        assert tables.name(name) == name
        assert name not in tables.general(name)
    assert {"animal", "pet"} <= tables.general("dog")
    assert "tail" in tables.parts("dog") and "wheel" in tables.parts("bus")
    assert tables.fingerprint.startswith("matching-1-")


def scene_graph(scene_id: int) -> tuple[GraphText, str]:
    scene = render_scene(3, scene_id, 64, FULL)
    entries = tuple(
        ObjectFacts(k, (item.shape,), (object_description(scene, k),))
        for k, item in enumerate(scene.objects)
    )
    caption = dense_caption(scene, np.random.default_rng(0)).text
    return GraphText(str(scene_id), "", entries, (), scene.stuff), caption


@pytest.mark.parametrize("scene_id", range(8))
def test_true_captions_of_rendered_scenes_lack_nothing(scene_id: int) -> None:
    graph, caption = scene_graph(scene_id)
    known = KnownObjects(graph, PARSER)
    (parsed,) = PARSER([caption])
    assert isinstance(parsed, ParsedText)
    phrases = [caption[x.start : x.end] for x in named_objects(caption, parsed)]
    assert phrases and known.missing(phrases) == ()
    assert known.missing(["a turquoise star", "a cat"]) == ("a turquoise star", "a cat")
    assert known.missing([template_caption(graph)]) == ()


@pytest.mark.parametrize(
    ("entries", "landmark", "expected"),
    [
        (
            [("car", "the red car"), ("dog", None), ("dog", None)],
            (),
            "The image shows a red car and two dogs.",
        ),
        (
            [("person", "a woman in a hat"), ("person", None), ("person", None)],
            ("Sports and recreation scene", "Gym and fitness center"),
            "The image shows a woman and two people. The setting is a gym and fitness center.",
        ),
        (
            [("wine_glass", "tall wine glass"), ("wine glass", "a tall wine glass")],
            ("Outdoor scene", "Urban landscape"),
            "The image shows two tall wine glasses. The setting is an urban landscape.",
        ),
        (
            [("grass", None), ("grass", None), ("trees", None), ("scissors", None)],
            (),
            "The image shows some grass, some trees and some scissors.",
        ),
        ([("umbrella", "the umbrella is red")], (), "The image shows an umbrella."),
        ([("bus_(vehicle)", None)] * 11, (), "The image shows 11 buses."),
        ([("", "a small dog")], (), "The image shows a small dog."),
        ([("star", "a small red star with a white band")], (), "The image shows a small red star."),
        ([("knife", None)] * 3 + [("fork", None)], (), "The image shows three knives and a fork."),
        ([("", None)], ("Indoor scene", "Living space"), "The setting is a living space."),
        ([], (), ""),
    ],
)
def test_template_caption(
    entries: list[tuple[str, str | None]], landmark: tuple[str, ...], expected: str
) -> None:
    facts = tuple(
        ObjectFacts(k, (label,) if label else (), (text,) if text else ())
        for k, (label, text) in enumerate(entries)
    )
    assert template_caption(GraphText("1", "", facts, landmark)) == expected


def test_a_template_names_a_limited_number_of_kinds() -> None:
    facts = tuple(ObjectFacts(k, (f"tool{k}x",)) for k in range(50))
    assert template_caption(GraphText("1", "", facts)).count("tool") == 12
