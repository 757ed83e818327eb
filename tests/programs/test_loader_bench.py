"""The benchmark of the loader runs, measures every stage and writes its results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import loader
from bench.photographs import PHRASES, PhotographSource, write_shards
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record import check_record


def test_every_part_of_the_path_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert loader.main(["--tiny", "--out", str(tmp_path / "loader.json")]) == 0
    (row,) = json.loads((tmp_path / "loader.json").read_text("utf-8"))["rows"]
    assert set(row["ms"]) == {*loader.RATES, *loader.PARTS, *loader.ALONE}
    assert all(value > 0 for value in row["ms"].values())
    assert row["dtypes"] == ["uint8"] * 3
    assert row["shapes"][2] == [32, 32, 64]
    assert "| tiny, 48 x 64 |" in capsys.readouterr().out


def test_a_number_of_pictures_that_fills_no_batch_is_refused() -> None:
    with pytest.raises(SystemExit):
        loader.main(["--images", "3"])


def test_drawn_photographs_are_whole_records_and_always_the_same() -> None:
    record = PhotographSource((48, 64), -1.1, 2).read("1").record
    assert record is not None
    check_record(record)
    assert record == PhotographSource((48, 64), -1.1, 2).read("1").record
    assert record != PhotographSource((48, 64), -1.1, 2).read("0").record
    assert open_image(record.image).shape == (48, 64, 3)
    caption = record.annotations[0]
    assert tuple(caption.text[link.start : link.end] for link in caption.links) == PHRASES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools sets shapes in place
def test_the_plain_path_sees_what_ours_sees(tmp_path: Path) -> None:
    folder = write_shards(PhotographSource((48, 64), -1.1, 4), tmp_path)
    benchmark = loader.open_benchmark(loader.TINY[0], loader.TINY_MODEL, folder)
    (plain,), (batch,) = benchmark.plain(), benchmark.loader()
    for name, pixels, config in (
        ("clip", batch.images, loader.TINY_MODEL.clip),
        ("sam", batch.grounding_images, loader.TINY_MODEL.sam),
    ):
        expected = (pixels - np.array(config.pixel_mean, np.float32)) / np.array(
            config.pixel_std, np.float32
        )
        height, width = batch.resized_sizes[0] if name == "sam" else expected.shape[1:3]
        actual = plain[name].transpose(0, 2, 3, 1)[:, :height, :width]
        np.testing.assert_allclose(actual, expected[:, :height, :width], atol=1e-5)
