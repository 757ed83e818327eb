"""Progress of a run: a bar with the remaining time for each stage, or lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from glamm_jax.cli.progress import duration
from glamm_jax.grand.execution import StageProgress

LOG_SECONDS = 30.0  # between two lines, where there is no terminal


class StageBars:
    """Shows the progress of all stages; an instance is the callback of a driver."""

    def __init__(self, stages: Iterable[str]):
        """Remember the stages.

        Args:
            stages: names, in the order of execution.
        """
        self._names = list(stages)
        self._width = max(map(len, self._names))
        self._bars: dict[str, tqdm] = {}
        self._is_terminal = sys.stderr.isatty()
        self._logged = time.monotonic()

    def __enter__(self) -> StageBars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def __call__(self, progress: StageProgress) -> None:
        """Show how far a stage is."""
        if self._is_terminal:
            self._draw(progress)
        elif progress.new_images:
            self._log(progress)

    def _draw(self, progress: StageProgress) -> None:
        name = progress.stage
        if name not in self._bars:
            if progress.images == progress.total:
                return  # finished by an earlier run
            self._bars[name] = tqdm(
                total=progress.total,
                initial=progress.images,
                desc=name.ljust(self._width),
                position=len(self._bars),
                unit=" images",
                file=sys.stderr,
            )
        bar = self._bars[name]
        bar.update(progress.images - bar.n)

    def _log(self, progress: StageProgress) -> None:
        now = time.monotonic()
        if now - self._logged < LOG_SECONDS:
            return
        self._logged = now
        print(progress_line(progress), file=sys.stderr, flush=True)


def progress_line(progress: StageProgress) -> str:
    """Return progress, rate and remaining time of a stage in one line."""
    rate = progress.new_images / max(progress.seconds, 1e-9)
    left = (progress.total - progress.images) / rate if rate else 0.0
    text = f"{progress.stage}: {progress.images:,} of {progress.total:,} images, {rate:,.1f}/s"
    return f"{text}, {duration(left)} left" if left else text
