"""A file or a folder is either complete or does not exist."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from unittest import mock

import pytest

from glamm_jax.errors import FolderError
from glamm_jax.files import FileLock, atomic_folder, write_atomic


@pytest.mark.parametrize("content", ["ä line\n", b"\x00\xff"])
def test_text_and_bytes_are_written_in_folders_made_for_them(tmp_path, content):
    path = tmp_path / "a" / "b"
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["b"]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with (
        mock.patch("os.replace", side_effect=OSError("full")),
        pytest.raises(OSError, match="full"),
    ):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def test_a_folder_that_breaks_off_leaves_nothing_behind(tmp_path):
    def break_off() -> None:
        with atomic_folder(tmp_path / "m") as partial:
            (partial / "config.json").write_text("{}")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        break_off()
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_touched(tmp_path):
    (tmp_path / "m" / "deep").mkdir(parents=True)
    with pytest.raises(FolderError, match="m: exists already"), atomic_folder(tmp_path / "m"):
        pass
    assert (tmp_path / "m" / "deep").is_dir()


def test_a_folder_that_cannot_fit_is_refused_before_the_work(tmp_path):
    message = r"m: 1000000000\.0 GB are needed, .* GB are free there"
    with pytest.raises(FolderError, match=message), atomic_folder(tmp_path / "m", 10**18):
        raise AssertionError("nothing may be written")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_swept_away(tmp_path):
    (tmp_path / ".m.partial" / "deep").mkdir(parents=True)
    with atomic_folder(tmp_path / "m") as partial:
        assert not list(partial.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


SLOW_WRITER = """
import sys, time
from glamm_jax.files import atomic_folder
with atomic_folder(sys.argv[1]) as partial:
    (partial / "config.json").write_text("{}")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path):
    target = tmp_path / "model"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(target)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {".model.partial", ".model.lock"}
    with atomic_folder(target):  # the lock ended with its process
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_two_writers_of_one_folder_are_not_mixed(tmp_path):
    with atomic_folder(tmp_path / "m") as partial:
        (partial / "file").write_text("first")
        message = rf"m: is being written by process {os.getpid()} on host {socket.gethostname()}"
        with pytest.raises(FolderError, match=message), atomic_folder(tmp_path / "m"):
            raise AssertionError("nothing may be written")
    assert (tmp_path / "m" / "file").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_files_are_synchronised_before_they_get_their_name(tmp_path):
    synced = []
    original, link = os.fsync, "/proc/self/fd/{}"

    def record(descriptor):
        synced.append(os.path.basename(os.readlink(link.format(descriptor))))
        original(descriptor)

    with mock.patch("os.fsync", record):
        write_atomic(tmp_path / "file", "x")
        with atomic_folder(tmp_path / "m") as partial:
            (partial / "deep").mkdir()
            (partial / "deep" / "weights").write_text("x")
    assert synced[0].startswith("file.tmp-")
    assert synced[1] == tmp_path.name
    assert {"weights", "deep", ".m.partial"} <= set(synced[2:-1])
    assert synced[-1] == tmp_path.name


def test_a_lock_can_be_waited_for_and_taken_again(tmp_path):
    lock = FileLock(tmp_path / "lock", "it")
    timer = threading.Timer(0.3, lock.close)
    timer.start()
    with FileLock(tmp_path / "lock", "it", wait=True):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())
    timer.join()
    assert not list(tmp_path.iterdir())


def test_without_file_locks_the_file_itself_is_the_lock(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    host, ended = socket.gethostname(), int(process.stdout)
    with mock.patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, "no locks")):
        with FileLock(path, "it"), pytest.raises(FolderError, match="it: is being written by"):
            FileLock(path, "it")
        path.write_text(f"{host} {ended} 2026-01-01T00:00:00\n")  # of a killed process
        FileLock(path, "it").close()
        path.write_text(f"elsewhere {ended} 2026-01-01T00:00:00\n")
        with pytest.raises(FolderError, match=rf"process {ended} on host elsewhere .*lock file"):
            FileLock(path, "it")
