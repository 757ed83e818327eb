"""The confidence of a record, and the order of the images by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, Vote
from glamm_jax.grand.review.confidence import record_confidence
from glamm_jax.grand.review.decisions import DecisionLog
from glamm_jax.grand.review.queue import LEASE_SECONDS, ReviewQueue
from glamm_jax.grand.run_folder import AnnotationRun
from tests.grand.review.desk import decide, open_desk

BOX = (0.0, 0.0, 10.0, 10.0)
MASK = np.zeros((20, 20), bool)
MASK[:10, :10] = True


def record(**fields: Any) -> GrandRecord:
    caption = {"dense_caption": GrandCaption("x"), "dense_source": "llm", "verified": True}
    return GrandRecord(**{**caption, **fields})


def detected(number: int = 0, score: float = 1.0, votes: int = 3, **fields: Any) -> GrandObject:
    entries = tuple(Vote(f"model-{i}", "dog", 0.5) for i in range(votes))
    return GrandObject(number, fields.pop("box", BOX), ("dog",), score, votes=entries, **fields)


def test_a_record_without_doubt_has_confidence_1() -> None:
    assert record_confidence(record()).value == 1.0
    assert record_confidence(record()).reasons == ()


@pytest.mark.parametrize(
    ("fields", "value", "reason"),
    [
        ({"verified": False}, 0.2, "the dense caption names what the scene graph does not have"),
        ({"verified": None}, 0.7, "the dense caption was not checked"),
        ({"dense_source": "template"}, 0.5, "the template wrote the dense caption"),
        ({"dense_caption": None}, 0.5, "there is no dense caption"),
        ({"objects": (detected(score=0.4), detected(1))}, 0.4 * 0.8, "object 0 has score 0.40"),
        ({"objects": (detected(), detected(1, votes=1))}, 2 / 3, "1 model found object 1"),
        ({"objects": (detected(votes=0),)}, 0.5, "0 models found object 0"),
    ],
)
def test_each_doubt_lowers_the_confidence(
    fields: dict[str, Any], value: float, reason: str
) -> None:
    result = record_confidence(record(**fields))
    assert result.value == pytest.approx(value)
    assert result.reasons[0] == reason


def test_masks_that_do_not_fit_their_boxes_are_doubted() -> None:
    runs = rle.encode(MASK)
    exact = detected(mask=runs)
    wide = detected(1, mask=runs, box=(0.0, 0.0, 20.0, 10.0))
    assert record_confidence(record(objects=(exact,))).value == pytest.approx(0.8)
    result = record_confidence(record(objects=(exact, wide)))
    assert result.value == pytest.approx(0.8 * 0.5)
    assert result.reasons == ("mask and box of object 1 have IoU 0.50",)
    result = record_confidence(record(objects=(exact, detected(1))))
    assert result.reasons == ("object 1 has no mask",)


def test_the_next_image_is_the_one_with_the_lowest_confidence(review_run: AnnotationRun) -> None:
    queue = ReviewQueue(review_run, DecisionLog(review_run.path))
    queue.compute()
    total, entries = queue.listing("unreviewed", 0, 10)
    order = [item.image_id for item in entries]
    assert total == len(order) == queue.num_images == 6
    values = [item.confidence for item in entries]
    assert values == sorted(values)
    assert values[0] < values[-1]
    shown, current = [], None
    for _ in range(6):
        current = queue.next_image("unreviewed", "a", current)
        assert current is not None
        queue.open_image(current, "a")
        shown.append(current)
    assert shown == order
    # After the last one, the first again.
    assert queue.next_image("unreviewed", "a", current) == order[0]


def test_two_sessions_get_different_images_until_the_lease_ends(
    review_run: AnnotationRun,
) -> None:
    now = [0.0]
    queue = ReviewQueue(review_run, DecisionLog(review_run.path), lambda: now[0])
    queue.compute()
    first = queue.next_image("unreviewed", "a")
    assert first is not None
    assert not queue.open_image(first, "a")
    second = queue.next_image("unreviewed", "b")
    assert second not in (None, first)
    assert queue.open_image(first, "b")  # opened by name, although "a" shows it
    now[0] = LEASE_SECONDS + 1.0
    assert queue.next_image("unreviewed", "c") == first


def test_states_are_counted_and_filtered(review_run: AnnotationRun) -> None:
    desk = open_desk(review_run)
    names = [item["image"] for item in desk.listing("all", 0, 10)["items"]]
    decide(desk, desk.image(names[0], "a"), "approve")
    decide(desk, desk.image(names[1], "a"), "discard")
    counts = desk.run()["counts"]
    assert counts == {"unreviewed": 4, "approved": 1, "corrected": 0, "discarded": 1, "outdated": 0}
    assert [x["image"] for x in desk.listing("discarded", 0, 10)["items"]] == names[1:2]
    assert desk.listing("unreviewed", 1, 2)["total"] == 4
    assert desk.next("discarded", "b", None) == {"image": names[1]}
    assert desk.next("corrected", "b", None) == {"image": None}
    decide(desk, desk.image(names[1], "a"), "undo", "bob")
    assert desk.run()["counts"]["unreviewed"] == 5
    # Another process sees the same.
    assert open_desk(review_run).run()["counts"] == desk.run()["counts"]
