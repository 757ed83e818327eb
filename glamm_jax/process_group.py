"""The processes of one program on several hosts: joining, barriers, and the loss of one of them.

    group = join_processes("10.0.0.1:8476", count=4, index=2, identity=identity, timeout=300)
    group.watch(on_loss)              # from now on, `on_loss(message)` is called when one is lost
    group.barrier("shards written")
    group.leave()

Process 0 listens on the port of the coordinator until all others have connected, then closes the
listener, so that JAX's own service can have the port; the connections stay. They carry lines of
JSON. A connection that ends without a message is a lost process: the operating system closes it
when a process is killed, and TCP's keep-alive ends it when its host or the network is gone. Process
0 tells the others. JAX itself learns of a loss from missing heartbeats, and ends the process from
C++; what is here is faster, counts who joined, and has a message.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.json_files import JSONError, JSONObject, parse_json

PROTOCOL = 1
LOGS = "logs"  # folder of the output of several processes, in the folder of the run
MAX_LINE_BYTES = 1 << 20
JOIN_TIMEOUT = 300.0  # seconds that a process waits until all have joined
RETRY_SECONDS = 0.2  # between two attempts to connect
GRACE_SECONDS = 10.0  # that a process waits longer than process 0, which reports who is missing
# TCP's keep-alive: a host that does not answer is lost after 10 + 4 * 5 seconds.
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
END = "end"  # the barrier of `leave`


class ProcessError(GLaMMError):
    """The processes of a program cannot work together."""


@dataclass(frozen=True)
class ProcessIdentity:
    """What all processes of a program must have in common.

    Attributes:
        program: name of the command.
        settings: {name: value} of everything that determines what it does, with versions.
    """

    program: str
    settings: Mapping[str, str]

    def difference(self, other: Mapping[str, Any]) -> str:
        """Describe how another process differs, "" for not at all."""
        if other.get("program") != self.program:
            return f"runs {other.get('program')}, process 0 runs {self.program}"
        settings = other.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        for name in sorted({*self.settings, *settings}):
            own, its = self.settings.get(name), settings.get(name)
            if own != its:
                return f"has {name} = {its}, process 0 has {own}"
        return ""


class _Connection:
    """Lines of JSON over a socket."""

    def __init__(self, stream: socket.socket):
        stream.settimeout(None)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # not on every operating system
                stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket, self._received = stream, bytearray()
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Send a message; if the other side is gone, its reader notices."""
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> JSONObject | None:
        """Return the next message; None at the end, or if it is none."""
        try:
            while (length := self._received.find(b"\n")) < 0:
                part = self._socket.recv(1 << 16)
                if not part or len(self._received) > MAX_LINE_BYTES:
                    return None
                self._received += part
            line = bytes(self._received[:length])
            del self._received[: length + 1]
            return JSONObject(parse_json(line, "message"), "message")
        except (OSError, JSONError):
            return None

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed the connection; only while nothing is received."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection; a thread that receives from it gets None."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class ProcessGroup:
    """All processes of a program, seen by one of them; `join_processes` makes it.

    Attributes:
        index: of this process.
        count: of all processes.
    """

    def __init__(self, index: int, count: int, hosts: Mapping[int, str]):
        self.index, self.count = index, count
        self._hosts = dict(hosts)  # by process; process 0 knows all, the others only process 0
        self._connections: dict[int, _Connection] = {}
        self._state = threading.Condition()
        self._arrived: dict[str, set[int]] = {}  # barrier -> processes
        self._released: set[str] = set()
        self._on_loss: Callable[[str], None] | None = None
        self._loss = ""

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """Call a function, in a thread of its own, when another process is lost or fails.

        Args:
            on_loss: takes a message that names the process. It is called at most once, at once if
                a process was lost already.
        """
        with self._state:
            self._on_loss = on_loss
            loss = self._loss
        if loss:
            threading.Thread(target=on_loss, args=(loss,), daemon=True).start()

    @property
    def loss(self) -> str:
        """Which process was lost, "" for none."""
        with self._state:
            return self._loss

    def barrier(self, name: str) -> None:
        """Wait until all processes have called this with this name, which is used once.

        Raises:
            ProcessError: another process was lost.
        """
        if self.index == 0:
            self._arrive(name, 0)
        else:
            self._connections[0].send(barrier=name)
        with self._state:
            self._state.wait_for(lambda: name in self._released or self._loss)
            if name not in self._released:
                raise ProcessError(self._loss)

    def leave(self) -> None:
        """Wait until all processes have finished.

        Raises:
            ProcessError: another process was lost.
        """
        self.barrier(END)

    def fail(self, reason: str) -> None:
        """Tell the others that this process ends with an error."""
        text = f"process {self.index} ({socket.gethostname()}) ended with an error: {reason}"
        with self._state:
            self._on_loss = None  # this process reports its own error
        for connection in [*self._connections.values()]:
            connection.send(failed=text)

    def close(self) -> None:
        """Close the connections."""
        with self._state:
            self._released.add(END)
        for connection in self._connections.values():
            connection.close()

    def _read(self, process: int, connection: _Connection) -> None:
        """Handle the messages of a connection until it ends; runs in a thread."""
        while (message := connection.receive()) is not None:
            fields = message.fields
            if "barrier" in fields:
                self._arrive(str(fields["barrier"]), process)
            elif "release" in fields:
                with self._state:
                    self._released.add(str(fields["release"]))
                    self._state.notify_all()
            elif "failed" in fields:
                self._lose(str(fields["failed"]))
        with self._state:
            is_expected = END in self._released
        if not is_expected:
            host = self._hosts.get(process, "")
            self._lose(f"process {process} ({host}) was lost: its connection ended")

    def _arrive(self, name: str, process: int) -> None:
        """Count a process at a barrier, in process 0, and release all when they are complete."""
        with self._state:
            arrived = self._arrived.setdefault(name, set())
            arrived.add(process)
            if len(arrived) < self.count:
                return
            self._released.add(name)
            self._state.notify_all()
        for connection in self._connections.values():
            connection.send(release=name)

    def _lose(self, message: str) -> None:
        with self._state:
            if self._loss:
                return
            self._loss, on_loss = message, self._on_loss
            self._state.notify_all()
        if self.index == 0:
            for connection in [*self._connections.values()]:
                connection.send(failed=message)
        if on_loss is not None:
            on_loss(message)

    def _start(self, connections: Mapping[int, _Connection]) -> None:
        self._connections.update(connections)
        for process, connection in connections.items():
            threading.Thread(target=self._read, args=(process, connection), daemon=True).start()


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ProcessError: it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProcessError(f"--coordinator {address}: not HOST:PORT, such as 10.0.0.1:8476")
    return host.strip("[]"), int(port)


def join_processes(
    address: str, count: int, index: int, identity: ProcessIdentity, timeout: float
) -> ProcessGroup:
    """Wait until all processes have joined.

    Args:
        address: HOST:PORT of process 0.
        count: number of processes.
        index: of this process.
        identity: which must be the same in all processes.
        timeout: seconds to wait.

    Raises:
        ProcessError: some process did not join in this time, or was started with other arguments.
    """
    if index == 0:
        return _Gathering(address, count, identity).wait(timeout)
    return _join_first(address, count, index, identity, timeout)


class _Gathering:
    """Process 0 while it waits for the others."""

    def __init__(self, address: str, count: int, identity: ProcessIdentity):
        self.address, self.count, self.identity = address, count, identity
        self.joined: dict[int, _Connection] = {}
        self.hosts: dict[int, str] = {0: socket.gethostname()}
        self.state = threading.Condition()
        self.refused = ""  # why the latest one was refused

    def wait(self, timeout: float) -> ProcessGroup:
        """Return the group when all have joined; see `join_processes`."""
        deadline = time.monotonic() + timeout
        with self._listen(deadline) as listener:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            with self.state:
                self.state.wait_for(
                    lambda: len(self.joined) == self.count - 1, deadline - time.monotonic()
                )
                joined = {n: x for n, x in self.joined.items() if x.is_open}
            # A thread that is waiting in accept would keep the port.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        if len(joined) < self.count - 1:
            problem = self._problem(joined, timeout)
            for connection in joined.values():
                connection.send(refused=problem)
                connection.close()
            raise ProcessError(problem)
        group = ProcessGroup(0, self.count, self.hosts)
        group._start(joined)
        for connection in joined.values():
            connection.send(start=True, host=self.hosts[0])
        return group

    def _problem(self, joined: Mapping[int, _Connection], timeout: float) -> str:
        missing = [str(n) for n in range(1, self.count) if n not in joined]
        names = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        text = (
            f"{len(joined) + 1} of {self.count} processes joined within {timeout:g} s; missing: "
            f"{names}. Start each with the same command and its own --process, and check that its "
            f"host reaches {self.address}; --join-timeout is the time to wait"
        )
        return f"{text}. The last one refused: {self.refused}" if self.refused else text

    def _listen(self, deadline: float) -> socket.socket:
        """Open the port; the process of an earlier run may still have it for a moment."""
        _, port = split_address(self.address)
        while True:
            try:
                if socket.has_dualstack_ipv6():
                    return socket.create_server(
                        ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
                    )
                return socket.create_server(("", port), backlog=1024)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"process 0 cannot listen on port {port} ({error.strerror}); choose "
                        "another port for --coordinator"
                    ) from error
                time.sleep(RETRY_SECONDS)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._welcome, args=(stream,), daemon=True).start()

    def _welcome(self, stream: socket.socket) -> None:
        """Read who connects, and add or refuse it. Connections of strangers are dropped."""
        connection = _Connection(stream)
        message = connection.receive()
        if message is None or "process" not in message.fields:
            connection.close()
            return
        with self.state:
            refusal = self._refusal(message.fields)
            if refusal:
                self.refused = refusal
            else:
                process = message.fields["process"]
                self.hosts[process] = str(message.fields.get("host"))
                self.joined[process] = connection
                self.state.notify_all()
        if refusal:
            connection.send(refused=refusal)
            connection.close()

    def _refusal(self, hello: Mapping[str, Any]) -> str:
        process, who = hello["process"], f"process {hello['process']} ({hello.get('host')})"
        if hello.get("protocol") != PROTOCOL:
            return f"{who} is of another version of this program"
        if hello.get("processes") != self.count:
            return (
                f"{who} was started with --processes {hello.get('processes')}, process 0 with "
                f"--processes {self.count}"
            )
        if not isinstance(process, int) or not 0 < process < self.count:
            return f"{who}: --process must be 0 to {self.count - 1}, and 0 only once"
        difference = self.identity.difference(hello)
        if difference:
            return f"{who} {difference}; start all with the same command"
        if process in self.joined and self.joined[process].is_open:
            return f"{who}: {self.hosts[process]} has --process {process} already"
        return ""


def _join_first(
    address: str, count: int, index: int, identity: ProcessIdentity, timeout: float
) -> ProcessGroup:
    """Connect with process 0, and wait until it says that all have joined."""
    host, port = split_address(address)
    deadline = time.monotonic() + timeout + GRACE_SECONDS
    hello = {"protocol": PROTOCOL, "process": index, "processes": count, **asdict(identity)}
    reason = ""
    while (seconds := deadline - time.monotonic()) > 0:
        try:
            stream = socket.create_connection((host, port), timeout=min(seconds, 5.0))
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(RETRY_SECONDS)
            continue
        connection = _Connection(stream)
        connection.send(**hello, host=socket.gethostname())
        # If process 0 is there but never answers, its own time is over first.
        timer = threading.Timer(seconds, connection.close)
        timer.daemon = True
        timer.start()
        answer = connection.receive()
        timer.cancel()
        if answer is not None and "refused" in answer.fields:
            connection.close()
            raise ProcessError(str(answer.fields["refused"]))
        if answer is not None and "start" in answer.fields:
            group = ProcessGroup(index, count, {0: str(answer.fields.get("host"))})
            group._start({0: connection})
            return group
        # The port may belong to another program, or to process 0 of a run that is ending.
        connection.close()
        reason = "it ended the connection"
        time.sleep(RETRY_SECONDS)
    raise ProcessError(
        f"process 0 at {address} was not reached within {timeout:g} s ({reason}); start it, or "
        "correct --coordinator"
    )
