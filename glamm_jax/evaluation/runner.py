"""Every item is asked once, whatever is interrupted and by however many processes.

    predictions = ask_all(assistant, records, items, Path("out"), batch_size=16)

    OUT/parts/3.jsonl      what process 3 has, a line as soon as it is said
    OUT/predictions.jsonl  all of them in the order of the items, once nothing is missing

A process answers the items of every n-th picture on its own devices; nobody waits for anybody,
until the first process puts the parts together. Whatever a part holds is not asked again, also by
another number of processes or in other batches. They share the folder, as on one machine or a
common file system.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.predict import predict
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines, to_line, write_lines
from glamm_jax.inference.chat import Assistant
from glamm_jax.text.questions import MAX_NEW_TOKENS

PARTS = "parts"
POLL = 0.5  # seconds between two looks at what the other processes have


class ProcessShare(NamedTuple):
    """Process `index` of `count`."""

    index: int
    count: int

    @classmethod
    def here(cls) -> ProcessShare:
        """That of this process."""
        return cls(jax.process_index(), jax.process_count())


def predict_all(
    assistant: Assistant,
    records: RecordSource,
    items: Sequence[Item],
    out: Path,
    batch_size: int = 8,
    max_tokens: int = MAX_NEW_TOKENS,
) -> list[Prediction]:
    """Predictions in the order of the items; none in processes but the first, which has them all.

    Raises: PredictionError when a file of an earlier run holds something else.
    """
    share = ProcessShare.here()
    done = finished(out)
    own = [item for item in items if item.record % share.count == share.index]
    left = [item for item in own if item.id not in done]
    if left:
        part = out / PARTS / f"{share.index}.jsonl"
        part.parent.mkdir(parents=True, exist_ok=True)
        dropped = _without_torn_line(part)
        if dropped:
            _say(f"{part}: its last line was cut off, and is asked again")
        with (
            _bar(len(own), len(own) - len(left), share) as bar,
            part.open("a", encoding="utf-8") as file,
        ):
            for prediction in predict(assistant, records, left, batch_size, max_tokens):
                file.write(to_line(prediction))
                file.flush()
                bar.update()
    return _together(items, out) if share.index == 0 else []


def finished(out: Path) -> dict[str, Prediction]:
    """What is there already, by the id of its item.

    Raises: PredictionError when a line that was not cut off is no prediction.
    """
    files = [out / PREDICTIONS, *sorted((out / PARTS).glob("*.jsonl"))]
    return {each.id: each for file in files if file.is_file() for each in read_lines(file)[0]}


def _together(items: Sequence[Item], out: Path) -> list[Prediction]:
    """Wait for the other processes, then put everything in order, in one file."""
    done = _when_complete(items, out, lambda missing: _say(f"waiting for {missing} items"))
    predictions = [done[item.id] for item in items]
    write_lines(out / PREDICTIONS, predictions)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return predictions


def _when_complete(
    items: Sequence[Item], out: Path, waiting: Callable[[int], None]
) -> dict[str, Prediction]:
    seen, told = -1, False
    while True:
        size = sum(file.stat().st_size for file in (out / PARTS).glob("*.jsonl"))
        if size != seen:  # otherwise there is nothing new in them
            seen, done = size, finished(out)
            missing = sum(item.id not in done for item in items)
            if not missing:
                return done
            if not told:
                waiting(missing)
                told = True
        time.sleep(POLL)


def _without_torn_line(part: Path) -> bool:
    """Cut off what was being written when the run was killed; whether there was such a line."""
    if not part.is_file():
        return False
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) == len(data):
        return False
    part.write_bytes(whole)
    return True


def _bar(total: int, done: int, share: ProcessShare) -> tqdm:
    """Items a second, and when the first process will have done its share."""
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds; a file need not hold each step
    return tqdm(total=total, initial=done, unit="item", mininterval=every, disable=share.index > 0)


def _say(text: str) -> None:
    tqdm.write(f"eval: {text}", file=sys.stderr)
