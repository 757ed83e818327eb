"""Run lengths are encoded and decoded as by pycocotools, and damaged ones raise an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from glamm_jax.data import rle

any_mask = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(max_examples=100)
@given(any_mask)
def test_a_mask_survives_every_encoding(mask):
    compressed, counts = rle.encode(mask), rle.encode_counts(mask)
    np.testing.assert_array_equal(rle.decode(compressed), mask)
    np.testing.assert_array_equal(rle.decode(counts), mask)
    assert rle.compress(counts) == compressed
    assert json.loads(json.dumps(compressed)) == compressed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools sets shapes in place
@settings(max_examples=50)
@given(any_mask)
def test_pycocotools_reads_the_same_mask(mask):
    np.testing.assert_array_equal(coco.decode(rle.encode(mask)), mask)


@settings(max_examples=100)
@given(any_mask)
def test_area_and_box_are_those_of_the_pixels(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    for runs in (rle.encode(mask), rle.encode_counts(mask)):
        assert rle.area(runs) == mask.sum()
        if mask.any():
            assert rle.box(runs) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        else:
            assert rle.box(runs) is None


def test_runs_of_no_pixels_do_not_count():
    runs = {"size": [4, 4], "counts": [2, 0, 3, 1, 4, 0, 6]}
    assert (rle.area(runs), rle.box(runs)) == (1, (1, 1, 2, 2))


def test_a_large_mask_with_long_runs_survives():
    mask = np.zeros((3000, 2000), bool)
    mask[10:2990, 3:1900] = True
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


@settings(max_examples=100)
@given(any_mask, st.data())
def test_a_smaller_mask_is_read_at_the_centres_of_its_pixels(mask, data):
    size = tuple(data.draw(st.integers(1, side)) for side in mask.shape)
    decoded = np.zeros(size, np.uint8)
    rle.decode_into(rle.encode(mask), decoded)
    rows, columns = (
        rle.sample_centres(old, new) for old, new in zip(mask.shape, size, strict=True)
    )
    np.testing.assert_array_equal(decoded, mask[rows[:, None], columns])


def test_centres_lie_in_the_middle_and_sizes_keep_their_proportions():
    assert rle.sample_centres(9, 3).tolist() == [1, 4, 7]
    assert rle.size_within((100, 60), (40, 40)) == (40, 24)
    assert rle.size_within((30, 40), (40, 40)) == (30, 40)
    assert rle.size_within((1, 1000), (10, 10)) == (1, 10)


def test_recorded_masks_have_the_recorded_runs(goldens):
    recorded = json.loads((goldens / "preprocessing" / "info.json").read_text("utf-8"))["rle"]
    for i, mask in enumerate(recorded["masks"]):
        array = np.array(mask, bool)
        assert rle.encode_counts(array) == recorded["uncompressed"][i]
        assert rle.encode(array) == recorded["compressed"][i]


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=12),
        st.text(alphabet=[chr(48 + i) for i in range(64)], max_size=12),
        st.binary(max_size=12),
        st.lists(st.integers(-5, 50), max_size=6),
        st.lists(st.floats(), max_size=3),
        st.none(),
    ),
    st.lists(st.integers(-1, 20), max_size=3),
)
def test_any_runs_give_a_mask_of_their_size_or_a_clear_error(counts, size):
    try:
        mask = rle.decode({"size": size, "counts": counts})
    except rle.MaskError:
        return
    assert list(mask.shape) == size


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"size": [3, 4], "counts": [5, 8]}, "the runs cover 13 pixels, the mask has 3 x 4"),
        ({"size": [3, 4], "counts": [-5, 17]}, "a run is negative"),
        ({"size": [3], "counts": [3]}, "the size of a mask must be"),
        ({"size": [3, 4], "counts": 7}, "a string or a list of whole numbers"),
        ({"size": [3, 4], "counts": "o"}, "damaged"),
        ({"counts": [3]}, "run lengths must be"),
    ],
)
def test_broken_runs_say_what_is_wrong(runs, message):
    with pytest.raises(rle.MaskError, match=message):
        rle.decode(runs)


@pytest.mark.parametrize(
    "counts", [[1 << 28], [1, 2, 3, (1 << 28) - 6], [0, 0, 0, (1 << 28) - 1, 1]]
)
def test_the_longest_runs_are_compressed_as_by_pycocotools(counts):
    size = [1 << 14, 1 << 14]
    expected = coco.frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    compressed = rle.compress({"size": size, "counts": counts})
    assert compressed == {"size": size, "counts": expected}
    assert rle.run_ends(compressed)[1].tolist() == np.cumsum(counts).tolist()


def test_a_union_has_the_pixels_of_all_masks() -> None:
    masks = np.random.default_rng(0).random((3, 5, 7)) < 0.3
    runs = rle.union([rle.encode(mask) for mask in masks])
    np.testing.assert_array_equal(rle.decode(runs), masks.any(0))
    assert rle.union([runs]) == runs
    for invalid in ([], [runs, rle.encode(np.ones((2, 2), bool))]):
        with pytest.raises(rle.MaskError, match="different sizes"):
            rle.union(invalid)
