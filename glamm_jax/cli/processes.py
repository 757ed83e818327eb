"""Several processes of a program: their flags, their output, and how they end together.

Process 0 prints on its terminal. The others print into LOGS/process-003.log, and what libraries
print from C++ goes into these files in process 0, too. When a process is killed, or ends with an
error, all others end with one line that says which, and with status 3.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import glamm_jax
from glamm_jax.process_group import (
    JOIN_TIMEOUT,
    LOGS,
    ProcessError,
    ProcessGroup,
    ProcessIdentity,
)
from glamm_jax.storage import AnyPath

LOST = 3  # exit status if another process was lost or failed
LOSS_SECONDS = 3.0  # after an error, until the loss of a process that caused it is known
ABORT_SECONDS = 5.0  # the same, when JAX ends this process
# Flags that differ between the processes of a program.
OWN_FLAGS = ("coordinator", "processes", "process", "join_timeout")


@dataclass(frozen=True)
class _Running:
    """This process among those of the program.

    Attributes:
        group: all processes.
        program: name of the command.
        terminal: file descriptor of the stderr that the process was started with.
        log: file with its further output.
    """

    group: ProcessGroup
    program: str
    terminal: int
    log: Path

    def report(self, text: str, on_terminal: bool) -> None:
        """Write a line to the log, and to the terminal; not through buffers that may be locked."""
        line = f"{self.program}: {text}\n".encode("utf-8", "replace")
        os.write(2, line)
        if on_terminal:
            os.write(self.terminal, line)

    def end(self, status: int) -> None:
        """End this process at once, without waiting for threads or for other processes."""
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(1.0)
        os._exit(status)

    def on_loss(self, message: str) -> None:
        """End this process, because another one was lost."""
        is_error = "ended with an error" in message  # which the same command may meet again
        text = f"{message}. All processes end" + (
            "" if is_error else "; the same command continues"
        )
        self.report(text, on_terminal=self.group.index == 0 or message.startswith("process 0 "))
        self.end(LOST)

    def on_abort(self, number: int) -> None:
        """End this process when a library aborts it: JAX does when it loses another process."""
        time.sleep(ABORT_SECONDS)  # meanwhile `on_loss` knows better which
        self.report(f"a library ended process {self.group.index}; see {self.log}", on_terminal=True)
        self.end(LOST)


_running: _Running | None = None
_abort_handler: Any = None  # kept alive for C


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `start_processes` reads."""
    group = parser.add_argument_group(
        "several processes",
        "One process on each host of a TPU pod or slice, on GKE, Slurm and Open MPI: no flags. "
        "Elsewhere start the same command on every host with these flags, the last with another "
        "number. Process 0 prints; the others print into logs/process-I.log in the output folder. "
        "If one of them ends, all end, with status 3; the same command continues.",
    )
    add = group.add_argument
    add("--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port")
    add(
        "--processes",
        type=int,
        metavar="N",
        help="number of processes; 1: do not look for others",
    )
    add("--process", type=int, metavar="I", help="number of this process, from 0")
    add(
        "--join-timeout",
        type=float,
        default=JOIN_TIMEOUT,
        metavar="SECONDS",
        help="wait so long for all processes at the start (%(default)g)",
    )


def start_processes(
    program: str,
    options: argparse.Namespace,
    out: AnyPath | str | None,
    settings: Mapping[str, Any] = {},
    share_devices: bool = True,
) -> ProcessGroup | None:
    """Join the other processes of the program, if there are any, and redirect the output.

    Args:
        program: name of the command.
        options: the parsed command line; all processes must have the same, except `OWN_FLAGS`.
        out: folder of the output, for the log files.
        settings: what must be equal in all processes, besides the options.
        share_devices: join the devices, for computations over all of them.

    Returns:
        The processes; None if there is only this one.

    Raises:
        ProcessError: the flags are inconsistent, or some process did not join in time.
    """
    from glamm_jax.parallel import initialize_processes  # imports jax

    if options.join_timeout <= 0:
        raise ProcessError("--join-timeout must be above 0")
    common = {name: value for name, value in vars(options).items() if name not in OWN_FLAGS}
    versions = {"glamm_jax": glamm_jax.__version__, "jax": version("jax")}
    identity = ProcessIdentity(
        program, {name: str(value) for name, value in {**versions, **common, **settings}.items()}
    )
    group = initialize_processes(
        options.coordinator,
        options.processes,
        options.process,
        identity,
        options.join_timeout,
        share_devices,
    )
    if group is not None:
        _run_together(group, program, _log_folder(out))
    return group


def _run_together(group: ProcessGroup, program: str, logs: Path) -> None:
    global _running, _abort_handler
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"process-{group.index:03d}.log"
    terminal = _redirect_output(log, keep_terminal=group.index == 0)
    _running = _Running(group, program, terminal, log)
    # A handler in Python code of `signal` would not run: abort() returns to no interpreter.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_running.on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)
    group.watch(_running.on_loss)
    print(f"{program}: {group.count} processes; their output: {logs}", flush=True)


def are_running() -> bool:
    """Whether this process is one of several."""
    return _running is not None


def wait_for_loss() -> None:
    """After an error, give the loss of a process that caused it time to end this process."""
    if _running is not None:
        time.sleep(LOSS_SECONDS)


def end_processes(status: int, reason: str = "") -> int:
    """End this process together with the others, if there are any.

    Args:
        status: exit status of this process.
        reason: why it ends with an error; the others end as well. Without one they are waited for.

    Returns:
        The exit status; does not return after an error.
    """
    global _running
    running = _running
    if running is None:
        return status
    group = running.group
    if reason:
        if group.index > 0:
            os.write(running.terminal, f"{running.program}: {reason}\n".encode("utf-8", "replace"))
        group.fail(reason)
        running.end(status)
    group.leave()
    if "jax" in sys.modules:
        import jax

        jax.distributed.shutdown()
    group.close()
    _running = None
    return status


def _log_folder(out: AnyPath | str | None) -> Path:
    """Return the folder of the log files; for output in a bucket, one on this host."""
    if out is None or "://" in str(out):
        return Path(tempfile.gettempdir()) / "glamm-jax-logs"
    return Path(out) / LOGS


def _redirect_output(log: Path, keep_terminal: bool) -> int:
    """Redirect stdout and stderr to a file, also for C++ and child processes.

    Args:
        log: the file; it is appended to.
        keep_terminal: Python's own `sys.stdout` and `sys.stderr` stay as they were.

    Returns:
        A file descriptor of the stderr of before.
    """
    _flush()
    terminal = os.dup(2)
    if keep_terminal:
        sys.stdout = _text_stream(os.dup(1), sys.stdout)
        sys.stderr = _text_stream(os.dup(2), sys.stderr)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    os.write(descriptor, f"--- {now} process {os.getpid()}\n".encode())
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    if not keep_terminal:
        sys.stdout = _text_stream(os.dup(1), sys.stdout)
        sys.stderr = _text_stream(os.dup(2), sys.stderr)
    return terminal


def _text_stream(descriptor: int, like: TextIO) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding=like.encoding, errors=like.errors)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
