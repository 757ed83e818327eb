"""Scores of records: the truth has 1.0 everywhere, one known error exactly its effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.grand.adapters.truth_record import truth_record
from glamm_jax.grand.geometry import plain_iou
from glamm_jax.grand.record import (
    Box,
    CaptionAttempt,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Relation,
)
from glamm_jax.grand.scene_graph import depth_layers
from glamm_jax.grand.scoring import (
    METRICS,
    ScoreTotals,
    match_boxes,
    metric_values,
    score_record,
)
from glamm_jax.miniworld.scene import render_scene
from glamm_jax.miniworld.truth_folder import SceneTruth, open_truth, scene_truth
from glamm_jax.miniworld.world import EASY, FULL

# Six objects in three layers; the captions state one relation and have 8 phrases of 6 objects.
TRUTH = scene_truth(render_scene(1, 5, 128, FULL))
RECORD = truth_record(TRUTH)
NUM = len(TRUTH.objects)
Change = Callable[[GrandRecord], GrandRecord]


def _with_object(index: int, **changes: Any) -> Change:
    def change(record: GrandRecord) -> GrandRecord:
        objects = list(record.objects)
        objects[index] = replace(objects[index], **changes)
        return replace(record, objects=tuple(objects))

    return change


def _with_grounding(kind: str, index: int, **changes: Any) -> Change:
    """Change a grounding of the dense caption or of the first short caption."""

    def change(record: GrandRecord) -> GrandRecord:
        assert record.short_captions and record.dense_caption
        caption = record.dense_caption if kind == "dense" else record.short_captions[0]
        groundings = list(caption.groundings)
        groundings[index] = replace(groundings[index], **changes)
        caption = replace(caption, groundings=tuple(groundings))
        if kind == "dense":
            return replace(record, dense_caption=caption)
        return replace(record, short_captions=(caption, *record.short_captions[1:]))

    return change


def _swap_depths(record: GrandRecord) -> GrandRecord:
    first, *middle, last = record.objects
    swapped = replace(first, depth=last.depth), *middle, replace(last, depth=first.depth)
    return replace(record, objects=swapped)


def _attempts(*texts: str, problem: str | None = None) -> Change:
    """Put attempts before the accepted one."""

    def change(record: GrandRecord) -> GrandRecord:
        attempts = tuple(CaptionAttempt(text, problem=problem) for text in texts)
        return replace(record, attempts=(*attempts, *record.attempts))

    return change


def _final(text: str) -> Change:
    """Replace the dense caption by a text that has no groundings."""
    return lambda record: replace(record, dense_caption=GrandCaption(text), attempts=())


def _moved(box: Box) -> Box:
    x0, y0, x1, y1 = box
    shift = 0.1 * (x1 - x0)
    return x0 + shift, y0, x1 + shift, y1


def _with_wrong_attribute(record: GrandRecord) -> GrandRecord:
    """Call the first object a pink cross, in a dense caption of two objects."""
    objects = (replace(record.objects[0], attributes=(INVENTED,)), *record.objects[1:])
    second = TRUTH.objects[1].description
    text = f"There are {INVENTED}, and {second}."
    spans = [(10, 10 + len(INVENTED)), (len(text) - 1 - len(second), len(text) - 1)]
    groundings = tuple(
        PhraseGrounding(text[slice(*span)], span, (i,), (objects[i].box,))
        for i, span in enumerate(spans)
    )
    dense = GrandCaption(text, groundings)
    return replace(record, objects=objects, dense_caption=dense, attempts=())


def _with_stuff(record: GrandRecord) -> GrandRecord:
    """Add the lowest stuff as an object with a grounding."""
    assert record.dense_caption
    stuff = TRUTH.stuff[-1]
    text = f"{record.dense_caption.caption} Below is the {stuff.name}."
    span = (len(text) - len(stuff.name) - 5, len(text) - 1)
    grounding = PhraseGrounding(text[slice(*span)], span, (80,), (stuff.box,))
    caption = GrandCaption(text, (*record.dense_caption.groundings, grounding))
    item = GrandObject(80, stuff.box, (stuff.name,), 0.5)
    return replace(record, objects=(*record.objects, item), dense_caption=caption)


SHORT = RECORD.short_captions or ()
DENSE = RECORD.dense_caption or GrandCaption("")
FIRST = DENSE.groundings[0]
NUM_DENSE, NUM_SHORT = len(DENSE.groundings), sum(len(c.groundings) for c in SHORT)
NUM_LINKS = len(RECORD.links)
INVENTED = "a pink cross"  # fits no object of the scene
WRONG_SHAPE = next(item.shape for item in TRUTH.objects if item.shape != TRUTH.objects[0].shape)
FAR = (0.0, 0.0, 4.0, 4.0)  # where no object is
FALSE = GrandObject(90, FAR, ("star",), 0.5)

# Name -> change of the record, and the metrics that are not 1.0 afterwards.
CASES: dict[str, tuple[Change, dict[str, float | None]]] = {
    "false positive": (
        lambda r: replace(r, objects=(*r.objects, FALSE)),
        {"object_precision": NUM / (NUM + 1)},
    ),
    "duplicate of an object": (
        lambda r: replace(r, objects=(*r.objects, replace(r.objects[0], id=91))),
        {"object_precision": NUM / (NUM + 1)},
    ),
    "a floating object is no object": (
        lambda r: replace(r, floating_objects=(FALSE,)),
        {},
    ),
    "stuff is neither right nor wrong": (_with_stuff, {}),
    "a phrase of an object that is linked to stuff": (
        lambda r: _with_grounding("dense", 0, object_ids=(80,))(_with_stuff(r)),
        {
            "dense_grounding_precision": (NUM_DENSE - 1) / NUM_DENSE,
            "dense_grounding_recall": (NUM_DENSE - 1) / NUM_DENSE,
        },
    ),
    "an object that is only a floating object": (
        lambda r: replace(r, objects=r.objects[1:], floating_objects=r.objects[:1]),
        {"object_recall": (NUM - 1) / NUM},
    ),
    "wrong label": (
        _with_object(0, label=WRONG_SHAPE),
        {"label_accuracy": (NUM - 1) / NUM},
    ),
    "the first of the labels if none is chosen": (
        _with_object(0, label=None, labels=(TRUTH.objects[0].shape, WRONG_SHAPE)),
        {},
    ),
    "no label": (_with_object(0, label=None, labels=()), {"label_accuracy": (NUM - 1) / NUM}),
    "wrong attribute": (
        _with_object(0, attributes=("a pink cross", TRUTH.objects[0].description)),
        {"attribute_accuracy": (NUM - 1) / NUM},
    ),
    "an attribute of unknown words": (
        _with_object(0, attributes=("something",)),
        {"attribute_accuracy": (NUM - 1) / NUM},
    ),
    "an attribute that states nothing": (_with_object(0, attributes=("a star",)), {}),
    "a wrong noun is no wrong attribute": (
        _with_object(0, attributes=(f"a {TRUTH.objects[0].colour} {WRONG_SHAPE}",)),
        {},
    ),
    "swapped depths": (_swap_depths, {"depth_layer_accuracy": (NUM - 2) / NUM}),
    "another scale of depth": (
        lambda r: replace(
            r, objects=tuple(replace(o, depth=3 * (o.depth or 0) + 7) for o in r.objects)
        ),
        {},
    ),
    "no depths": (
        lambda r: replace(r, objects=tuple(replace(o, depth=None) for o in r.objects)),
        {"depth_layer_accuracy": None},
    ),
    "half of a mask": (
        _with_object(0, mask=rle.encode(np.zeros((128, 128), bool))),
        {"mask_iou": (NUM - 1) / NUM},
    ),
    "a damaged mask": (
        _with_object(0, mask={"size": [128, 128], "counts": "x"}),
        {"mask_iou": (NUM - 1) / NUM},
    ),
    "a mask of another size": (
        _with_object(0, mask=rle.encode(np.ones((8, 8), bool))),
        {"mask_iou": (NUM - 1) / NUM},
    ),
    "no mask": (_with_object(0, mask=None), {"mask_share": (NUM - 1) / NUM}),
    "wrong landmark": (
        lambda r: replace(r, landmark={"category": "Indoor scene", "fine_category": "Road"}),
        {"landmark_accuracy": 0.0},
    ),
    "no landmark": (lambda r: replace(r, landmark=None), {"landmark_accuracy": None}),
    "an invented object in a short caption": (
        lambda r: replace(r, captions=(f"{r.captions[0][:-1]}, near {INVENTED}.", r.captions[1])),
        {"short_entity_precision": NUM_SHORT / (NUM_SHORT + 1)},
    ),
    "a short caption is missing": (
        lambda r: replace(r, captions=r.captions[:1]),
        {"short_entity_recall": 2 / NUM},
    ),
    "a link to another object": (
        lambda r: replace(r, links=(replace(r.links[0], object_ids=(99,)), *r.links[1:])),
        {
            "phrase_link_precision": (NUM_LINKS - 1) / NUM_LINKS,
            # Both captions have the phrase.
            "phrase_link_recall": (NUM_SHORT - 2) / NUM_SHORT,
        },
    ),
    "a link of a phrase that names no object": (
        lambda r: replace(r, links=(*r.links, PhraseLink("a meadow", (0,)))),
        {"phrase_link_precision": NUM_LINKS / (NUM_LINKS + 1)},
    ),
    "a link of a longer phrase that begins with the mention": (
        lambda r: replace(
            r, links=(replace(r.links[0], phrase=f"{r.links[0].phrase} and more"), *r.links[1:])
        ),
        {},
    ),
    "no links": (
        lambda r: replace(r, links=()),
        {"phrase_link_precision": None, "phrase_link_recall": 0.0},
    ),
    "an untrue relation": (
        lambda r: replace(
            r,
            relations=(
                *r.relations,
                Relation(
                    r.relations[0].object_ids,
                    r.relations[0].predicate,
                    r.relations[0].subject_ids,
                ),
            ),
        ),
        {"relation_precision": 0.5},
    ),
    "an unknown predicate": (
        lambda r: replace(r, relations=(replace(r.relations[0], predicate="with"),)),
        {"relation_precision": 0.0, "relation_recall": 0.0},
    ),
    "no relations": (
        lambda r: replace(r, relations=()),
        {"relation_precision": None, "relation_recall": 0.0},
    ),
    "a wrong attribute that the dense caption repeats": (
        _with_wrong_attribute,
        {
            "attribute_accuracy": (NUM - 1) / NUM,
            "first_entity_precision": 1 / 2,
            "final_entity_precision": 1 / 2,
        },
    ),
    "an invented object that is grounded": (
        lambda r: replace(_with_wrong_attribute(r), objects=r.objects),
        {
            "first_entity_precision": 1 / 2,
            "final_entity_precision": 1 / 2,
            "dense_grounding_precision": 1 / 2,
        },
    ),
    "a moved box": (
        _with_object(0, box=_moved(TRUTH.objects[0].box)),
        {
            "box_iou": (NUM - 1 + plain_iou(_moved(TRUTH.objects[0].box), TRUTH.objects[0].box))
            / NUM
        },
    ),
    "captions that grounding replaced": (lambda r: replace(r, captions=()), {}),
    "a dense grounding of a wrong object": (
        _with_grounding("dense", 0, object_ids=(FIRST.object_ids[0] ^ 1,)),
        {
            "dense_grounding_precision": (NUM_DENSE - 1) / NUM_DENSE,
            "dense_grounding_recall": (NUM_DENSE - 1) / NUM_DENSE,
        },
    ),
    "a dense grounding of one object too many": (
        _with_grounding("dense", 0, object_ids=(0, 1)),
        {
            "dense_grounding_precision": (NUM_DENSE - 1) / NUM_DENSE,
            "dense_grounding_recall": (NUM_DENSE - 1) / NUM_DENSE,
        },
    ),
    "a shifted span": (
        _with_grounding(
            "dense", 0, span=((FIRST.span or (0, 0))[0], (FIRST.span or (0, 0))[1] - 1)
        ),
        {
            "dense_grounding_precision": (NUM_DENSE - 1) / NUM_DENSE,
            "dense_grounding_recall": (NUM_DENSE - 1) / NUM_DENSE,
        },
    ),
    "no span, but the phrase is in the caption": (_with_grounding("dense", 0, span=None), {}),
    "a short grounding of a missing object": (
        _with_grounding("short", 0, object_ids=(77,)),
        {
            "short_grounding_precision": (NUM_SHORT - 1) / NUM_SHORT,
            "short_grounding_recall": (NUM_SHORT - 1) / NUM_SHORT,
        },
    ),
    "a first attempt with an invented object": (
        _attempts(f"{DENSE.caption[:-1]} with {INVENTED}."),
        {"first_entity_precision": NUM_DENSE / (NUM_DENSE + 1)},
    ),
    "a rejected attempt does not count": (_attempts("A pink cross", problem="length"), {}),
    "one attempt, unverified, with an invented object": (
        _final(f"There is {INVENTED}, and {TRUTH.objects[0].description}."),
        {
            "first_entity_precision": 0.5,
            "final_entity_precision": 0.5,
            "dense_grounding_precision": None,
            "dense_grounding_recall": 0.0,
        },
    ),
    "not verified": (lambda r: replace(r, verified=False), {"verified_captions": 0.0}),
    "no verification": (lambda r: replace(r, verified=None), {"verified_captions": None}),
    "a template": (lambda r: replace(r, dense_source="template"), {"written_captions": 0.0}),
}


def test_the_scene_of_the_cases() -> None:
    assert NUM == 6
    assert NUM_DENSE == NUM
    assert NUM_SHORT == NUM + 2
    assert len(RECORD.relations) == 1
    assert len(set(depth_layers([item.box_depth for item in TRUTH.objects]))) == 3


@pytest.mark.parametrize("name", CASES)
def test_one_error_has_exactly_its_effect(name: str) -> None:
    change, expected = CASES[name]
    values = metric_values(score_record(change(RECORD), TRUTH))
    different = {metric: value for metric, value in values.items() if value != 1.0}
    assert different == pytest.approx(expected)


def _scores(truths: list[SceneTruth]) -> dict[str, float | None]:
    totals = ScoreTotals()
    for truth in truths:
        totals.add(score_record(truth_record(truth), truth))
    return totals.values()


def test_the_truth_has_1_everywhere(scene_folder: Path) -> None:
    folder = open_truth(scene_folder)
    assert _scores([folder[i] for i in folder.image_ids]) == dict.fromkeys(METRICS, 1.0)
    plain = [scene_truth(render_scene(0, i, 64, EASY)) for i in range(5)]
    assert set(_scores(plain).values()) == {1.0}


def test_missing_objects_do_not_change_what_is_said_about_the_others() -> None:
    kept = RECORD.objects[2:]
    record = GrandRecord(objects=kept, captions=RECORD.captions)
    values = metric_values(score_record(record, TRUTH))
    assert values["object_recall"] == pytest.approx((NUM - 2) / NUM)
    for name in ("object_precision", "label_accuracy", "mask_iou", "depth_layer_accuracy"):
        assert values[name] == 1.0


def test_an_object_whose_box_is_moved_is_not_matched() -> None:
    x0, y0, x1, y1 = RECORD.objects[0].box
    record = GrandRecord(
        objects=(
            replace(RECORD.objects[0], box=(x0 + 0.5 * (x1 - x0), y0, x1 + 0.5 * (x1 - x0), y1)),
        )
    )
    values = metric_values(score_record(record, TRUTH))
    assert values["object_precision"] == 0.0
    assert values["label_accuracy"] is None


def test_what_has_no_items_is_undefined() -> None:
    values = metric_values(score_record(GrandRecord(), TRUTH))
    defined = {"annotated_images": 1.0, "object_recall": 0.0, "dense_captions": 0.0}
    assert values == {name: defined.get(name) for name in METRICS}
    rejected = metric_values(score_record(None, TRUTH))
    assert rejected == {name: 0.0 if name == "annotated_images" else None for name in METRICS}
    assert set(ScoreTotals().values().values()) == {None}


def test_totals_are_means_over_items() -> None:
    totals, part = ScoreTotals(), ScoreTotals()
    totals.add(score_record(RECORD, TRUTH))
    part.add(score_record(GrandRecord(objects=RECORD.objects[:1]), TRUTH))
    part.add(score_record(None, TRUTH))
    totals.add(part.counts)
    values = totals.values()
    assert values["object_recall"] == pytest.approx((NUM + 1) / (2 * NUM))
    assert values["annotated_images"] == pytest.approx(2 / 3)
    assert values["dense_captions"] == 0.5


def test_a_plural_means_all_that_match() -> None:
    """Two objects of one colour and shape, named together."""
    first, second = TRUTH.objects[:2]
    alike = replace(second, shape=first.shape, colour=first.colour)
    truth = replace(TRUTH, objects=(first, alike, *TRUTH.objects[2:]))
    text = f"There are two {first.colour} {first.shape}s."
    grounding = PhraseGrounding(text[10:-1], (10, len(text) - 1), (0, 1), (first.box, alike.box))

    def precision(**changes: Any) -> float | None:
        caption = GrandCaption(text, (replace(grounding, **changes),))
        record = replace(RECORD, dense_caption=caption)
        return metric_values(score_record(record, truth))["dense_grounding_precision"]

    assert first.shape != "cross"
    assert precision() == 1.0
    assert precision(object_ids=(1, 0)) == 1.0
    assert precision(object_ids=(0,)) == 0.0
    assert precision(object_ids=(0, 2)) == 0.0
    assert precision(span=(14, len(text) - 1)) == 0.0  # without the number


def test_boxes_are_matched_one_to_one_the_best_first() -> None:
    boxes = [(0.0, 0.0, 10.0, 8.0), (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    others = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 5.0)]
    assert match_boxes(boxes, others) == {1: 0, 2: 1}
    assert match_boxes(boxes, others, min_iou=0.6) == {1: 0}
    assert match_boxes([], others) == {}


def test_layers_of_depth() -> None:
    assert depth_layers([]) == []
    assert depth_layers([5.0]) == [1]
    depths = [0.0, 100.0, 91.0, 89.0, 41.0, 39.0, 16.0, 14.0]
    assert depth_layers(depths) == [3, 0, 0, 1, 1, 2, 2, 3]
