"""`glamm-jax serve`: its keys, its errors, and its end at a signal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from glamm_jax.cli import serve
from glamm_jax.errors import ConfigError
from tests.serving.test_app import ask

ROOT = Path(__file__).resolve().parents[2]


def test_keys_are_those_of_a_file_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("first\n\n  second \n")
    assert serve.read_keys(keys) == ("first", "second")
    assert serve.read_keys(None) == ()
    monkeypatch.setenv(serve.KEY_VARIABLE, "third")
    assert serve.read_keys(None) == ("third",)
    for content in (b"", b"x" * 70_000):
        keys.write_bytes(content)
        with pytest.raises(ConfigError, match="one key a line"):
            serve.read_keys(keys)
    with pytest.raises(ConfigError, match="cannot be read"):
        serve.read_keys(tmp_path / "nothing")


def test_a_missing_requirement_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "glamm_jax.serving.server", raising=False)
    assert serve.main([]) == 2
    assert "uvicorn is missing; install it with: pip install 'glamm-jax[serve]'" in (
        capsys.readouterr().err
    )


def test_a_model_that_does_not_exist_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["--model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 2
    assert (
        f"Address already in use (while attempting to bind on address ('127.0.0.1', {port}))"
        in (capsys.readouterr().err)
    )
    with pytest.raises(SystemExit):
        serve.parse(["--port", "65536"])


def test_the_server_ends_at_sigterm_when_its_questions_are_answered() -> None:
    command = [sys.executable, "-m", "glamm_jax", "serve", "--port", "0", "--no-warm-up"]
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if ready := re.search(r"ready: (http://127\.0\.0\.1:\d+/v1)", line):
                break
        else:
            pytest.fail(process.stderr.read())
        body = json.dumps({"messages": ask("Is it red?"), "max_tokens": 3, "stream": True})
        request = urllib.request.Request(f"{ready[1]}/chat/completions", body.encode())
        with urllib.request.urlopen(request, timeout=120) as response:
            response.readline()  # the question is accepted: the first event has arrived
            process.send_signal(signal.SIGTERM)
            assert b"data: [DONE]" in response.read()
        assert process.wait(60) == 0
        log = process.stdout.read()
        assert '"POST /v1/chat/completions HTTP/1.1" 200' in log
        assert "base64" not in log + process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.communicate()
