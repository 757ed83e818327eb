"""The benchmark of the metrics runs, and its two ways of comparing masks agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import metrics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools copies in an old way
def test_it_measures_pairs_and_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TURNS", 1)
    assert metrics.main(["--images", "2", "--out", str(tmp_path / "metrics.json")]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert found["images"] == 2 and 10 <= found["masks"] <= 16
    assert found["pairs"]["ratio"] > 1
    assert set(found["scoring_s"]) == {"compat", "strict"}
    assert "scoring 2 images, strict" in capsys.readouterr().out


def test_no_image_is_refused() -> None:
    with pytest.raises(SystemExit):
        metrics.main(["--images", "0"])
