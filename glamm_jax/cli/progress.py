"""What the converting programs show: a progress bar, the peak of memory, and errors in a line."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.weights.rules import WeightsError
from glamm_jax.weights.safetensors import TensorFileError

_started = time.perf_counter()


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[str, int], None]]:
    """A bar in bytes; the function it gives may be called from threads."""
    lock = threading.Lock()
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None) as bar:

        def advance(name: str, nbytes: int) -> None:
            with lock:
                bar.update(nbytes)

        yield advance


def report(nbytes: int) -> None:
    """Size, seconds since the program began, and the most memory it ever held."""
    seconds = time.perf_counter() - _started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{nbytes / 1e9:.2f} GB in {seconds:.1f} s, peak memory {peak:.2f} GiB")


def fails_politely(command: str, work: Callable[[], None]) -> int:
    """Do the work; what cannot be used is said in one line, and the exit status is 2."""
    try:
        work()
    except (ConfigError, FolderError, TensorFileError, TokenizerError, WeightsError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    return 0
