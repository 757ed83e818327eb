"""The benchmark of the metrics runs, and its two ways of comparing masks agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import metrics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from pycocotools' use of numpy
def test_it_measures_pairs_and_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "REPEATS", 1)
    assert metrics.main(["--images", "2", "--out", str(tmp_path / "metrics.json")]) == 0
    results = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert results["images"] == 2 and 10 <= results["masks"] <= 16
    assert results["pairs"]["ratio"] > 1
    assert set(results["scoring_s"]) == {"compat", "strict"}
    assert "scoring 2 images, strict" in capsys.readouterr().out


def test_zero_images_are_refused() -> None:
    with pytest.raises(SystemExit):
        metrics.main(["--images", "0"])
