"""The line that a run shows while it goes on."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable

from tqdm import tqdm

from glamm_jax.training.loop import SHOWN, Record

WINDOW = 20  # steps that the speed is the mean of


def show(records: Iterable[Record], num_steps: int, peak_seconds: float | None = None) -> None:
    """Run the steps, and say of each: losses by part, pictures a second, share of waiting.

    peak_seconds: what a step takes at the devices' peak, where it is known: its share is said, too.

    The bar counts the steps of a resumed run from its beginning, and tells when it will end.
    """
    print("drawing or reading the weights, then compiling: minutes, once", flush=True)
    last: deque[Record] = deque(maxlen=WINDOW)
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds; a file need not hold each step
    with tqdm(total=num_steps, unit="step", mininterval=every) as bar:
        for record in records:
            if not last:  # the first compiles, and may be any step
                bar.initial, bar.n = record["step"], record["step"]
            last.append(record)
            bar.set_postfix_str(line(last, peak_seconds), refresh=False)
            bar.update()


def line(last: Iterable[Record], peak_seconds: float | None = None) -> str:
    """The newest losses, and the speed of the last steps."""
    records = [*last]
    losses = " ".join(f"{name} {records[-1][name]:.3f}" for name in SHOWN)
    timed = records[1:] or records
    seconds = sum(record["seconds"] for record in timed)
    pictures = sum(sum(record["pictures"].values()) for record in timed)
    waiting = sum(record["input_seconds"] for record in timed) / seconds
    peak = f"  {peak_seconds / (seconds / len(timed)):.0%} of peak" if peak_seconds else ""
    skipped = "  SKIPPED" if records[-1]["skipped"] else ""
    return (
        f"{losses}  {pictures / seconds:.2f} pictures/s  {seconds / len(timed):.2f} s/step  "
        f"input {waiting:.0%}{peak}{skipped}"
    )
