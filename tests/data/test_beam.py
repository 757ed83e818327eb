"""The Beam transform writes what one machine's processes write. Needs `glamm-jax[beam]`."""

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
    said = []
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(color=(i, i, 255 - i)))
        said.append(json.dumps({"image": f"{i}.jpg", "captions": [f"Picture {i}."]}))
    (tmp_path / "many.jsonl").write_text("\n".join([*said, "no JSON"]))
    arguments = ["dataset", "jsonl", "--source", str(tmp_path / "many.jsonl"), "--shards", "8"]
    assert main([*arguments, "--out", str(tmp_path / "ours"), "--processes", "1"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "beam"), f"--beam={RUNNERS[runner]}"]) == 0
    assert files(tmp_path / "beam") == files(tmp_path / "ours")
    assert len(files(tmp_path / "ours")) == 8 + 8 + 5
