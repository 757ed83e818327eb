"""The Beam transform writes the same files as the processes of one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glamm_jax.cli.convert import main
from tests.data.records import jpeg

pytest.importorskip("apache_beam", reason="pip install 'glamm-jax[beam]'")

RUNNERS = {
    "in this process": "--runner=DirectRunner",
    "in two processes": "--runner=DirectRunner --direct_num_workers=2 "
    "--direct_running_mode=multi_processing",
}


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Beam's own
@pytest.mark.parametrize("runner", RUNNERS)
def test_beam_writes_the_same_bytes(runner: str, tmp_path: Path) -> None:
    lines = []
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(color=(i, i, 255 - i)))
        lines.append(json.dumps({"image": f"{i}.jpg", "captions": [f"Picture {i}."]}))
    (tmp_path / "many.jsonl").write_text("\n".join([*lines, "no JSON"]))
    arguments = ["dataset", "jsonl", "--source", str(tmp_path / "many.jsonl"), "--shards", "8"]
    assert main([*arguments, "--out", str(tmp_path / "local"), "--workers", "1"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "beam"), f"--beam={RUNNERS[runner]}"]) == 0
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert len(files(tmp_path / "local")) == 8 + 8 + 5
