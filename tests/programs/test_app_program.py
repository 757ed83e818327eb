"""The command `app`: what it refuses, and the server that it starts and stops."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from glamm_jax.app.presets import SCENE_SEED
from glamm_jax.cli import app
from glamm_jax.errors import ConfigError
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.text.questions import GCG_QUESTIONS
from tests.app.browser import Visitor, chromium, running_app

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def with_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Gradio were installed."""
    monkeypatch.setattr(app, "find_spec", lambda _: object())


def test_without_gradio_the_error_says_how_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "find_spec", lambda _: None)
    assert app.main([]) == 2
    assert "pip install 'glamm-jax[app]'" in capsys.readouterr().err


@pytest.mark.usefixtures("with_gradio")
def test_a_port_that_is_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert app.main(["--port", str(port), "--server", "http://127.0.0.1:9"]) == 2
    assert f"port {port}: Address already in use; see --port" in capsys.readouterr().err
    assert app.main(["--port", "99999", "--server", "http://127.0.0.1:9"]) == 2


@pytest.mark.usefixtures("with_gradio")
def test_a_wrong_address_of_a_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--port", str(app.free_port()), "--server", "localhost"]) == 2
    assert "'localhost' is not the address of a server" in capsys.readouterr().err


@pytest.mark.usefixtures("with_gradio")
def test_a_server_that_cannot_start_ends_the_app(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--port", str(app.free_port()), "--model", str(tmp_path / "missing")]
    assert app.main(arguments) == 2
    error = capfd.readouterr().err
    assert str(tmp_path / "missing") in error  # the server's own words
    assert "the server ended with status 2; its message is above" in error


def test_a_model_and_a_server_exclude_each_other() -> None:
    with pytest.raises(SystemExit):
        app.parse(["--model", "glamm", "--server", "http://127.0.0.1:8000"])


def test_a_server_that_does_not_end_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        app.stop_server(process, seconds=0.2)
        assert process.returncode == -9


def test_an_address_of_another_machine_cannot_be_listened_at() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1"):
        app.check_port("192.0.2.1", 7860)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_shipped_model_answers_and_the_app_ends_with_its_server() -> None:
    pytest.importorskip("gradio", reason="pip install 'glamm-jax[app]'")
    with chromium() as browser, running_app() as (url, process):
        [server] = psutil.Process(process.pid).children()
        assert "serve" in server.cmdline()
        person = Visitor(browser, url)
        person.page.locator(".gallery-item").first.click()
        person.page.wait_for_selector(".glamm-stage .picture")
        person.send()
        [answer] = person.answers()
        assert "star" in answer
        assert person.page.locator(".answer .phrase[data-mask]").count() >= 2
        assert person.page.locator("path.mask").count() >= 2
        person.draw(0.5, 0.2, 0.9, 0.6)
        person.send()
        assert len(person.answers(2)) == 2
        person.page.locator(".gallery-item").nth(1).click()
        person.page.wait_for_selector(".exchange", state="detached")
        person.send()
        person.answers()
        assert person.page.locator(".answer .phrase").inner_text() == "blue square"
        person.close()
        server.kill()
        assert process.wait(30) == app.SERVER_ENDED


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ten_people_ask_the_shipped_model_at_once(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="pip install 'glamm-jax[app]'")
    question = GCG_QUESTIONS[0]
    with chromium() as browser, running_app() as (url, _):
        people = [Visitor(browser, url) for _ in range(10)]
        for number, person in enumerate(people):
            scene = tmp_path / f"{number}.png"
            Image.fromarray(render_scene(SCENE_SEED, 10 + number, 64, EASY).image).save(scene)
            person.upload(scene)
        started = time.monotonic()
        for person in people:
            person.send(question)
        at_once = [person.answers()[0] for person in people]
        print(f"ten answers at once: {time.monotonic() - started:.1f} s")
        assert len(set(at_once)) > 5  # they see different scenes
        for person, answer in zip(people, at_once, strict=True):
            person.press("New conversation")
            person.page.wait_for_selector(".exchange", state="detached")
            person.send(question)
            assert person.answers() == [answer]  # alone, as among others
            assert not person.problems


@pytest.mark.slow
@pytest.mark.parametrize("is_ready", [True, False])
def test_the_server_ends_with_the_app(is_ready: bool) -> None:
    pytest.importorskip("gradio", reason="pip install 'glamm-jax[app]'")
    with running_app(is_ready=is_ready) as (_, process):
        end = time.monotonic() + 60
        while not (children := psutil.Process(process.pid).children()):
            assert time.monotonic() < end
            time.sleep(0.1)
        [server] = children
    assert process.returncode == 0  # by SIGTERM
    end = time.monotonic() + 10
    while server.is_running() and time.monotonic() < end:
        time.sleep(0.1)
    assert not server.is_running()
