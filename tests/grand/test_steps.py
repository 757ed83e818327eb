"""The better rules of preset `paper`, step by step; `released` is compared with the recordings."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from glamm_jax.grand import options as option_module
from glamm_jax.grand.affordances import affordance_categories, find_affordances
from glamm_jax.grand.attributes import describe_objects, remove_prefix
from glamm_jax.grand.caption_grounding import ground_dense_caption, ground_short_captions
from glamm_jax.grand.fusion import fuse, merge_detections
from glamm_jax.grand.geometry import best_iou, boxes_of_queries, inclusive_iou, plain_iou
from glamm_jax.grand.labels import PERSON_WORDS, canonical_label, choose_labels, label_questions
from glamm_jax.grand.links import link_phrases
from glamm_jax.grand.masks import add_masks, assign_masks, mask_jobs
from glamm_jax.grand.options import PRESETS, GrandOptions
from glamm_jax.grand.phrases import (
    NounPhrase,
    PhraseBox,
    choose_boxes,
    extract_phrases,
    parser_text,
)
from glamm_jax.grand.prediction_files import detection_from_json, proposals_of
from glamm_jax.grand.record import (
    Box,
    Detection,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Vote,
)
from glamm_jax.grand.released_export import export_captions, export_referring
from glamm_jax.grand.roles import ParsedText
from glamm_jax.grand.scene_graph import build_scene_graph, context_text
from glamm_jax.json_files import JSONError

PAPER, RELEASED = PRESETS["paper"], PRESETS["released"]
A, B, C = (0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 90.0, 90.0), (0.0, 0.0, 100.0, 80.0)
MASK = {"size": [100, 100], "counts": "01o1"}
SIZE = (100, 100)
DETERMINERS = ("a", "the", "two")
NOUNS = ("cup", "cups", "dog", "dogs", "table", "light", "traffic", "sand")


def parse(text: str) -> ParsedText:
    """Parse phrases of determiners, adjectives and nouns."""
    words = text.replace(".", " .").replace(",", " ,").split()
    pos, heads = [], [-1] * len(words)
    for word in words:
        known = {**dict.fromkeys(DETERMINERS, "DET"), **dict.fromkeys(NOUNS, "NOUN")}
        known |= {"on": "ADP", "near": "ADP", "and": "CCONJ", "is": "VERB", ".": "PUNCT"}
        pos.append(known.get(word.lower(), "PUNCT" if word == "," else "ADJ"))
    noun = -1
    for i in reversed(range(len(words))):
        if pos[i] == "NOUN":
            heads[i] = noun if noun == i + 1 else -1
            noun = i
        elif pos[i] in ("DET", "ADJ", "PUNCT") and noun > i:
            heads[i] = noun
        else:
            noun = -1
    stop = tuple(tag in ("DET", "ADP", "VERB") for tag in pos)
    punct = tuple(tag == "PUNCT" for tag in pos)
    lemmas = tuple(word.lower() for word in words)
    return ParsedText(tuple(words), tuple(pos), lemmas, stop, punct, tuple(heads))


def objects(*items: tuple[Box, str], **common: Any) -> tuple[GrandObject, ...]:
    return tuple(
        GrandObject(i, box, (label,), 0.9, **common) for i, (box, label) in enumerate(items)
    )


# ------------------------------------------------------------------------- options


def test_every_option_that_differs_says_what_the_released_code_does() -> None:
    for group in fields(GrandOptions):
        paper, released = getattr(PAPER, group.name), getattr(RELEASED, group.name)
        text = " ".join((inspect.getdoc(type(paper)) or "").split())
        for option in fields(paper):
            start = text.index(f" {option.name}: ")
            described = text[start : start + 700]
            if getattr(paper, option.name) != getattr(released, option.name):
                assert "released:" in described, (group.name, option.name)


def test_options_are_frozen_and_described() -> None:
    for _, cls in inspect.getmembers(option_module, is_dataclass):
        assert cls.__dataclass_params__.frozen, cls
        assert "Attributes:" in (cls.__doc__ or "") or cls is GrandOptions, cls


# ------------------------------------------------------------------------- boxes


def test_the_two_kinds_of_overlap() -> None:
    assert plain_iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5
    assert plain_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
    assert inclusive_iou((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
    assert inclusive_iou(A, B) == 0.0
    assert best_iou(A, []) == (-1, -1.0)
    assert best_iou(A, [B, A, A]) == (1, 1.0)


def test_queries_become_boxes_in_float32() -> None:
    ((score, box),) = boxes_of_queries([[0.9, 0.5, 0.5, 0.2, 0.1]], 640, 481)
    assert (score, box) == (0.9, (256.0, 216.45, 384.0, 264.55))
    assert boxes_of_queries([], 640, 480) == []


def test_a_detection_of_a_wrong_type_is_named() -> None:
    with pytest.raises(JSONError, match="f: bbox"):
        detection_from_json({"bbox": [0, 0, 1], "score": 0.5}, "f")
    (region,) = proposals_of([{"bbox": [10, 20, 30, 40], "segmentation": MASK}])
    assert (region.box, region.mask) == ((10, 20, 40, 60), MASK)


# ------------------------------------------------------------------------- level 1


def test_three_models_must_agree_and_two_make_a_floating_object() -> None:
    found = {
        "co_detr": [Detection(A, 0.9, "cup"), Detection(B, 0.9, "dog"), Detection(B, 0.05, "cat")],
        "owl_vit": [Detection(A, 0.9, "cup"), Detection(B, 0.9, "dog")],
        "my_model": [Detection(A, 0.9, "mug"), Detection(C, 0.9, "sky")],
    }
    record = fuse(merge_detections(found, PAPER.merge), None, PAPER.fusion)
    assert [(x.id, x.labels, x.box) for x in record.objects] == [(0, ("cup", "mug"), A)]
    assert [(x.id, x.labels) for x in record.floating_objects] == [(1, ("dog",)), (2, ("sky",))]
    assert [vote.source for vote in record.objects[0].votes] == ["co_detr", "owl_vit", "my_model"]
    released = fuse(found, None, RELEASED.fusion)
    assert [x.labels for x in released.objects] == [("cup", "mug"), ("dog",)]


def test_two_boxes_of_one_model_are_one_vote() -> None:
    found = {
        "co_detr": [Detection(A, 0.9, "cup")],
        "pomp": [Detection(A, x, "cup") for x in (1, 0.9)],
    }
    assert fuse(found, None, PAPER.fusion).objects == ()
    assert len(fuse(found, None, RELEASED.fusion).objects[0].votes) == 3


def test_words_for_a_person_are_one_label() -> None:
    names = zip(("co_detr", "owl_vit", "pomp"), ("person", "Woman", "man"), strict=True)
    found = {source: [Detection(A, 0.9, label)] for source, label in names}
    assert fuse(found, None, PAPER.fusion).objects[0].labels == ("person",)
    assert fuse(found, None, RELEASED.fusion).objects[0].labels == ("person",) * 3


def test_a_person_that_one_model_finds_floats() -> None:
    found = {"ov_sam": [Detection(A, 0.9, "person")]}
    assert len(fuse(found, None, PAPER.fusion).floating_objects) == 1
    assert fuse(found, None, RELEASED.fusion).floating_objects == ()


def test_labels_of_too_few_models_can_be_dropped() -> None:
    box = (0.0, 0.0, 30.0, 30.0)
    reports = {"a": ("cat", 0.4), "b": ("cat", 0.8), "c": ("person", 0.9), "d": ("dog", 0.5)}
    found = {name: [Detection(box, score, label)] for name, (label, score) in reports.items()}
    all_labels = fuse(found, None, PAPER.fusion).objects[0]
    assert all_labels.labels == ("cat", "person", "dog")
    options = replace(PAPER.fusion, min_label_sources=2)
    (item,) = fuse(found, None, options).objects
    assert item.labels == ("cat",)
    assert len(item.votes) == 4  # all detections agree on the box
    # No label has two votes: the first one stays.
    (item,) = fuse({k: found[k] for k in "acd"}, None, options).objects
    assert item.labels == ("person",)


def test_affordances_have_39_categories_and_match_labels_with_underscores() -> None:
    assert len(set(affordance_categories())) == 39
    items = objects((A, "baseball_bat"), (B, "chair"))
    assert find_affordances(items, normalize=False, complete=False) == {}
    assert find_affordances(items)["Swing"]["object_ids"] == [0]
    assert find_affordances(items)["Sit"]["labels"] == ["chair"]
    assert all(entry["description"] for entry in find_affordances(items).values())


# ------------------------------------------------------------------------- level 2


def test_phrases_are_parts_of_the_caption() -> None:
    caption = "A small, red cup on the table and a traffic light near sand."
    phrases = extract_phrases(caption, parse(parser_text(caption, PAPER.phrases)), PAPER.phrases)
    assert [(x.noun, x.phrase) for x in phrases] == [
        ("cup", "A small, red cup"),
        ("table", "the table"),
        ("light", "a traffic light"),
        ("sand", "sand"),
    ]
    assert all(x.span and caption[slice(*x.span)] == x.phrase for x in phrases)


def test_the_best_box_of_a_phrase_is_used() -> None:
    found = [[Detection(A, 0.6), Detection(B, 0.9), Detection(C, 0.5)], [Detection(A, 0.5)]]
    phrases = [NounPhrase("cup", "a cup"), NounPhrase("dog", "a dog")]
    assert [x.box for x in choose_boxes(phrases, found, PAPER.phrases)] == [B]
    assert [x.box for x in choose_boxes(phrases, found, RELEASED.phrases)] == [A]


def test_a_plural_phrase_is_linked_to_all_objects_that_it_names() -> None:
    """The first and the second box are of objects; the third one has too low a score."""
    found = [[Detection(A, 0.6), Detection(B, 0.9), Detection(C, 0.5)]]
    phrases = [NounPhrase("Crosses", "two red Crosses")]
    boxes = choose_boxes(phrases, found, PAPER.phrases)
    assert [(x.box, x.nouns) for x in boxes] == [(A, ("cross",)), (B, ("cross",))]
    assert [x.box for x in choose_boxes(phrases, found, RELEASED.phrases)] == [A]
    one = choose_boxes(phrases, [found[0][:1]], PAPER.phrases)
    assert [(x.box, x.nouns) for x in one] == [(A, ("Crosses",))]
    record = GrandRecord(objects=objects((A, "cross"), (B, "cross")))
    linked = link_phrases(record, boxes, ["two red Crosses"], PAPER.links)
    assert linked.links == (PhraseLink("two red crosses", (0, 1)),)
    assert linked.floating_objects == ()


def test_a_phrase_is_linked_to_the_best_object_once() -> None:
    near = (0.0, 0.0, 21.0, 21.0)
    record = GrandRecord(objects=objects((near, "cup"), (A, "cup")))
    phrases = [PhraseBox(A, ("cup",), "A  Cup"), PhraseBox(A, ("cup",), "a cup")]
    assert link_phrases(record, phrases, [], PAPER.links).links == (PhraseLink("a cup", (1,)),)
    assert link_phrases(record, phrases, [], RELEASED.links).links == (PhraseLink("a cup", (0, 0)),)


def test_a_floating_object_is_promoted_by_votes_and_not_by_its_own_label() -> None:
    votes = (Vote("co_detr", "cup", 0.9), Vote("pomp", "cup", 0.9))
    record = GrandRecord(
        objects=(GrandObject(3, B, ("dog",), 0.9),),
        floating_objects=(
            GrandObject(5, A, ("cup",), 0.9, votes=votes[:1]),
            GrandObject(7, C, ("sky",), 0.9, votes=votes),
        ),
    )
    phrases = [PhraseBox(A, ("cup",), "a cup"), PhraseBox(C, ("sky",), "the sky")]
    paper = link_phrases(record, phrases, ["x"], PAPER.links)
    assert [x.id for x in paper.objects] == [3, 7]
    assert [(x.id, x.labels) for x in paper.floating_objects] == [(5, ("cup",))]
    assert (paper.linked_ids, paper.linked_floating_ids) == ((7,), (5,))
    assert paper.id_counter == 8
    released = link_phrases(record, phrases, ["x"], RELEASED.links)
    assert [x.labels for x in released.objects] == [("dog",), ("cup", "cup"), ("sky", "sky")]


def test_links_follow_a_promotion_by_size() -> None:
    record = GrandRecord(
        floating_objects=(GrandObject(2, C, ("sky", "cloud"), 0.5),), linked_floating_ids=(2,)
    )
    result = describe_objects(record, {}, SIZE, PAPER.attributes)
    assert [x.id for x in result.objects] == [2]
    assert (result.linked_ids, result.linked_floating_ids) == ((2,), ())
    assert len(describe_objects(record, {}, SIZE, RELEASED.attributes).objects) == 2


@pytest.mark.parametrize(
    ("reply", "paper", "released"),
    [
        ("Assistant: a cup: with tea###", "a cup: with tea", "a cup"),
        ("a red cup", "a red cup", "a red cup"),
        ("ASSISTANT:a cup", "a cup", "a cup"),
        ("Assistant: ", "old", "old"),
        ("", "old", "old"),
        ("an assistant: helper", "an assistant: helper", "helper"),
    ],
)
def test_a_description_is_cleaned(reply: str, paper: str, released: str) -> None:
    record = GrandRecord(objects=objects((A, "cup"), attributes=("old", "older")))
    for preset, text in ((PAPER, paper), (RELEASED, released)):
        attributes = (
            describe_objects(record, {0: reply}, SIZE, preset.attributes).objects[0].attributes
        )
        assert attributes is not None
        assert attributes[0] == text
    assert remove_prefix("istant: x") == "x"


def test_a_label_is_asked_for_if_there_are_different_ones() -> None:
    record = GrandRecord(
        objects=(
            GrandObject(0, A, ("person", "person")),
            GrandObject(1, (-5.0, 2.5, 19.6, 200.0), ("cup", "mug")),
            GrandObject(2, (200.0, 0.0, 300.0, 9.0), ("cup", "mug")),
        )
    )
    questions = label_questions(record, SIZE, PAPER.labels)
    assert {n: (q.box, q.labels) for n, q in questions.items()} == {
        1: ((0, 2, 20, 100), ("cup", "mug"))
    }
    assert set(label_questions(record, SIZE, RELEASED.labels)) == {0, 1}


def test_labels_and_depth() -> None:
    depth = np.arange(10000, dtype=np.float32).reshape(100, 100)
    depth[0, :5] = 0
    record = GrandRecord(
        objects=(
            GrandObject(0, (0.0, 0.0, 4.0, 1.0), ("Woman", "mug")),
            GrandObject(1, (10.2, 10.1, 10.9, 11.0), ("kids",)),
            GrandObject(2, (500.0, 0.0, 600.0, 10.0), ("cup",)),
        ),
        floating_objects=(GrandObject(3, A, ("dog", "cat")),),
    )
    paper = choose_labels(record, {3: "cat"}, depth, PAPER.labels)
    assert [x.label for x in paper.objects] == ["person", "persons", "cup"]
    assert [x.depth for x in paper.objects] == [0.0, 1010.0, None]
    assert [(x.label, x.depth) for x in paper.floating_objects] == [("cat", None)]
    released = choose_labels(record, {3: "cat"}, depth, RELEASED.labels)
    assert all(x.depth is not None and math.isnan(x.depth) for x in released.objects)
    assert released.floating_objects[0].label is None
    only_floats = replace(record, objects=())
    assert choose_labels(only_floats, {}, depth, PAPER.labels).floating_objects[0].depth is not None


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_depth_is_the_median(count: int) -> None:
    depth = np.random.default_rng(count).random((1, count)).astype(np.float32)
    record = GrandRecord(objects=objects(((0.0, 0.0, float(count), 1.0), "cup")))
    item = choose_labels(record, {}, depth, PAPER.labels).objects[0]
    assert item.depth == round(float(np.median(depth)), 2)


def test_words_for_people() -> None:
    assert len(PERSON_WORDS) == 36
    assert canonical_label("Boy") == "person"
    assert canonical_label("elders") == "persons"
    assert [canonical_label(x) for x in ("males", "female", "elder", "people", "Bench")] == [
        "males",
        "female",
        "elder",
        "people",
        "Bench",
    ]


# ------------------------------------------------------------------------- level 3


def graph_record(count: int, **changes: Any) -> GrandRecord:
    items = tuple(
        GrandObject(i, (40.0 * i, 0.0, 40.0 * i + 10, 10.0), (f"n{i}",), 0.5, depth=1.0)
        for i in range(count)
    )
    return GrandRecord(objects=items, **changes)


def test_the_radius_of_groups_is_relative_to_the_image() -> None:
    record = graph_record(4)
    small = build_scene_graph(record, (160, 120), replace(PAPER.graph, radius=0.21))
    large = build_scene_graph(record, (320, 240), replace(PAPER.graph, radius=0.21))
    assert small is not None
    assert large is not None
    assert [group for _, group in small.group_ids] == [0, 0, 1, 1]
    assert [group for _, group in large.group_ids] == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="size"):
        build_scene_graph(record, None, PAPER.graph)
    assert build_scene_graph(record, None, RELEASED.graph) is None  # no landmark


def test_no_more_objects_than_the_cap_in_the_order_of_the_record() -> None:
    record = graph_record(5)
    described = replace(record.objects[4], attributes=("a red cup",))
    best = replace(record.objects[2], score=0.9)
    first, second, _, fourth, _ = record.objects
    record = replace(record, objects=(first, second, best, fourth, described))
    graph = build_scene_graph(record, SIZE, replace(PAPER.graph, max_objects=2))
    assert graph is not None
    assert [number for number, _ in graph.group_ids] == [2, 4]
    text = context_text(record, replace(PAPER.graph, max_context_objects=2))
    assert text == "Objects:\nn2\nn4/a red cup\n"


def test_objects_without_a_depth_are_left_out() -> None:
    record = graph_record(3)
    nan = replace(record.objects[0], depth=math.nan)
    record = replace(record, objects=(nan, *record.objects[1:]))
    graph = build_scene_graph(record, SIZE, PAPER.graph)
    assert graph is not None
    assert [number for number, _ in graph.group_ids] == [1, 2]
    assert build_scene_graph(GrandRecord(), SIZE, PAPER.graph) is None


def test_the_graph_shows_captions_and_linked_phrases() -> None:
    record = graph_record(
        1,
        captions=("a red_cup",),
        links=(PhraseLink("a cup", (0, 7)), PhraseLink("a ghost", (8,))),
        landmark={"category": "Indoor scene", "fine_category": "Work space"},
    )
    graph = build_scene_graph(record, SIZE, PAPER.graph)
    assert graph is not None
    assert graph.text == (
        "Foreground:\nGroup 0: n0\n\nShort Captions:\na red cup\n\nRelationships:\n"
        "a cup, Group Ids: (0)\n\nLandmarks:\nIndoor scene, Work space\n"
    )


def short(record: GrandRecord) -> list[tuple[str, tuple[int, int] | None, tuple[int, ...]]]:
    (caption,) = ground_short_captions(record, PAPER.grounding).short_captions or ()
    return [(x.phrase, x.span, x.object_ids) for x in caption.groundings]


def test_short_captions_are_grounded_at_complete_words() -> None:
    record = GrandRecord(
        objects=objects((A, "cat"), (B, "cup")),
        captions=("A category of cat and Cat, a red-hot cup.",),
        links=(
            PhraseLink("cat", (0, 99)),
            PhraseLink("a red - hot cup", (1,)),
            PhraseLink("cup", (1,)),
            PhraseLink("of", (99,)),
        ),
    )
    assert short(record) == [
        ("cat", (14, 17), (0,)),
        ("Cat", (22, 25), (0,)),
        ("a red-hot cup", (27, 40), (1,)),
    ]


def dense(record: GrandRecord, caption: str) -> list[tuple[str, tuple[int, ...]]]:
    result = ground_dense_caption(record, caption, parse, PAPER.grounding).dense_caption
    assert result is not None
    assert result.caption == caption
    assert all(x.span and caption[slice(*x.span)] == x.phrase for x in result.groundings)
    return [(x.phrase, x.object_ids) for x in result.groundings]


def described(*texts: str, label: str = "cup") -> GrandRecord:
    boxes = ((60.0 * i, 0.0, 60.0 * i + 20.0, 20.0) for i in range(len(texts)))
    return GrandRecord(
        objects=tuple(
            GrandObject(i, box, (label,), 0.9, (text,) if text else None)
            for i, (box, text) in enumerate(zip(boxes, texts, strict=True))
        )
    )


@pytest.mark.parametrize(
    ("texts", "caption", "expected"),
    [
        # all occurrences of an attribute
        (("a red cup",), "A red cup and a red cup.", [("A red cup", (0,)), ("a red cup", (0,))]),
        # objects with the same attribute
        (("a red cup", "a red cup"), "A red cup.", [("A red cup", (0, 1))]),
        # a similar phrase
        (("a small red cup", "a blue cup"), "The red small cup.", [("The red small cup", (0,))]),
        # a phrase that is as similar to both
        (("a red cup", "a blue cup"), "A cup.", []),
        (("a red cup", "a blue cup"), "Two cups.", [("Two cups", (0, 1))]),
        # the label, if nothing is known
        (("",), "The old cup near sand.", [("The old cup", (0,))]),
        (("Assistant: a red cup",), "A red cup.", [("A red cup", (0,))]),
        # an attribute that is empty, and one that is a part of a word
        (("",), "Sand.", []),
        (("red",), "A scarred table.", []),
    ],
    ids=str,
)
def test_dense_captions_are_grounded(
    texts: tuple[str, ...], caption: str, expected: list[tuple[str, tuple[int, ...]]]
) -> None:
    assert dense(described(*texts), caption) == expected


def test_a_phrase_is_compared_only_with_objects_that_have_its_noun() -> None:
    record = described("a dog near a red table", "")
    dog = replace(record.objects[0], labels=("dog",))
    table = replace(record.objects[1], labels=("table",))
    record = replace(record, objects=(dog, table))
    assert dense(record, "A red table.") == [("A red table", (1,))]


def test_linked_phrases_ground_all_their_objects_and_missing_ids_are_left_out() -> None:
    record = replace(described("", ""), links=(PhraseLink("two cups", (1, 99, 0)),))
    assert dense(record, "Two cups on a table.") == [("Two cups", (1, 0))]


def test_of_two_objects_one_in_the_other_the_larger_is_grounded() -> None:
    record = GrandRecord(objects=objects((A, "dog"), (C, "dog")))
    assert dense(record, "The dog.") == [("The dog", (1,))]


# ------------------------------------------------------------------------- masks and exports


def test_masks_of_proposals_then_of_the_detector_then_of_the_segmenter() -> None:
    box = (0.0, 0.0, 21.0, 20.0)
    grounding = PhraseGrounding("a cup", (0, 5), (0,), (A,))
    record = GrandRecord(
        objects=objects((A, "cup"), (B, "dog")),
        floating_objects=(GrandObject(0, C, ("sky",)),),
        short_captions=(GrandCaption("a cup", (grounding,)),),
        dense_caption=GrandCaption("a cup", (grounding,)),
    )
    found = {"eva-02-01": [Detection(B, 0.9, "dog", mask=MASK)]}
    proposals = [Detection(C, 1.0), Detection(box, 1.0, mask=MASK)]
    paper = assign_masks(record, proposals, found, PAPER.masks)
    assert [(x.box, x.mask_source) for x in paper.objects] == [(box, "proposal"), (B, None)]
    detector = replace(PAPER.masks, detector="eva-02-01")
    assert assign_masks(record, proposals, found, detector).objects[1].mask_source == "detector"
    # Two objects with one id, as released files have, are two jobs.
    assert [job.box for job in mask_jobs(paper, PAPER.masks)] == [B, C]
    complete = add_masks(paper, [MASK, None], PAPER.masks)
    assert complete.objects[1].mask_source == "segmenter"
    assert complete.floating_objects[0].mask is None


def test_boxes_of_groundings_follow_those_of_the_objects() -> None:
    box = (0.0, 0.0, 21.0, 20.0)
    grounding = PhraseGrounding("a cup", (0, 5), (0,), (A,))
    record = GrandRecord(
        objects=objects((A, "cup")),
        short_captions=(GrandCaption("a cup", (grounding,)),),
        dense_caption=GrandCaption("a cup", (grounding,)),
    )
    for preset, expected in ((PAPER, box), (RELEASED, A)):
        proposals = [Detection(box, 1.0, mask=MASK)] * 30
        result = assign_masks(record, proposals, {}, preset.masks)
        assert result.objects[0].box == box
        assert result.dense_caption is not None
        assert result.short_captions is not None
        assert result.dense_caption.groundings[0].boxes == (expected,)
        assert result.short_captions[0].groundings[0].boxes == (expected,)


def test_referring_expressions_and_captions_of_floating_objects() -> None:
    grounding = PhraseGrounding("cups", (0, 4), (0, 1), (A, B))
    record = GrandRecord(
        objects=(
            GrandObject(0, A, ("wine_glass",), 0.9, ("A Wine Glass", "assistant x"), mask=MASK),
        ),
        floating_objects=(GrandObject(1, B, ("cup",), mask=MASK),),
        short_captions=(GrandCaption("cups", (grounding,)),),
    )
    referring = export_referring(record, PAPER.export)
    assert referring is not None
    assert [x["attribute"] for x in referring] == ["A Wine Glass"]
    (caption,) = export_captions(record, PAPER.export) or []
    assert [(x["id"], x["bbox"]) for x in caption["details"]] == [(0, list(A)), (1, list(B))]
    assert all(x["segmentation"] == MASK for x in caption["details"])
    (caption,) = export_captions(record, RELEASED.export) or []
    assert [x["id"] for x in caption["details"]] == [0]
