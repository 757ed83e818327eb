"""Progress of programs: a bar in bytes, durations, a summary of time and memory."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_started = time.perf_counter()


@contextmanager
def progress_bar(total: int | None, title: str) -> Iterator[Callable[[str, int], None]]:
    """Show a progress bar in bytes.

    Args:
        total: in bytes; None: unknown.
        title: printed before the bar.

    Yields:
        A thread-safe function to call with the name and the bytes of every tensor.
    """
    lock = threading.Lock()
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:

        def advance(name: str, nbytes: int) -> None:
            with lock:
                bar.update(nbytes)

        yield advance


def print_summary(nbytes: int) -> None:
    """Print the size, the seconds since the program started, and its peak memory."""
    seconds = time.perf_counter() - _started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{nbytes / 1e9:.2f} GB in {seconds:.1f} s, peak memory {peak:.2f} GiB")


def duration(seconds: float) -> str:
    """Return a time such as "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
