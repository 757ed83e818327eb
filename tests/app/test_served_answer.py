"""What the server sends is checked before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glamm_jax.app.served_answer import MAX_GROUNDINGS, read_answer
from glamm_jax.app.server_client import Completion, ServerError
from glamm_jax.data import rle
from tests.app.answers import HEIGHT, IMAGE, LEFT, RIGHT, WIDTH, answer, grounding

TEXT = "A dog runs."


def test_the_answer_is_that_of_the_library() -> None:
    question = "Where is <p> the dog </p> [SEG] of region1 <bbox>?"
    served = answer(
        TEXT,
        grounding(TEXT, "A dog", LEFT),
        question=question,
        prompt_groundings=[grounding("Where is the dog of region1?", "the dog", RIGHT)],
        problems=["phrase 1 has no [SEG]"],
    )
    boxes = np.array([[1.0, 2.0, 3.0, 4.0]])
    result = served.to_answer(question, IMAGE, boxes)
    fields = result.to_json()
    assert fields["text"] == TEXT
    assert fields["question_raw"] == question
    assert fields["groundings"][0]["mask"] == rle.encode(LEFT)
    assert fields["groundings"][0]["box_xyxy_pixel"] == [0, 0, WIDTH // 2, HEIGHT]
    assert fields["prompt_groundings"][0]["phrase"] == "the dog"
    assert fields["regions_xyxy_pixel"] == boxes.tolist()
    assert fields["problems"] == ["phrase 1 has no [SEG]"]
    assert fields["finish"] == "end"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "is at -1 to 5"),
        ({"end": 99}, "is at 0 to 99"),
        ({"start": None}, "malformed"),
        ({"score": "high"}, "malformed"),
        ({"score": float("nan")}, "score"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "malformed"),
        ({"segmentation": rle.encode(LEFT.T)}, "has"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~~"}}, "malformed"),
        ({"segmentation": [1]}, "malformed"),
    ],
)
def test_malformed_groundings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        answer(TEXT, grounding(TEXT, "A dog", LEFT, **changes))


@pytest.mark.parametrize(
    "fields",
    [
        {"groundings": 5},
        {"groundings": ["a"]},
        {"groundings": [{}] * (MAX_GROUNDINGS + 1)},
        {"raw": 5},
        {"problems": "none"},
    ],
)
def test_malformed_fields_are_errors(fields: dict[str, Any]) -> None:
    with pytest.raises(ServerError):
        read_answer(TEXT, Completion(fields), "What?", (HEIGHT, WIDTH))


def test_an_answer_without_masks_is_an_answer() -> None:
    served = read_answer(TEXT, Completion({}, "length"), "What?", (HEIGHT, WIDTH))
    assert (served.text, served.raw, served.groundings) == (TEXT, TEXT, ())
    assert served.finish == "length"
