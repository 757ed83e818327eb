"""A run folder in a bucket of fake-gcs-server, killed while it writes, and continued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from etils import epath

from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.run_folder import AnnotationRun
from tests.grand.toy_stages import calls, make_run, toy_graph

ROOT = Path(__file__).parents[2]
CHUNK, IMAGES, KILLS = 5, 19, 8
pytestmark = pytest.mark.slow


def contents(run: AnnotationRun) -> dict[str, bytes]:
    """The chunk files of every stage."""
    # The cache of listings knows nothing of other processes.
    import_module("gcsfs").GCSFileSystem.clear_instance_cache()
    return {
        f"{name}/{path.name}": path.read_bytes()
        for name, fingerprint in toy_graph().fingerprints.items()
        for path in run.stage_folder(name, fingerprint).iterdir()
        if path.name.startswith("chunk-")
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_runs_in_a_bucket_continue_after_kills(
    processes: int, bucket: epath.Path, tmp_path: Path
) -> None:
    choose = random.Random(processes)
    local = make_run(tmp_path, IMAGES, chunk_size=CHUNK)
    run_local(local, toy_graph(), processes=1)
    expected, log = contents(local), tmp_path / "log"
    killed = 0
    while True:
        arguments = map(str, (tmp_path / "photos", bucket / "run", CHUNK, processes, log))
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.grand.toy_stages", *arguments],
            cwd=ROOT,
            env={**os.environ, "TOY_SECONDS": "0.1"},
        )
        before = len(calls(log))
        try:
            while killed < KILLS and driver.poll() is None and len(calls(log)) == before:
                time.sleep(0.05)  # until stages run
            driver.wait(choose.uniform(0.0, 1.5) if killed < KILLS else 600)
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            killed += 1
        if driver.wait(600) == 0:
            break
    run = AnnotationRun.open(bucket / "run")
    assert contents(run) == expected
    assert list(run.scenes()) == list(local.scenes())
    counts = Counter((stage, image_id) for stage, image_id, _ in calls(log))
    assert len(counts) == 3 * IMAGES
    print(f"{killed} kills, {sum(counts.values()) - len(counts)} calls repeated")
    # A bucket has no lock: each worker of a killed driver may be at one chunk.
    assert killed > 0
    assert sum(counts.values()) - len(counts) <= CHUNK * processes * killed
