"""Processes join, are refused by name, wait for each other, and learn who was lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from glamm_jax.parallel import initialize_processes
from glamm_jax.process_group import ProcessError, ProcessGroup, ProcessIdentity, join_processes
from tests.free_port import free_port

SAME = ProcessIdentity("train", {"jax": "1", "steps": "5"})


NO_DIFFERENCE: Mapping[int, ProcessIdentity] = {}


@contextmanager
def joining(
    count: int,
    indices: list[int],
    identities: Mapping[int, ProcessIdentity] = NO_DIFFERENCE,
    timeout: float = 20,
) -> Iterator[list[Future[ProcessGroup]]]:
    """Join in threads instead of processes, and close all connections at the end."""
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor(len(indices)) as pool:
        started = [
            pool.submit(join_processes, address, count, index, identities.get(index, SAME), timeout)
            for index in indices
        ]
        yield started
    for each in started:
        with suppress(ProcessError):
            each.result().close()


def error_of(joined: Future[ProcessGroup]) -> str:
    with pytest.raises(ProcessError) as raised:
        joined.result()
    return str(raised.value)


def test_processes_join_in_any_order_and_wait_for_each_other() -> None:
    with joining(3, [2, 0, 1]) as started:
        groups = [each.result() for each in started]
        assert [(group.index, group.count) for group in groups] == [(2, 3), (0, 3), (1, 3)]
        order: list[str] = []

        def late() -> None:
            order.append("late")
            groups[0].barrier("x")

        timer = threading.Timer(0.2, late)
        timer.start()
        with ThreadPoolExecutor(2) as pool:
            for each in pool.map(lambda group: group.barrier("x"), groups[1:]):
                assert each is None and order == ["late"]
        with ThreadPoolExecutor(3) as pool:
            [*pool.map(ProcessGroup.leave, groups)]
        assert not any(group.loss for group in groups)


def test_the_error_after_the_timeout_counts_who_joined_in_every_process() -> None:
    with joining(4, [0, 2], timeout=0.5) as started:
        for each in started:
            message = error_of(each)
            assert "2 of 4 processes joined within 0.5 s; missing: 1, 3" in message


def test_without_process_0_the_error_names_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glamm_jax.process_group.GRACE_SECONDS", 0.0)
    with joining(2, [1], timeout=0.3) as started:
        assert "process 0 at localhost:" in error_of(started[0])


def test_another_command_is_refused_with_what_differs() -> None:
    others = {
        1: ProcessIdentity("eval", SAME.settings),
        2: ProcessIdentity("train", {"jax": "1", "steps": "6"}),
    }
    with joining(3, [0, 1, 2], others, timeout=1) as started:
        first, program, setting = map(error_of, started)
        assert "runs eval, process 0 runs train" in program
        assert "has steps = 6, process 0 has 5; start all with the same command" in setting
        assert "1 of 3 processes joined" in first and "The last one refused: process" in first


def test_the_same_number_twice_is_refused() -> None:
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(join_processes, address, 3, 0, SAME, 2)
        twice = [pool.submit(join_processes, address, 3, 1, SAME, 2) for _ in range(2)]
        messages = [error_of(each) for each in twice]
        refused = [message for message in messages if message.startswith("process 1 (")]
        assert len(refused) == 1 and refused[0].endswith("has --process 1 already")
        assert "2 of 3 processes joined" in error_of(first)


def test_a_stranger_on_the_port_is_ignored() -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(join_processes, f"localhost:{port}", 2, 0, SAME, 20)
        while True:
            with (
                suppress(ConnectionRefusedError),
                socket.create_connection(("localhost", port)) as s,
            ):
                s.sendall(b"GET / HTTP/1.1\n\n")
                assert not s.recv(100)
                break
        second = pool.submit(join_processes, f"localhost:{port}", 2, 1, SAME, 20)
        for each in (first, second):
            each.result().close()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_others_learn_who_was_lost(lost: int) -> None:
    with joining(3, [0, 1, 2]) as started:
        groups = [each.result() for each in started]
        others = [group for group in groups if group.index != lost]
        told: dict[int, str] = {}
        complete = threading.Event()

        def tell(index: int, message: str) -> None:
            told[index] = message
            if len(told) == 2:
                complete.set()

        for group in others:
            group.watch(lambda message, index=group.index: tell(index, message))
        groups[lost]._loss = "killed"  # a killed process tells nobody
        for connection in groups[lost]._connections.values():
            connection.close()
        assert complete.wait(5)
        assert all(message.startswith(f"process {lost} (") for message in told.values())
        with pytest.raises(ProcessError, match="was lost"):
            others[1].barrier("never")


def test_an_error_of_one_process_reaches_all_others() -> None:
    with joining(3, [0, 1, 2]) as started:
        groups = [each.result() for each in started]
        groups[2].fail("the disk is full")
        for group in groups[:2]:
            told = threading.Event()
            group.watch(lambda _, told=told: told.set())
            assert told.wait(5) and "the disk is full" in group.loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", None, None), "--coordinator without --processes and --process"),
        ((None, 2, None), "--processes without --coordinator and --process"),
        ((None, 2, 0), "--processes and --process without --coordinator"),
        (("host:1", 2, 2), "--process 2 of --processes 2: it must be 0 to 1"),
        (("host:1", 0, 0), "--processes must be at least 1"),
        (("host:1", 2, -1), "--process at least 0"),
        (("host", 2, 0), "--coordinator host: not HOST:PORT"),
        (("host:99999", 2, 0), "not HOST:PORT"),
    ],
)
def test_inconsistent_flags_are_refused_by_name(
    arguments: tuple[str | None, int | None, int | None], message: str
) -> None:
    with pytest.raises(ProcessError, match=message.replace("(", r"\(")):
        initialize_processes(*arguments)


def test_a_single_process_needs_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    assert initialize_processes() is None
    assert initialize_processes(num_processes=1) is None
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    with pytest.raises(ProcessError, match="JAX_COORDINATOR_ADDRESS is set, but no cluster"):
        initialize_processes()


def test_the_processes_of_slurm_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_NODES": "2",
    }
    # The other tests of this process must not wait for these processes.
    monkeypatch.setattr("glamm_jax.parallel._group", None)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("SLURM_PROCID", "0")
        with pytest.raises(ProcessError, match=r"1 of 2 processes joined .* missing: 1\."):
            initialize_processes(timeout=0.3, share_devices=False)
        port = free_port()
        monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
        address = f"localhost:{port}"
        other = pool.submit(join_processes, address, 2, 1, ProcessIdentity("", {}), 20)
        group = initialize_processes(timeout=20, share_devices=False)
        assert group is not None and (group.index, group.count) == (0, 2)
        other.result().close()
        group.close()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert initialize_processes() is None
