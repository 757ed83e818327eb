"""Runs: the same sections whatever the chunks and workers; failures that stay where they are."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from etils import epath

from glamm_jax.errors import FolderError
from glamm_jax.grand import chunks
from glamm_jax.grand.chunks import RunFolderError
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.execution import ChunkWorker, Job, RoleSetupError, Session, StageProgress
from glamm_jax.grand.images import scan_images
from glamm_jax.grand.run_folder import AnnotationRun, StageStatus
from glamm_jax.grand.stages import (
    ParsedSection,
    Stage,
    StageError,
    StageGraph,
    StageImage,
    stage_seed,
)
from glamm_jax.grand.worker_processes import ReplacedWorker, WorkerProcessError
from glamm_jax.storage import upload_folder
from tests.grand.toy_stages import (
    FAILING,
    STAGES,
    MeanColour,
    calls,
    make_run,
    sections,
    toy_graph,
    write_photographs,
)

ROOT = Path(__file__).parents[2]
ERRORS = {
    "huge.png": ("memory", "MemoryError"),
    "nan.png": (
        "output",
        "the section is not JSON: Out of range float values are not JSON compliant",
    ),
    "raises a.png": ("model", "RuntimeError: cannot process a batch: <object object at 0x...>"),
    "short.png": ("output", "1 results are due, got list of 0"),
    "sub/unlucky.png": ("model", "no mean"),
    "text.png": ("output", "a section is an object, not str"),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = make_run(tmp_path_factory.mktemp("expected"), names=FAILING)
    run_local(run, toy_graph(), processes=1)
    return sections(run)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_sections_do_not_depend_on_chunks_and_workers(
    chunk_size: int, processes: int, tmp_path: Path, expected: dict[str, str]
) -> None:
    run = make_run(tmp_path, names=FAILING, chunk_size=chunk_size)
    result = run_local(run, toy_graph(), processes=processes)
    assert sections(run) == expected
    assert result.complete
    assert result.computed_chunks == 4 * -(-31 // chunk_size)


class _RayData:
    """As much of a dataset of Ray as the driver uses, in this process."""

    def __init__(self, items: Sequence[dict[str, int]]):
        self._batches = [{"chunk": [item["chunk"]]} for item in items]
        self._actors: list[Any] = []
        self.options: list[dict[str, Any]] = []

    def map_batches(
        self, actor: Any, *, fn_constructor_args: tuple[Any, ...], **options: Any
    ) -> _RayData:
        self._actors.append(actor(*fn_constructor_args))
        self.options.append(options)
        return self

    def iter_batches(self, batch_size: int | None) -> Iterator[Any]:
        for batch in self._batches:
            for actor in self._actors:
                batch = actor(batch)
            yield batch


def test_what_the_ray_driver_asks_for(
    tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Ray's calls; Ray itself runs in test_engines.py."""
    from glamm_jax.grand.drivers.ray import RayDriverError, run_ray

    started: list[Any] = []
    datasets: list[_RayData] = []
    resources = {"CPU": 8.0}
    ray, data = ModuleType("ray"), ModuleType("ray.data")
    ray.__dict__.update(
        is_initialized=lambda: False,
        init=lambda *address, **options: started.append(address or options),
        shutdown=lambda: started.append("shutdown"),
        cluster_resources=lambda: resources,
        cloudpickle=pickle,
        data=data,
    )

    def from_items(items: Sequence[dict[str, int]], override_num_blocks: int) -> _RayData:
        assert override_num_blocks == len(items)
        datasets.append(_RayData(items))
        return datasets[-1]

    context = SimpleNamespace()
    data.__dict__.update(
        from_items=from_items,
        DataContext=SimpleNamespace(get_current=lambda: context),
        ActorPoolStrategy=lambda size: size,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    run = make_run(tmp_path, names=FAILING, chunk_size=7)
    events: list[StageProgress] = []
    graph = toy_graph(device=True)
    result = run_ray(run, graph, processes=2, on_progress=events.append)
    assert result.computed_chunks == 20
    assert sections(run) == expected
    # Two actors of each of the groups on the CPU, one for the device, and one slot for reading.
    assert [options["compute"] for options in datasets[0].options] == [2, 1, 2]
    assert started[0]["num_cpus"] == 2 + 1 + 2 + 1
    assert started[1:] == ["shutdown"]
    assert [options["num_gpus"] for options in datasets[0].options] == [0, 0, 0]
    assert {item.images for item in events if item.stage == "sum"} >= {0, 31}
    # Nothing to do: Ray is not started.
    assert run_ray(run, graph, address="auto").computed_chunks == 0
    assert len(started) == 2
    next(Path(run.path).glob("stages/sum/*/chunk-*")).unlink()
    with pytest.raises(RayDriverError, match="need a GPU, and the cluster has none"):
        run_ray(run, graph, address="auto")
    resources["GPU"] = 4.0
    assert run_ray(run, graph, address="auto", devices=3).computed_chunks == 1
    assert [options["num_gpus"] for options in datasets[1].options] == [0, 1, 0]
    assert started[2:] == [("auto",), ("auto",)]


def test_a_process_that_dies_in_an_engine_is_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4, names=["killer.png"], chunk_size=2)
    graph = toy_graph()
    job = Job(run, graph, max_failures=2)
    with Session(job) as session:
        worker = ReplacedWorker(pickle.dumps(job), 0)
        for chunk in session.all_pending():
            worker.process(chunk)
        worker.close()
    result = session.result()
    assert result.quarantined == (("mean/colour", 2),)
    assert [stage.missing for stage in result.stages] == [0, 0, 2, 2]
    unloadable = StageGraph([Stage(name="a", process=_echo, roles=(_Unloadable(),))])
    with pytest.raises(WorkerProcessError, match="the model mean cannot be loaded"):
        ReplacedWorker(pickle.dumps(Job(run, unloadable)), 0).process(0)


def test_a_missing_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glamm_jax.grand.drivers import beam
    from glamm_jax.grand.drivers.ray import RayDriverError, run_ray

    run = make_run(tmp_path, 1)
    monkeypatch.setattr(beam, "beam", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(beam.BeamError, match=r"pip install glamm-jax\[beam\]"):
        beam.run_beam(run, toy_graph())
    with pytest.raises(RayDriverError, match=r"pip install glamm-jax\[ray\]"):
        run_ray(run, toy_graph())


def test_failures_stay_with_their_images(tmp_path: Path) -> None:
    run = make_run(tmp_path, names=FAILING, chunk_size=9)
    graph = toy_graph()
    result = run_local(run, graph, processes=1)
    scenes = {scene.image_id: scene for scene in run.scenes(graph)}
    errors = {
        name: (scene.errors["mean/colour"].kind, scene.errors["mean/colour"].message)
        for name, scene in scenes.items()
        if scene.status == "partial"
    }
    assert errors == ERRORS
    assert all(scenes[name].attempts["mean/colour"] == 1 for name in ERRORS)
    assert scenes["second.png"].attempts["mean/colour"] == 1
    seed = stage_seed("second.png", "mean/colour", 1)
    assert scenes["second.png"].sections["mean/colour"]["seed"] == seed
    assert scenes["second.png"].status == "ok"
    assert scenes["large 1.png"].attempts["mean/colour"] == 0
    # The stage "sum" can do without the colour.
    assert scenes["text.png"].sections["sum"]["mean"] is None
    assert scenes["000.png"].sections["sum"]["mean"] is not None
    rejected = StageError(
        "rejected",
        "not a readable image: the format is unknown or the file is damaged",
        "image",
    )
    assert scenes["notes.txt"].errors == dict.fromkeys(STAGES, rejected)
    assert scenes["notes.txt"].status == "rejected"
    counts = {stage.name: (stage.done, stage.failed, stage.rejected) for stage in result.stages}
    assert counts == {
        "image": (30, 0, 1),
        "size": (30, 0, 1),
        "mean/colour": (24, 6, 1),
        "sum": (30, 0, 1),
    }


def _echo(images: Sequence[StageImage]) -> list[dict[str, Any]]:
    return [dict(image.sections) for image in images]


def test_stages_that_need_a_failed_one_are_skipped_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1, names=["unlucky.png"])
    stages = [*toy_graph().stages.values()]
    stages.append(Stage(name="first", inputs=("mean/colour",), process=_echo))
    stages.append(Stage(name="last", inputs=("first", "size"), process=_echo))
    graph = StageGraph(stages)
    run_local(run, graph, processes=1)
    scenes = {scene.image_id: scene for scene in run.scenes(graph, ["first", "last"])}
    skipped = StageError("skipped", "no mean", "mean/colour")
    assert scenes["unlucky.png"].errors == {"first": skipped, "last": skipped}
    assert scenes["notes.txt"].errors["last"].kind == "rejected"
    # Sections are as they are read from a file: with lists for tuples.
    assert scenes["000.png"].sections["last"]["size"] == {"pixels": 384, "é": [1, 2]}
    (last,) = [stage for stage in run.status(graph) if stage.name == "last"]
    assert (last.done, last.failed, last.skipped, last.rejected) == (1, 0, 1, 1)


def _in_batches(sizes: list[int], limit: int, images: Sequence[StageImage]) -> list[dict[str, Any]]:
    sizes.append(len(images))
    if len(images) > limit:
        raise RuntimeError("CUDA out of memory")
    return [{"seed": image.seed} for image in images]


def test_a_batch_that_does_not_fit_the_memory_is_halved(tmp_path: Path) -> None:
    run = make_run(tmp_path, 31, chunk_size=32)
    sizes: list[int] = []
    stage = Stage(name="large", process=partial(_in_batches, sizes, 3), batch_size=16)
    run_local(run, StageGraph([stage]), processes=1)
    assert sizes == [16, 8, 4, 2, 2, 4, 2, 2, 8, 4, 2, 2, 4, 2, 2, *[2] * 8]
    assert [scene.attempts["large"] for scene in run.scenes()] == [0] * 32


class _Block:
    """Something that a model holds in memory."""


def _with_block(blocks: list[weakref.ref[_Block]], images: Sequence[StageImage]) -> Any:
    assert not any(block() for block in blocks)
    block = _Block()
    blocks.append(weakref.ref(block))
    if len(images) > 1:
        raise MemoryError
    return [{} for _ in images]


def test_the_memory_of_a_batch_is_free_before_its_halves_are_tried(tmp_path: Path) -> None:
    run = make_run(tmp_path, 7)
    blocks: list[weakref.ref[_Block]] = []
    stage = Stage(name="large", process=partial(_with_block, blocks), batch_size=8)
    run_local(run, StageGraph([stage]), processes=1)
    assert len(blocks) == 8 + 7
    assert all(scene.status == "ok" for scene in run.scenes())


# ------------------------------------------------------------ chunks that fail


def test_a_stage_that_fails_several_times_is_quarantined_and_tried_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, chunk_size=7)
    graph = toy_graph()
    original = ChunkWorker._outcomes
    failures = []

    def fail(self: ChunkWorker, stage: Stage, state: Any) -> Any:
        if stage.name == "size" and state.chunk == 1:
            failures.append(state.chunk)
            raise RuntimeError("a defect of the stage")
        return original(self, stage, state)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWorker, "_outcomes", fail)
        result = run_local(run, graph, processes=1)
    assert failures == [1, 1, 1]
    assert not result.complete
    assert result.quarantined == (("size", 1),)
    assert [stage.missing for stage in result.stages] == [0, 7, 0, 7]
    path = run.chunk_path("size", graph.fingerprints["size"], 1, "quarantine")
    assert "RuntimeError: a defect of the stage" in path.read_text()
    again = run_local(run, graph, processes=1)
    assert again.complete
    assert not again.quarantined
    assert again.computed_chunks == 2


def test_a_chunk_that_kills_its_workers_is_quarantined(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4, names=["killer.png"], chunk_size=2)
    result = run_local(run, toy_graph(), processes=2, max_failures=2)
    assert result.quarantined == (("mean/colour", 2),)
    assert [stage.missing for stage in result.stages] == [0, 0, 2, 2]
    (path,) = Path(run.path).glob("quarantine/*/*/*")
    assert path.read_text().startswith("a worker ended with status -9, 2 times")


class _Unloadable(MeanColour):
    def setup(self) -> None:
        raise OSError("no such checkpoint")


def test_two_models_for_devices_are_never_in_one_process(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    roles = [MeanColour(name, needs_device=True) for name in ("first", "second")]
    graph = StageGraph([Stage(name=x.name, process=_process_id, roles=(x,)) for x in roles])
    run_local(run, graph, processes=1)
    ids = [scene.sections[role.name]["process"] for scene in run.scenes() for role in roles]
    assert len({*ids, os.getpid()}) == 3
    alone = graph.with_inputs_of("first")
    again = make_run(tmp_path, name="again")
    run_local(again, alone, processes=1)
    assert {x.sections["first"]["process"] for x in again.scenes()} == {os.getpid()}


def _process_id(images: Sequence[StageImage]) -> list[dict[str, Any]]:
    return [{"process": os.getpid()} for _ in images]


def test_a_model_that_cannot_be_loaded_ends_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3, chunk_size=1)
    graph = StageGraph([Stage(name="a", process=_echo, roles=(_Unloadable(),))])
    message = "the model mean cannot be loaded: OSError: no such checkpoint"
    with pytest.raises(RoleSetupError, match=message):
        run_local(run, graph, processes=1)
    with pytest.raises(WorkerProcessError, match=message):
        run_local(run, graph, processes=2)


def _device(images: Sequence[StageImage]) -> list[dict[str, Any]]:
    return [{"device": os.environ.get("CUDA_VISIBLE_DEVICES")} for _ in images]


def test_each_worker_of_a_device_model_has_its_device(tmp_path: Path) -> None:
    run = make_run(tmp_path, 9, chunk_size=1)
    role = MeanColour(needs_device=True)
    graph = StageGraph([Stage(name="a", process=_device, roles=(role,))])
    run_local(run, graph, processes=1, devices=("5", "7"))
    assert {scene.sections["a"]["device"] for scene in run.scenes()} <= {"5", "7"}


# ------------------------------------------------------------ interruptions


def _start(tmp_path: Path, folder: Path, processes: int, log: Path) -> subprocess.Popen[bytes]:
    arguments = [tmp_path / "photos", folder, 5, processes, log]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.grand.toy_stages", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOY_SECONDS": "0.05"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _processes_of(driver: int) -> list[int]:
    """The driver and its workers."""
    children = Path(f"/proc/{driver}/task/{driver}/children")
    processes = [driver]
    for child in children.read_text().split() if children.exists() else []:
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"spawn_main" in command:
            processes.append(int(child))
    return processes


def _calls_reach(number: int, log: Path, driver: subprocess.Popen[bytes]) -> bool:
    """Wait for this number of calls; returns whether the run still goes on then."""
    while driver.poll() is None:
        if len(calls(log)) >= number:
            return True
        time.sleep(0.01)
    return False


def _kill_and_repeat(tmp_path: Path, kills: int, processes: int, seed: int) -> None:
    choose = random.Random(seed)
    undisturbed = make_run(tmp_path, 39, chunk_size=40)
    run_local(undisturbed, toy_graph(), processes=1)
    for number in range(kills):
        folder, log = tmp_path / f"run-{number}", tmp_path / f"log-{number}"
        killed = 0
        for _ in range(kills + 2):
            driver = _start(tmp_path, folder, processes, log)
            # After a random call, not a random time: the machine may be slow.
            if kills and _calls_reach(len(calls(log)) + choose.randrange(90), log, driver):
                os.kill(choose.choice(_processes_of(driver.pid)), signal.SIGKILL)
                kills, killed = kills - 1, killed + 1
            if driver.wait(300) == 0:
                break
        assert sections(AnnotationRun.open(folder)) == sections(undisturbed)
        counts = Counter((stage, image_id) for stage, image_id, _ in calls(log))
        assert len(counts) == 3 * 39
        # At most one chunk of one stage for every kill.
        assert sum(counts.values()) - len(counts) <= 5 * killed
        if not kills:
            return
    raise AssertionError(f"{kills} kills are left")


def test_killed_runs_continue(tmp_path: Path) -> None:
    _kill_and_repeat(tmp_path, kills=2, processes=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_runs_killed_a_hundred_times_continue(processes: int, tmp_path: Path) -> None:
    _kill_and_repeat(tmp_path, kills=50, processes=processes, seed=10 + processes)


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    run_local(run, toy_graph(), processes=1)
    (path,) = Path(run.path).glob("stages/size/*/chunk-*")
    left = path.with_name(f".{path.name}.tmp-01234567")
    path.rename(left)
    assert run_local(run, toy_graph(), processes=1).computed_chunks == 1
    assert path.exists()
    assert not left.exists()


def test_a_full_disk_ends_the_run_and_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, chunk_size=7)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(chunks.os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*same command again"):
            run_local(run, toy_graph(), processes=1)
    assert not list(Path(run.path).glob("stages/*/*/chunk-*"))
    assert not list(Path(run.path).rglob("*.tmp-*"))
    assert run_local(run, toy_graph(), processes=1).complete


def test_a_full_disk_in_a_worker_ends_the_run(tmp_path: Path) -> None:
    """A limit of the size of files stands for the disk: the workers inherit it."""
    run = make_run(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(WorkerProcessError, match="written: File too large"):
            run_local(run, toy_graph(), processes=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(Path(run.path).rglob("*.tmp-*"))
    assert run_local(run, toy_graph(), processes=1).complete


# ------------------------------------------------------------ the folder


def test_two_runs_cannot_write_one_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    with (
        run.lock(),
        pytest.raises(FolderError, match=rf"is being written by process {os.getpid()} on"),
    ):
        run_local(run, toy_graph(), processes=1)
    assert run_local(run, toy_graph(), processes=1).complete


def test_a_folder_of_other_images_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3, chunk_size=2)
    (tmp_path / "photos" / "new.png").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"another list of images \(4 images, now .* 5\)"):
        make_run(tmp_path, chunk_size=2)
    (tmp_path / "photos" / "new.png").unlink()
    with pytest.raises(RunFolderError, match="its chunks have 2 images, not 3"):
        make_run(tmp_path, chunk_size=3)
    assert make_run(tmp_path) == run == AnnotationRun.open(run.path)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_one_scene_is_read_by_its_id(chunk_size: int, tmp_path: Path) -> None:
    run = make_run(tmp_path, 10, chunk_size=chunk_size)
    graph = toy_graph()
    run_local(run, graph.with_inputs_of("size"), processes=1)
    scenes = list(run.scenes(graph))
    assert [run.scene(scene.image_id, graph) for scene in scenes] == scenes
    assert set(scenes[0].sections) == {"image", "size"}
    for name in ("", "0055.png", "zebra.png"):
        with pytest.raises(RunFolderError, match=f"has no image '{name}'"):
            run.scene(name)


def test_photographs_may_move(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    again = AnnotationRun.create(run.path, scan_images(moved), moved)
    assert again.root == str(moved)
    assert AnnotationRun.open(run.path) == again
    assert run_local(again, toy_graph(), processes=1).stages[0].rejected == 1


def test_invalid_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not the folder of a run: no manifest.json"):
        AnnotationRun.open(tmp_path)
    with pytest.raises(RunFolderError, match="there are no images"):
        AnnotationRun.create(tmp_path / "run", iter(()), tmp_path)
    run = make_run(tmp_path, 3)
    with pytest.raises(RunFolderError, match="nothing was run yet"):
        run.status()
    run_local(run, toy_graph(), processes=1)
    manifest = Path(run.path, "manifest.json")
    fields = json.loads(manifest.read_text())
    for change, message in [
        ({"format": 99}, "another version of this program"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"offsets": 3}, "manifest.json"),
    ]:
        manifest.write_text(json.dumps(fields | change))
        with pytest.raises(RunFolderError, match=message):
            AnnotationRun.open(run.path)


@pytest.mark.parametrize("damage", ["cut", "line", "image", "long"])
def test_a_damaged_chunk_is_named(damage: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, 3)
    graph = toy_graph()
    run_local(run, graph, processes=1)
    (path,) = Path(run.path).glob("stages/size/*/chunk-*")
    text = path.read_text()
    path.write_text(
        {
            "cut": text[:-20],
            "line": text.replace('"pixels"', "pixels", 1),
            "image": text.replace("001.png", "xyz.png"),
            "long": text + "{}\n",
        }[damage]
    )
    with pytest.raises(RunFolderError, match=r"chunk-00000-of-00001.jsonl: .*delete it and run"):
        list(run.scenes(graph))
    next(Path(run.path).glob("stages/sum/*/chunk-*")).unlink()
    with pytest.raises(RunFolderError, match="delete it and run"):
        run_local(run, graph, processes=1)
    path.unlink()
    run_local(run, graph, processes=1)
    assert path.read_text() == text


def test_status_and_progress(tmp_path: Path) -> None:
    run = make_run(tmp_path, 10, chunk_size=4)
    graph = toy_graph()
    events: list[StageProgress] = []
    run_local(run, graph.with_inputs_of("size"), processes=1, on_progress=events.append)
    assert [(item.stage, item.images, item.total) for item in events] == [
        ("image", 0, 11),
        ("size", 0, 11),
        *((stage, images, 11) for images in (4, 8, 11) for stage in ("image", "size")),
    ]
    status = {stage.name: stage for stage in run.status(graph)}
    assert status["size"] == StageStatus(
        "size",
        graph.fingerprints["size"],
        total=11,
        done=10,
        rejected=1,
        seconds=status["size"].seconds,
    )
    assert status["sum"].missing == 11
    # Statistics may be lost; counts are those of the sections then.
    for path in Path(run.path).glob("statistics/size/*/*"):
        path.unlink()
    assert run.status(graph)[1] == replace(status["size"], seconds=0.0)
    events.clear()
    run_local(run, graph, processes=1, on_progress=events.append)
    assert events[0].images == 11
    assert {item.stage for item in events[4:]} == {"mean/colour", "sum"}


def test_a_run_in_a_bucket(tmp_path: Path, bucket: epath.Path) -> None:
    local = make_run(tmp_path, 10, names=["a b/ü.png"], chunk_size=4)
    run_local(local, toy_graph(), processes=1)
    upload_folder(tmp_path / "photos", bucket / "photos", last="")
    photos = str(bucket / "photos")
    images = list(scan_images(photos))
    assert {image.image_id for image in images} == {scene.image_id for scene in local.scenes()}
    run = AnnotationRun.create(bucket / "run", images, photos, 4)
    result = run_local(run, toy_graph(), processes=1)
    assert result.complete
    assert run_local(run, toy_graph(), processes=1).computed_chunks == 0
    assert list(run.scenes()) == list(local.scenes())
    assert run.status() == [
        replace(stage, seconds=other.seconds)
        for stage, other in zip(local.status(), run.status(), strict=True)
    ]
    with pytest.raises(RunFolderError, match="another list of images"):
        AnnotationRun.create(bucket / "run", images[1:], photos)


# ------------------------------------------------------------ cost


def _trivial(images: Sequence[StageImage]) -> list[dict[str, Any]]:
    return [{"n": 1} for _ in images]


def _trivial_graph() -> StageGraph:
    stages = [Stage(name="s0", process=_trivial)]
    stages += [
        Stage(name=f"s{i}", inputs=(f"s{i - 1}",), process=_trivial, batch_size=100)
        for i in range(1, 5)
    ]
    return StageGraph(stages)


def test_reading_a_stream_of_scenes_holds_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = write_photographs(tmp_path / "photos", 30)
    run = AnnotationRun.create(tmp_path / "run", scan_images(photographs), photographs, 10)
    graph = _trivial_graph()
    run_local(run, graph, processes=1)
    scenes = run.scenes(graph)
    decoded = []
    original = chunks._decode_line
    monkeypatch.setattr(chunks, "_decode_line", lambda *x: decoded.append(1) or original(*x))
    assert next(scenes).image_id == "000.png"
    assert len(decoded) == 5
    assert next(scenes).image_id == "001.png"
    assert len(decoded) == 10
    scenes.close()  # pyright: ignore[reportAttributeAccessIssue]


# ------------------------------------------------------------ parsed sections


def _parsed(section: dict[str, Any]) -> tuple[int, ...]:
    return tuple(section["numbers"])


def _make_numbers(parses: list[int], wrong: bool, images: Sequence[StageImage]) -> Any:
    numbers = (1, 2)
    value = [1, 2] if wrong else numbers
    return [ParsedSection({"numbers": numbers}, _parsed, value) for _ in images]


def _use_numbers(used: list[int], images: Sequence[StageImage]) -> Any:
    numbers = [image.parse("numbers", _parsed) for image in images]
    used += [id(item) for item in numbers]
    return [{"sum": sum(item or ())} for item in numbers]


def test_a_parsed_section_is_handed_over_and_checked(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5)

    def graph(used: list[int], wrong: bool, version: int) -> StageGraph:
        make = partial(_make_numbers, [], wrong)
        return StageGraph(
            [
                Stage(name="numbers", process=make, version=version),
                Stage(name="sum", inputs=("numbers",), process=partial(_use_numbers, used)),
            ]
        )

    used: list[int] = []
    run_local(run, graph(used, False, 1), processes=1)
    assert len(set(used)) == 1  # the constant itself, not a copy from the file
    assert {scene.sections["sum"]["sum"] for scene in run.scenes()} == {3}
    next(Path(run.path).glob("stages/sum/*/chunk-*")).unlink()
    run_local(run, graph(used, False, 1), processes=1)
    assert len(set(used)) > 1
    assert {scene.sections["sum"]["sum"] for scene in run.scenes()} == {3}
    run_local(run, graph([], True, 2), processes=1)
    assert next(run.scenes()).errors["numbers"] == StageError(
        "output", "the parsed form of the section is not equal to it"
    )
