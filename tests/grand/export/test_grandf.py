"""Dense captions are read back by the importer of GranD_f."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.sources.grandf import GranDfHumanAnnotated
from glamm_jax.grand.export.grandf import export_grandf
from tests.data.sources.small_datasets import read_all
from tests.grand.export.annotated import (
    DENSE,
    FULL,
    HEIGHT,
    WIDTH,
    make_item,
    make_items,
    mask_array,
)


def test_the_importer_reads_phrases_and_masks(tmp_path: Path) -> None:
    summary = export_grandf([make_item("a.jpg")], tmp_path / "out", images="copy")
    assert summary.counts["phrases"] == 3
    assert summary.dropped["phrases: no mask"] == 1  # of the glass
    (result,) = read_all(GranDfHumanAnnotated(tmp_path / "out", "train")).values()
    assert result.record is not None
    assert not result.defects
    (caption,) = result.record.annotations
    assert caption.text == DENSE
    phrases = {DENSE[link.start : link.end]: link.region for link in caption.links}
    assert set(phrases) == {"A brown dog", "another brown dog", "the fence"}
    counts = result.record.regions[phrases["A brown dog"]].mask
    mask = rle.decode({"size": [HEIGHT, WIDTH], "counts": counts})
    np.testing.assert_array_equal(mask, mask_array(2, 3, 20, 23))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    assert FULL.dense_caption is not None
    first = FULL.dense_caption.groundings[0]
    twice = replace(FULL.dense_caption, groundings=(first, first))
    image, record = make_item("a.jpg")
    items = [
        (image, replace(record, dense_caption=twice)),
        (replace(image, image_id="b", file_name="b.jpg"), replace(record, dense_caption=None)),
    ]
    summary = export_grandf(items, tmp_path / "out")
    assert summary.num_images == 1
    assert summary.dropped["phrases: repeated"] == 1
    assert summary.dropped["images: no dense caption"] == 1


def test_captions_that_are_not_verified_are_left_out(tmp_path: Path) -> None:
    summary = export_grandf(make_items(), tmp_path / "out")
    assert summary.dropped["dense captions: not verified"] == 1
