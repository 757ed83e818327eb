"""A window of steps is traced from its first to its last step."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from glamm_jax.errors import ConfigError
from glamm_jax.training.profile_window import ProfileWindow, parse_steps


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "4:3", "-1:3", "1:2:3", "a:b"])
def test_what_is_not_a_window_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="not the first and last step to profile, such as 10:13"):
        parse_steps(text)


@pytest.mark.parametrize(
    ("steps", "first", "calls"),
    [
        ((1, 2), 0, ["start 1", "stop 2"]),
        ((1, 2), 2, ["start 2", "stop 2"]),  # resumed inside
        ((1, 2), 3, []),  # resumed behind it
        ((2, 9), 0, ["start 2", "stop end"]),  # stopped inside
        (None, 0, []),
    ],
)
def test_the_trace_begins_and_ends_with_its_steps(
    steps: tuple[int, int] | None,
    first: int,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now, traced = "", []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: traced.append(f"start {now}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append(f"stop {now}"))
    window = ProfileWindow(steps, tmp_path)
    for step in range(first, 5):
        now = str(step)
        window.step_starts(step)
        window.step_finished(step)
    now = "end"
    window.close()
    assert traced == calls
    printed = capsys.readouterr().err
    assert ("are finished; nothing is profiled" in printed) == (first == 3)
    assert (f"profile: {tmp_path}" in printed) == bool(calls)
