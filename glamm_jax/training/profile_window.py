"""A trace of some steps by JAX's profiler, for TensorBoard, xprof or Perfetto."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax

from glamm_jax.errors import ConfigError
from glamm_jax.storage import AnyPath, upload_folder
from glamm_jax.training.run_folder import print_line


def parse_steps(text: str) -> tuple[int, int]:
    """Parse `10:13`, the first and last step.

    Raises:
        ConfigError: it is not two numbers, or the first is greater.
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ConfigError(f"{text!r}: not the first and last step to profile, such as 10:13")
    return int(first), int(last)


class ProfileWindow:
    """Traces the steps first to last of this process; of several processes, the first one writes.

    The trace begins when the first step is started, and so also contains the end of the step before
    it, which then still runs.

    Args:
        steps: first and last; None: nothing is traced.
        folder: of the trace; one in a bucket is uploaded when the trace is complete.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: AnyPath):
        self._steps = steps if jax.process_index() == 0 else None
        self._folder = folder
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._is_tracing = False

    def step_starts(self, step: int) -> None:
        """Begin the trace if the step is in the window."""
        if self._steps is None or self._is_tracing or step < self._steps[0]:
            return
        if step > self._steps[1]:
            print_line(f"steps {self._steps[0]}:{self._steps[1]} are finished; nothing is profiled")
            self._steps = None
            return
        if not isinstance(self._folder, Path):
            self._spool = tempfile.TemporaryDirectory(prefix="glamm-jax-profile-")
        jax.profiler.start_trace(self._spool.name if self._spool else str(self._folder))
        self._is_tracing = True

    def step_finished(self, step: int) -> None:
        """Write the trace after the last step of the window."""
        if self._is_tracing and self._steps is not None and step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Write the trace, if one has begun."""
        if self._is_tracing:
            self._is_tracing, self._steps = False, None
            jax.profiler.stop_trace()
            if self._spool and not isinstance(self._folder, Path):
                upload_folder(Path(self._spool.name), self._folder, last="")
                self._spool.cleanup()
            print_line(f"profile: {self._folder}; show it with tensorboard --logdir {self._folder}")
