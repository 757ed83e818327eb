"""Apache Beam and Ray: the bytes of the local driver, with failing models, and after kills.

`make test-engines` installs each in an environment of its own and runs these tests there.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.cli.annotate import main
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.drivers.ray import start_ray
from glamm_jax.grand.execution import RunResult
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph
from tests.grand.toy_stages import FAILING, calls, make_run, sections, toy_graph

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "configs" / "annotate" / "noisy.toml"
LIBRARIES = {"beam": "apache_beam", "ray": "ray"}
CHUNK, IMAGES = 5, 39  # of the runs that are killed
KILLS_PER_COMMAND = 4
LONGEST_RUN = 900.0  # seconds; one takes half a minute on a machine with nothing else to do
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of the engines
]


def needs(engine: str) -> Any:
    missing = find_spec(LIBRARIES[engine]) is None
    return pytest.param(
        engine, marks=pytest.mark.skipif(missing, reason=f"pip install 'glamm-jax[{engine}]'")
    )


ENGINES = [needs("beam"), needs("ray")]


@pytest.fixture(scope="module", autouse=True)
def _one_ray_for_all_tests() -> Iterator[None]:
    """Starting Ray takes longer than most tests; the killed programs start their own."""
    if find_spec("ray") is None:
        yield
        return
    ray: Any = import_module("ray")
    start_ray(ray, cpus=3)
    yield
    ray.shutdown()


# ------------------------------------------------------------ the program


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "scenes"
    assert main(["scenes", str(folder), "--count", "20", "--size", "128"]) == 0
    return folder / "images"


def annotate(scenes: Path, out: Path, *options: object) -> dict[str, str]:
    """Run the program; return the lines of every stage in the order of the images."""
    arguments = ["run", scenes, "--out", out, "--roles", ROLES, *options]
    assert main([*map(str, arguments)]) == 0
    return stage_lines(out)


def stage_lines(out: Path) -> dict[str, str]:
    return {
        str(folder.relative_to(out)): "".join(
            path.read_text() for path in sorted(folder.glob("chunk-*"))
        )
        for folder in out.glob("stages/*/*")
    }


@pytest.fixture(scope="module")
def expected(scenes: Path) -> dict[str, str]:
    lines = annotate(scenes, scenes.parent.parent / "local", "--workers", 1)
    assert len(lines) > 20
    assert all(text.count("\n") == 20 for text in lines.values())
    return lines


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk_size", [1, 7, 100])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_program_writes_the_same_bytes(
    engine: str,
    chunk_size: int,
    workers: int,
    scenes: Path,
    expected: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--driver", engine, "--chunk-size", chunk_size, "--workers", workers)
    assert annotate(scenes, tmp_path / "run", *options) == expected
    files = len(expected) * -(-20 // chunk_size)
    assert f"{files:,} chunk files of {len(expected)} stages" in capsys.readouterr().out
    # The local driver finds nothing left to do.
    assert annotate(scenes, tmp_path / "run", "--workers", 1) == expected
    assert "nothing to do" in capsys.readouterr().out


# ------------------------------------------------------------ failing models


def run_engine(engine: str, run: AnnotationRun, graph: StageGraph, **options: Any) -> RunResult:
    module = import_module(f"glamm_jax.grand.drivers.{engine}")
    return getattr(module, f"run_{engine}")(run, graph, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_failures_stay_where_they_are(engine: str, tmp_path: Path) -> None:
    """Models that raise, lack memory, are killed or return nonsense, and a file that is no image.

    As the local driver, which test_execution.py compares with what is due.
    """
    names = [*FAILING, "killer.png"]
    local = make_run(tmp_path, 20, names=names, chunk_size=4, name="local")
    same = run_local(local, toy_graph(), processes=2, max_failures=2)
    run = make_run(tmp_path, 20, chunk_size=4, name=engine)
    result = run_engine(engine, run, toy_graph(), processes=2, max_failures=2)
    assert sections(run) == sections(local)
    assert result.quarantined == same.quarantined
    assert len(result.quarantined) == 1
    assert [stage.missing for stage in result.stages] == [x.missing for x in same.stages]
    (report,) = Path(run.path).glob("quarantine/*/*/*")
    assert report.read_text().startswith("a worker ended with status -9, 2 times")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_ends_a_run_is_named(engine: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    graph = toy_graph(checkpoint="nowhere")
    module = import_module(f"glamm_jax.grand.drivers.{engine}")
    error = {"beam": "BeamError", "ray": "RayDriverError"}[engine]
    with pytest.raises(getattr(module, error), match="the model mean cannot be loaded: OSError"):
        run_engine(engine, run, graph, processes=1)


def test_a_running_mode_that_waits_for_ever_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="pip install 'glamm-jax[beam]'")
    from glamm_jax.grand.drivers.beam import BeamError, run_beam

    run = make_run(tmp_path, 3)
    with pytest.raises(BeamError, match="multi_processing waits for ever when a worker dies"):
        run_beam(run, toy_graph(), ["--direct_running_mode=multi_processing"])
    with pytest.raises(BeamError, match="workers of DataflowRunner is one of its own options"):
        run_beam(run, toy_graph(), ["--runner=DataflowRunner"], processes=2)


def test_beam_knows_the_documented_options(caplog: pytest.LogCaptureFixture) -> None:
    options: Any = pytest.importorskip(
        "apache_beam.options.pipeline_options", reason="pip install 'glamm-jax[beam]'"
    )
    text = (ROOT / "docs" / "annotate.md").read_text()
    flags = re.findall(r"--driver-option=(--\S+)", text)
    assert len(flags) == 6
    known = options.PipelineOptions([*flags, "--nonsense=1"]).get_all_options(drop_default=True)
    assert known["runner"] == "DataflowRunner"
    assert known["max_num_workers"] == 50
    discarded = [record.getMessage() for record in caplog.records]
    assert discarded == ["Discarding unparseable args: ['--nonsense=1']"]


# ------------------------------------------------------------ kills


def start(photographs: Path, folder: Path, engine: str, log: Path) -> subprocess.Popen[str]:
    arguments = [photographs, folder, CHUNK, 2, log, engine]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.grand.toy_stages", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOY_SECONDS": "0.5"},
        stderr=log.with_suffix(".stderr").open("w"),
        stdout=subprocess.DEVNULL,
        text=True,
    )


def processes_of(driver: int) -> list[int]:
    """The worker processes of a driver, and Ray's actors and workers."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status[1])

    def is_below(process: int) -> bool:
        while process in parents and process != driver:
            process = parents[process]
        return process == driver

    return [
        process
        for process, command in commands.items()
        if (b"spawn_main" in command or command.startswith(b"ray::")) and is_below(process)
    ]


def disturb(
    driver: subprocess.Popen[str], log: Path, kills: int, choose: random.Random
) -> tuple[int, bool]:
    """Kill processes of a run at random; returns how many, and whether the driver was one."""
    calls_before, killed = len(calls(log)), 0
    while choose.random() < 0.8 and driver.poll() is None and len(calls(log)) == calls_before:
        time.sleep(0.2)  # in most cases until stages run
    while killed < kills and driver.poll() is None:
        time.sleep(choose.uniform(0.1, 2.0))
        workers = processes_of(driver.pid)
        victim = choose.choice([driver.pid, *workers])
        if driver.poll() is not None:
            break
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            continue
        killed += 1
        if victim == driver.pid:
            return killed, True
    return killed, False


def kill_and_repeat(engine: str, kills: int, seed: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    undisturbed = make_run(tmp_path, IMAGES, chunk_size=40)
    run_local(undisturbed, toy_graph(), processes=1)
    number = 0
    while kills:
        folder, log = tmp_path / f"run-{number}", tmp_path / f"log-{number}"
        number += 1
        all_killed = 0
        while True:
            driver = start(tmp_path / "photos", folder, engine, log)
            killed, driver_killed = disturb(driver, log, min(kills, KILLS_PER_COMMAND), choose)
            kills, all_killed = kills - killed, all_killed + killed
            status = driver.wait(LONGEST_RUN)
            if status == 0:
                break
            # A dead worker does not end the run.
            assert driver_killed, log.with_suffix(".stderr").read_text()[-4000:]
        assert sections(AnnotationRun.open(folder)) == sections(undisturbed)
        counts = Counter((stage, image_id) for stage, image_id, _ in calls(log))
        assert len(counts) == 3 * IMAGES
        repeated = sum(counts.values()) - len(counts)
        print(f"{engine}: {all_killed} kills, {repeated} of {len(counts)} calls repeated")
        # At most one chunk of one stage for every kill.
        assert repeated <= CHUNK * all_killed


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_runs_continue(engine: str, tmp_path: Path) -> None:
    kill_and_repeat(engine, int(os.environ.get("KILLS", "40")), seed=5, tmp_path=tmp_path)
