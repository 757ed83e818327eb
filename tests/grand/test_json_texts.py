"""Texts of records that are put together of the texts of their parts; what stages hand over."""

from __future__ import annotations

import gc
import json
import re
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data.preprocess import open_image
from glamm_jax.grand.execution import NEW_OBJECTS, _rare_collections
from glamm_jax.grand.images import ImageReader, difference_hash
from glamm_jax.grand.levels.sections import OutputError, detection_section, read_detections
from glamm_jax.grand.record import Detection, GrandObject, GrandRecord, Vote, changed
from glamm_jax.grand.stages import ImageContent, StageImage
from glamm_jax.grand.word_spans import word_spans
from tests.grand.test_record import BOX, RELEASED

VOTES = (Vote("grit", 'a "red" cup', 0.4, "description"), Vote("ram", "Tasse für Tee \u2603", 1.0))


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(
    "record",
    [
        GrandRecord(),
        GrandRecord.from_json(RELEASED),
        GrandRecord.from_json({"objects": [{"bbox": list(BOX), "group": 3}], "unknown": [1]}),
        GrandRecord(
            objects=(
                GrandObject(
                    0, BOX, ("cup", "mug"), 1e-7, ("a red cup",), VOTES, depth=float("nan")
                ),
                GrandObject(1, BOX, (), mask={"size": [8, 8], "counts": "01o1\\"}),
            ),
            floating_objects=(GrandObject(2, BOX, ("dog",), 0.5, votes=VOTES[:1]),),
            id_counter=3,
        ),
    ],
)
def test_the_text_of_a_record_is_that_of_its_json(record: GrandRecord) -> None:
    assert record.json_text() == _dumps(record.to_json())
    assert record.json_text() == _dumps(record.to_json())  # of remembered texts


def test_a_changed_object_has_another_text_and_its_votes_are_encoded_once() -> None:
    item = GrandObject(0, BOX, ("cup",), 0.9, votes=VOTES)
    before = item.json_text()
    other = changed(item, label="mug", depth=2.5)
    assert other.json_text() == _dumps(other.to_json()) != before
    assert item.json_text() is before
    assert other.votes[0].json_text() is item.votes[0].json_text()
    assert (item, VOTES[0]) == (GrandObject(0, BOX, ("cup",), 0.9, votes=VOTES), VOTES[0])


def test_detections_are_handed_over_as_they_will_be_read() -> None:
    mask = {"size": (8, 8), "counts": (60, 4)}
    boxes = [Detection((1, 2, 3, 4), 1, "cup", mask=mask), Detection(BOX, 0.5, "dog")]
    content = ImageContent("a", "a.png", ImageReader("", 0))
    image = StageImage(content, "detections/a", {"image": {"width": 8, "height": 8}})
    result = detection_section(boxes, image, needs="label")
    assert callable(result.section)
    read = read_detections(json.loads(result.section()))
    assert read == result.value
    assert result.section() == _dumps(json.loads(result.section()))
    assert [[type(x) for x in item.box] for item in read] == [[float] * 4] * 2
    assert json.dumps([x.box for x in read]) == json.dumps([x.box for x in result.value])
    wrong = Detection(BOX, 0.5)
    object.__setattr__(wrong, "mask", np.zeros((8, 8)))  # of a model that is not ours
    with pytest.raises(OutputError, match="a mask has size and counts, got an array of shape"):
        detection_section([wrong], image, needs="mask")


@settings(max_examples=300, deadline=None)
@given(st.text("ab _ä1.", max_size=30), st.text("ab _ä1.", min_size=1, max_size=5))
def test_spans_of_words_are_those_of_the_pattern(text: str, phrase: str) -> None:
    pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
    assert word_spans(text, phrase) == [match.span() for match in re.finditer(pattern, text)]


def test_a_phrase_is_found_behind_an_overlapping_part_of_a_word() -> None:
    assert word_spans("xaa aa aa", "aa aa") == [(4, 9)]


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (192, 192)])
def test_the_hash_of_pillows_memory_is_that_of_the_pixels(size: tuple[int, int], tmp_path) -> None:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    opened = open_image(path)
    assert opened.strides == (4 * width, 4, 1)
    assert (opened == pixels).all()
    assert difference_hash(opened) == difference_hash(pixels)
    part = opened[:, : width // 2 + 1]  # not all of the memory
    assert difference_hash(part) == difference_hash(np.ascontiguousarray(part))


def test_thresholds_of_the_search_for_cycles_are_as_before_after_a_chunk() -> None:
    before = gc.get_threshold()
    with suppress(KeyError), _rare_collections(NEW_OBJECTS):
        assert gc.get_threshold() == (NEW_OBJECTS, *before[1:])
        raise KeyError
    assert gc.get_threshold() == before
