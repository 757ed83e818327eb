"""Encoding a record is lossless, and TFDS reads the same tables without TensorFlow."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.data.record import Annotation, Link, Record, RecordError, Region
from glamm_jax.data.record_shards import ShardError, decode, encode, features
from tests.data.records import build_record, jpeg, parts, plain_record

FILE = tfds.decode.SkipDecoding()  # pyright: ignore[reportCallIssue]  # made by a decorator


@settings(max_examples=200)
@given(parts)
def test_any_record_comes_back_exactly(parts: Any) -> None:
    record = build_record(parts)
    assert decode(encode(record)) == record


@settings(max_examples=50)
@given(parts)
def test_tfds_reads_the_tables_that_were_written(parts: Any) -> None:
    record = build_record(parts)
    table = features().deserialize_example_np(encode(record), decoders={"image": FILE})
    assert table["image"] == record.image
    assert table["image_id"].decode() == record.image_id
    assert (table["height"], table["width"]) == (record.height, record.width)
    regions = table["regions"]
    assert [bool(x) for x in regions["has_box"]] == [
        r.box_xyxy_pixel is not None for r in record.regions
    ]
    for box, region in zip(regions["box"], record.regions, strict=True):
        assert tuple(box) == (region.box_xyxy_pixel or (0, 0, 0, 0))
    assert [mask or None for mask in regions["mask"]] == [r.mask for r in record.regions]
    texts = [text.decode() for text in table["annotations"]["text"]]
    assert texts == [item.text for item in record.annotations]
    links = [(i, *vars(x).values()) for i, y in enumerate(record.annotations) for x in y.links]
    columns = (table["links"][name] for name in ("annotation", "region", "start", "end"))
    assert list(zip(*columns, strict=True)) == links


def test_tfds_decodes_the_picture() -> None:
    image = features().deserialize_example_np(encode(plain_record("p")))["image"]
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8


def test_a_caption_of_50_000_characters_comes_back() -> None:
    text = "Ein Hund jagt einen Bäll, 犬 🐕. " * 1700
    record = replace(plain_record("p"), annotations=(Annotation("caption", text),))
    assert len(text) > 50_000
    assert decode(encode(record)) == record


def test_a_record_without_regions_and_annotations_comes_back() -> None:
    record = Record(jpeg(), "empty", "plain", "train", 6, 8)
    assert decode(encode(record)) == record


def test_not_a_number_and_minus_zero_come_back() -> None:
    record = replace(plain_record("p"), regions=(Region((math.nan, -0.0, math.inf, 1 / 3)),))
    box = decode(encode(record)).regions[0].box_xyxy_pixel
    assert box is not None
    assert math.isnan(box[0])
    assert math.copysign(1, box[1]) == -1
    assert box[2:] == (math.inf, 1 / 3)


def test_links_and_turns_find_back_to_their_annotations() -> None:
    annotations = (
        Annotation("vqa", turns=("a", "b")),
        Annotation("referring", "x", (Link(0), Link(0, 0, 1))),
        Annotation("vqa", turns=("c", "d", "e", "f")),
    )
    record = replace(plain_record("p"), annotations=annotations)
    assert decode(encode(record)).annotations == annotations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "a\ud800"}, "surrogates"),
        ({"regions": (Region(mask=b""),)}, "without run lengths"),
        ({"height": 2**63}, "out of range"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(RecordError, match=f"plain .*{message}"):
        encode(replace(plain_record("p"), **change))


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_are_refused_or_give_a_record(data: st.DataObject) -> None:
    encoded = bytearray(encode(plain_record("p")))
    cut = data.draw(st.integers(0, len(encoded)))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with suppress(ShardError):
        assert isinstance(decode(bytes(encoded[:cut])), Record)


def test_reading_and_writing_wake_neither_tensorflow_nor_jax() -> None:
    code = (
        "import sys, glamm_jax.data.conversion as c; from tests.data.records import plain; "
        "from pathlib import Path; r = c.SourceReader(plain(3), Path(), 'train'); "
        "[c.decode(x) for x in r.records(0, c.ShardStats())]; "
        "sys.exit(str([m for m in ('tensorflow', 'jax', 'flax', 'torch') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
