"""A notice of the metadata server stops a run as SIGTERM does; without a server nothing happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from glamm_jax.config.experiment import CheckpointConfig
from glamm_jax.training import maintenance
from glamm_jax.training.maintenance import HOST_VARIABLE, MaintenanceNotice, metadata_host
from glamm_jax.training.run_folder import EVENTS, read_lines
from tests.free_port import free_port
from tests.small_experiment import get_config
from tests.training.simulated import MachineTimes, SimulatedMachine

PREFIX = "/computeMetadata/v1/instance/"


class MetadataServer(ThreadingHTTPServer):
    """A metadata server on this machine.

    Attributes:
        values: {name below instance/: value}; others do not exist.
        refused: number of requests without Google's header.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.refused = 0


class Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_GET(self) -> None:
        name = self.path.removeprefix(PREFIX)
        is_allowed = self.headers.get("Metadata-Flavor") == "Google"
        self.server.refused += not is_allowed
        is_known = name in self.server.values
        self.send_response(200 if is_allowed and is_known else 404 if is_allowed else 403)
        self.end_headers()
        self.wfile.write(self.server.values.get(name, "").encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    server = MetadataServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv(HOST_VARIABLE, f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # it would not reach the server
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    assert server.refused == 0


class Notices:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.event = threading.Event()

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.event.set()


@pytest.mark.parametrize(
    ("name", "value"),
    [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")],
)
def test_a_notice_is_passed_on_once(server: MetadataServer, name: str, value: str) -> None:
    new, old = Notices(), Notices()
    with MaintenanceNotice(new, old, seconds=0.01):
        assert not new.event.wait(0.1)
        server.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"  # it goes on elsewhere
        assert not new.event.wait(0.1)
        server.values[name] = value
        assert new.event.wait(20)
    assert (new.texts, old.texts) == ([f"{name} = {value}"], [])


def test_a_notice_that_was_there_before_stops_no_run(server: MetadataServer) -> None:
    new, old = Notices(), Notices()
    server.values["preempted"] = "TRUE"
    with MaintenanceNotice(new, old, seconds=0.01):
        assert old.event.wait(20)
        assert not new.event.wait(0.1)
        server.values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        assert new.event.wait(20)
    assert old.texts == ["preempted = TRUE"]


def test_a_server_that_fails_for_a_while_disturbs_nothing(server: MetadataServer) -> None:
    values, server.values = server.values, {}
    new = Notices()
    with MaintenanceNotice(new, seconds=0.01):
        assert not new.event.wait(0.1)
        server.values = values | {"preempted": "TRUE"}
        assert new.event.wait(20)


def test_nothing_is_asked_where_there_is_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    product = tmp_path / "product_name"
    monkeypatch.setattr(maintenance, "PRODUCT_NAME", product)
    assert metadata_host() == ""
    product.write_text("Standard PC\n")
    assert metadata_host() == ""
    with MaintenanceNotice(lambda text: pytest.fail(text)) as notice:
        assert not notice._thread.is_alive()
    product.write_text("Google Compute Engine\n")
    assert metadata_host() == "metadata.google.internal"
    monkeypatch.setenv(HOST_VARIABLE, f"127.0.0.1:{free_port()}")  # nobody listens
    with MaintenanceNotice(lambda text: pytest.fail(text), seconds=0.01) as notice:
        notice._closed.wait(0.1)


def test_the_loop_stops_with_a_checkpoint_at_a_notice(
    server: MetadataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 0.01)
    machine = SimulatedMachine(MachineTimes(step=1.0, save=1.0))
    config = replace(get_config(), checkpoint=CheckpointConfig(every=10**6))
    config = replace(config, optim=replace(config.optim, total_steps=10**6))
    steps = machine.steps(config, tmp_path / "run", 10**6)
    next(steps)
    server.values["preempted"] = "TRUE"
    num_done = 1
    for _ in steps:
        num_done += 1
        time.sleep(0.005)
    assert 1 < num_done < 10**6
    *_, stopped = read_lines(tmp_path / "run" / EVENTS)
    assert (stopped["event"], stopped["reason"]) == ("stopped", "preempted = TRUE")
    assert stopped["step"] == num_done == max(machine.saved)
