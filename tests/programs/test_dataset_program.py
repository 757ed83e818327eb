"""`glamm-jax convert dataset`: processes, interruptions, exit statuses and output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.cli.convert import main
from glamm_jax.data.record_shards import RecordShards, ShardError
from glamm_jax.data.shard_processes import map_shards
from glamm_jax.data.split_folder import ConversionError
from tests.conftest import ROOT
from tests.data.records import jpeg
from tests.free_port import free_port

NUM_IMAGES, NUM_SHARDS = 120, 30


def dataset(*arguments: object) -> int:
    return main(["dataset", *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of JSON lines with 120 images, of which 3 is truncated and 7 is a text file."""
    folder = tmp_path_factory.mktemp("lines")
    items = []
    for i in range(NUM_IMAGES):
        (folder / f"{i}.jpg").write_bytes(jpeg(24, 32, (i, 2 * i, 255 - i)))
        caption, expression = (
            {"captions": [f"Picture {i}."]},
            {"text": "it", "masks": [[[1, 1, 9, 1, 9, 9]]]},
        )
        items.append({"image": f"{i}.jpg", **caption, "expressions": [expression]})
    (folder / "3.jpg").write_bytes(jpeg(24, 32)[:-10])
    (folder / "7.jpg").write_text("a text")
    path = folder / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, items)))
    return path


@pytest.fixture(scope="module")
def undisturbed(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one process writes."""
    out = tmp_path_factory.mktemp("undisturbed")
    arguments = ("--shards", NUM_SHARDS, "--workers", 1)
    assert dataset("jsonl", "--source", lines, "--out", out, *arguments) == 0
    return files(out)


def test_two_processes_write_the_same_bytes_as_one(
    lines: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = ("--shards", NUM_SHARDS, "--workers", 2)
    assert dataset("jsonl", "--source", lines, "--out", tmp_path, *arguments) == 0
    assert files(tmp_path) == undisturbed


def test_processes_of_several_hosts_divide_the_shards_and_write_the_same_bytes(
    lines: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "convert", "dataset", "jsonl", "--source", str(lines)),
        *("--out", str(tmp_path), "--shards", str(NUM_SHARDS), "--workers", "1"),
        *("--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process"),
    ]
    hosts = [
        subprocess.Popen(
            [*command, str(index)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        first, second = (host.communicate(timeout=600)[0] for host in hosts)
        assert [host.returncode for host in hosts] == [0, 0], first + second
    finally:
        for host in hosts:
            host.kill()
    assert "118 records of 120 images" in first and not second
    written = files(tmp_path)
    assert {name for name in written if name.startswith("logs/")} == {
        "logs/process-000.log",
        "logs/process-001.log",
    }
    assert {x: y for x, y in written.items() if not x.startswith("logs/")} == undisturbed


def test_what_was_done_and_what_was_wrong_is_printed(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset("jsonl", "--source", lines, "--out", tmp_path, "--workers", 1) == 0
    out = capsys.readouterr().out
    assert "118 records of 120 images: referring 118, caption 118" in out
    assert "118 regions, 118 with a mask, 0 with a box" in out
    assert re.search(
        r"2  unreadable image +many.jsonl line \d: \d.jpg: .*not a readable image", out
    )
    assert f"all defects by name: {tmp_path}/glamm_many/1.0.0/defects-train.json" in out
    assert f"{tmp_path}/glamm_many/1.0.0: 1 shards, " in out


def _shards(out: Path) -> list[Path]:
    return [path for path in out.rglob("*.array_record-*") if ".tmp-" not in path.name]


def _kill_when_some_are_written(command: list[str], out: Path) -> list[Path]:
    """Kill the program; returns the files in /proc of the processes that it had."""
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while len(_shards(out)) < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(running.pid, signal.SIGKILL)
    return [Path(f"/proc/{child}/stat") for child in children]


def _is_alive(process: Path) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return process.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_conversion_goes_on_and_loses_nothing(
    processes: int, lines: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = ["--source", lines, "--out", tmp_path, "--shards", NUM_SHARDS]
    words = [*("dataset", "jsonl"), *arguments, "--workers", processes]
    command = [sys.executable, "-m", "convert", *map(str, words)]
    children = _kill_when_some_are_written(command, tmp_path)
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_alive, children)), "processes of a killed conversion live on"
    written = {path: path.stat().st_mtime_ns for path in _shards(tmp_path)}
    assert 3 <= len(written) < NUM_SHARDS
    with pytest.raises(ShardError, match=r"no dataset_info\.json.*run the same command again"):
        RecordShards(tmp_path / "glamm_many/1.0.0", "train")
    assert main(list(map(str, words))) == 0
    assert files(tmp_path) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in written} == written
    names = [record.image_id for record in RecordShards(tmp_path / "glamm_many/1.0.0", "train")]
    assert sorted(names) == sorted(f"{i}.jpg" for i in range(NUM_IMAGES) if i not in (3, 7))


def test_strict_leaves_a_dataset_with_defects_unfinished(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("jsonl", "--source", lines, "--out", tmp_path, "--workers", 1)
    assert dataset(*arguments, "--strict") == 1
    assert "not finished, as there are defects (--strict)" in capsys.readouterr().out
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert list(tmp_path.rglob("defects-train.json"))
    assert dataset(*arguments) == 0
    assert len(RecordShards(tmp_path / "glamm_many/1.0.0", "train")) == 118


def test_a_dataset_without_a_single_record_is_not_published(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lost.jsonl").write_text(lines.read_text())
    arguments = ("jsonl", "--source", tmp_path / "lost.jsonl", "--out", tmp_path / "out")
    assert dataset(*arguments, "--workers", 1) == 2
    printed = capsys.readouterr()
    assert "    120  missing image" in printed.out
    assert "no image gave a record" in printed.err
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_checking_names_every_defect_and_writes_nothing(
    lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(lines.parent)
    assert dataset("jsonl", "--source", lines, "--check", "--workers", 1) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("many.jsonl line 4: 3.jpg: ")
    assert out[1].startswith("many.jsonl line 8: 7.jpg: ")
    assert out[-1] == "2 defects"
    assert files(lines.parent) == before


def test_checking_finds_nothing_in_sound_lines(lines: Path, tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg())
    (tmp_path / "one.jsonl").write_text('{"image": "0.jpg", "captions": ["Fine."]}')
    assert dataset("jsonl", "--source", tmp_path / "one.jsonl", "--check") == 0


def test_the_documented_mistakes_get_the_documented_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dog.jpg").write_bytes(jpeg(48, 64))
    box = {"box": [52, 30, 40, 42], "description": "a dog"}
    grounded = {"text": "<p> A dog </p> [SEG]", "masks": ["masks/bal.png"]}
    mistakes: list[dict[str, Any]] = [
        {"captions": ["A dog."]},
        {"grounded_captions": [grounded]},
        {"expresions": [], "captions": ["A dog."]},
        {"regions": [box]},
    ]
    lines = [json.dumps({"image": "dog.jpg", "id": i, **x}) for i, x in enumerate(mistakes)]
    lines.append('{"image": "photos/dog.jpg" "captions": []}')
    (tmp_path / "photos.jsonl").write_text("\n".join(lines))
    assert dataset("jsonl", "--source", tmp_path / "photos.jsonl", "--check") == 1
    page = (ROOT / "docs/your-data.md").read_text("utf-8")
    assert f"```\n{capsys.readouterr().out}```" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense", "--source", "x", "--check"), "no dataset 'nonsense'; available: "),
        (("jsonl", "--source", "nowhere", "--check"), "nowhere: no such folder or file"),
        (("jsonl", "--source", "x"), "give either --out, or --check"),
        (("jsonl", "--source", "x", "--out", "y", "--check"), "give either --out, or --check"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dataset: {message}")


def test_another_conversion_is_not_overwritten_unasked(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("jsonl", "--source", lines, "--out", tmp_path, "--workers", 1)
    assert dataset(*arguments, "--shards", 2) == 0
    assert dataset(*arguments, "--shards", 3) == 2
    assert "num_shards 2, now 3" in capsys.readouterr().err
    assert dataset(*arguments, "--shards", 3, "--overwrite") == 0
    assert len(_shards(tmp_path)) == 3


def test_a_process_that_dies_ends_the_conversion_with_a_word() -> None:
    with pytest.raises(ConversionError, match=r"a process died.*fewer --workers"):
        list(map_shards(_die, [0, 1, 2], 2, lambda count: None))


def _die(index: int, on_key: Any) -> None:
    os._exit(3)
