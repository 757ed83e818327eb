"""Paths in buckets: which are accepted, conditional writes, appending, moving, locks."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from glamm_jax import bucket_lock
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder, lock_path, write_atomic
from glamm_jax.line_log import open_log
from glamm_jax.storage import (
    ConditionError,
    StorageError,
    append,
    delete,
    local_path,
    move_folder,
    object_info,
    objects_below,
    put,
    read_range,
    to_path,
)


def test_a_path_of_this_machine_and_of_a_bucket_have_their_class() -> None:
    assert to_path("runs/tiny") == Path("runs/tiny")
    assert to_path("C:run") == Path("C:run")
    path = to_path("gs://bucket/run/")
    assert isinstance(path, epath.Path)
    assert str(path / "a.json") == "gs://bucket/run/a.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://bucket/run", "s3:// is not supported"),
        ("hf://org/model", "hf:// is not supported"),
        ("file:///tmp/run", "file:// is not supported"),
        ("https://huggingface.co/org/model", "https:// is not supported"),
        ("gs:/bucket/run", "no bucket"),
        ("gs://", "no bucket"),
        ("gs:///run", "no bucket"),
        ("gs://Bucket!/run", "no bucket"),
    ],
)
def test_what_names_no_bucket_is_refused(text: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        to_path(text)


@pytest.mark.parametrize("text", ["gs://bucket/run", "gs:/bucket/run", "s3://bucket/run"])
def test_a_path_of_this_machine_is_never_in_a_bucket(text: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be in a bucket|not supported"):
        local_path(text)


def test_objects_are_written_read_and_compared(bucket: epath.Path) -> None:
    path = bucket / "a" / "b.txt"
    assert object_info(path) is None
    generation = put(path, b"0123456789", generation=0)
    info = object_info(path)
    assert info is not None
    assert (info.size, info.generation) == (10, generation)
    assert read_range(path, 2, 5) == b"234"
    with pytest.raises(StorageError, match="truncated"):
        read_range(path, 8, 12)
    with pytest.raises(ConditionError, match="another process"):
        put(path, b"x", generation=0)
    with pytest.raises(ConditionError):
        put(path, b"x", generation=generation + 1)
    assert put(path, b"x", generation=generation) != generation
    assert [*objects_below(bucket)] == ["a/b.txt"]
    delete(path)
    delete(path)
    assert object_info(path) is None


def test_a_missing_bucket_is_named(bucket: epath.Path) -> None:
    with pytest.raises(StorageError, match="there is no bucket no-such-bucket"):
        write_atomic(epath.Path("gs://no-such-bucket/run/config.json"), "{}")


def test_what_another_process_has_written_is_not_appended_to(bucket: epath.Path) -> None:
    path = bucket / "log"
    first = append(path, b"one\n")
    second = append(path, b"two\n", first)
    assert path.read_bytes() == b"one\ntwo\n"
    put(path, b"other\n")
    with pytest.raises(ConditionError):
        append(path, b"three\n", second)
    assert path.read_bytes() == b"other\n"
    assert [*objects_below(bucket)] == ["log"]


def test_lines_of_a_log_are_in_the_bucket_after_flush(bucket: epath.Path) -> None:
    log = open_log(bucket / "metrics.jsonl")
    for number in range(3):
        log.write(f"line {number}")
    log.flush()
    log.write("line 3")
    assert (bucket / "metrics.jsonl").read_text().splitlines() == ["line 0", "line 1", "line 2"]
    log.close()
    again = open_log(bucket / "metrics.jsonl")
    again.write("line 4")
    again.close()
    assert (bucket / "metrics.jsonl").read_text().count("\n") == 5


def test_a_folder_is_moved_with_its_marker_last(bucket: epath.Path) -> None:
    for name in ("x/1", "x/2", "done"):
        put(bucket / "old" / name, name.encode())
    move_folder(bucket / "old", bucket / "new" / "place", "done")
    assert sorted(objects_below(bucket)) == ["new/place/done", "new/place/x/1", "new/place/x/2"]
    assert (bucket / "new" / "place" / "x" / "2").read_bytes() == b"x/2"


def test_a_folder_is_uploaded_with_its_last_file_at_the_end(bucket: epath.Path) -> None:
    with atomic_folder(bucket / "model", last="config.json") as folder:
        for name in ("config.json", "a.bin", "z.bin"):
            (folder / name).write_text(name)
        assert not objects_below(bucket / "model")
    objects = objects_below(bucket / "model")
    assert max(objects, key=lambda name: objects[name].generation) == "config.json"
    assert (bucket / "model" / "z.bin").read_text() == "z.bin"
    with (
        pytest.raises(FolderError, match="exists already"),
        atomic_folder(bucket / "model", last="config.json"),
    ):
        pass
    delete(bucket / "model" / "config.json")
    with (
        pytest.raises(FolderError, match="2 files, but no config"),
        atomic_folder(bucket / "model", last="config.json"),
    ):
        pass


def test_a_failed_folder_leaves_nothing_in_the_bucket(bucket: epath.Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="missing"),
        atomic_folder(bucket / "m", last="c") as folder,
    ):
        (folder / "c").write_text((folder / "missing").read_text())
    assert not objects_below(bucket)


def test_a_lock_in_a_bucket_excludes_others_until_it_is_released(
    bucket: epath.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(bucket_lock, "POLL_SECONDS", 0.05)
    with lock_path(bucket / "lock", "the run") as lock:
        with pytest.raises(FolderError, match="the run: is being written by process"):
            lock_path(bucket / "lock", "the run")
        lock.check()
    assert "waiting for up to 60 s" in capsys.readouterr().err
    assert object_info(bucket / "lock") is None
    lock_path(bucket / "lock", "the run").close()


def test_the_lock_of_an_ended_process_is_taken_over(
    bucket: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    put(bucket / "lock", f"{host} {ended.pid} 2026-01-01\n".encode())
    lock_path(bucket / "lock", "the run").close()  # of this host: at once
    monkeypatch.setattr(bucket_lock, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(bucket_lock, "POLL_SECONDS", 0.05)
    put(bucket / "lock", f"another-host {ended.pid} 2026-01-01\n".encode())
    lock_path(bucket / "lock", "the run").close()  # of another one: after its lease


def test_a_lock_that_another_process_took_is_lost(
    bucket: epath.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "RENEW_SECONDS", 0.05)
    lock = lock_path(bucket / "lock", "the run")
    put(bucket / "lock", b"another-host 1 2026-01-01\n")
    lock._thread.join(timeout=30)
    with pytest.raises(FolderError, match="another process has taken over"):
        lock.check()
    lock.close()
    assert object_info(bucket / "lock") is not None
