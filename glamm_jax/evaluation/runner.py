"""Predict every item exactly once, over several processes, resumable after an interruption.

    predictions = predict_all(assistant, item_set.records, item_set.items, Path("out"))

    OUT/parts/3.jsonl      predictions of process 3, one line each, written as they are made
    OUT/predictions.jsonl  all predictions in the order of the items, once none is missing

Process i of n predicts the items of every n-th image, on its own devices. No process waits for
another one until the first merges the parts. On a mesh that has devices of all processes, they
predict every item together, and the first process writes. Items that any part has are not predicted
again, also by another number of processes or with another batch size. The processes share the
folder: they run on one machine or on a common file system.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.predict import predict
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines, to_line, write_lines
from glamm_jax.inference.chat import Assistant
from glamm_jax.line_log import LineLog, open_log
from glamm_jax.parallel import num_processes, wait_for_processes
from glamm_jax.storage import AnyPath, make_folder, remove_folder, size_of
from glamm_jax.text.questions import MAX_NEW_TOKENS

PARTS = "parts"
POLL_SECONDS = 0.5  # between two checks of what the other processes have written
LOG_SECONDS = 10.0  # between two updates of the progress bar in a file


class ProcessShare(NamedTuple):
    """The items that a process predicts: those of every `count`-th image.

    Attributes:
        index: of the first image.
        count: of processes that predict by themselves; 1: all predict together.
    """

    index: int
    count: int

    @classmethod
    def of_this_process(cls, mesh: Mesh | None) -> ProcessShare:
        """Return the share of this process.

        Args:
            mesh: that the model is placed on.
        """
        if num_processes(mesh) > 1:
            return cls(0, 1)
        return cls(jax.process_index(), jax.process_count())


def predict_all(
    assistant: Assistant,
    records: RecordSource,
    items: Sequence[Item],
    out: AnyPath,
    batch_size: int = 8,
    max_tokens: int = MAX_NEW_TOKENS,
    run: str = "",
) -> list[Prediction]:
    """Predict all items that the folder does not have yet.

    Args:
        assistant: the model.
        records: as in `predict`.
        items: of all processes.
        out: folder of the predictions.
        batch_size: as in `predict`.
        max_tokens: as in `predict`.
        run: as in `Prediction`.

    Returns:
        In the first process all predictions, in the order of the items; in the others nothing.

    Raises:
        PredictionError: a file of the folder has something else in it.
        DifferentBatchError: processes that predict together do not have the same images.
    """
    share = ProcessShare.of_this_process(assistant.mesh)
    is_first = jax.process_index() == 0
    own = [item for item in items if item.record % share.count == share.index]
    missing = _missing(own, out, assistant.mesh)
    if missing:
        progress = tqdm(
            total=len(own),
            initial=len(own) - len(missing),
            unit="item",
            mininterval=0.5 if sys.stderr.isatty() else LOG_SECONDS,
            disable=not is_first,
        )
        writes = is_first or share.count > 1
        with progress, _open_part(out, share.index) if writes else nullcontext() as log:
            for prediction in predict(assistant, records, missing, batch_size, max_tokens):
                if log is not None:
                    log.write(to_line(replace(prediction, run=run)).removesuffix("\n"))
                progress.update()
    if not is_first:
        return []
    by_id = _wait_for_all(items, out)
    predictions = [by_id[item.id] for item in items]
    write_lines(out / PREDICTIONS, predictions)
    remove_folder(out / PARTS)
    return predictions


def _missing(items: Sequence[Item], out: AnyPath, mesh: Mesh | None) -> list[Item]:
    """Return the items that the folder lacks; those that it lacks for process 0, if processes
    predict together: the others may look when it has already written.
    """
    is_shared = num_processes(mesh) > 1
    if is_shared:
        wait_for_processes()
    finished = read_finished(out)
    is_missing = np.array([item.id not in finished for item in items], np.int32)
    if is_shared:
        is_missing = np.asarray(multihost_utils.broadcast_one_to_all(is_missing))
    return [item for item, missing in zip(items, is_missing, strict=True) if missing]


@contextmanager
def _open_part(out: AnyPath, index: int) -> Iterator[LineLog]:
    """Open the file of a process for its predictions."""
    part = out / PARTS / f"{index}.jsonl"
    make_folder(part.parent)
    if _drop_truncated_line(part):
        _print(f"{part}: the last line was truncated; its item is predicted again")
    with closing(open_log(part)) as log:
        yield log


def read_finished(out: AnyPath) -> dict[str, Prediction]:
    """Read the predictions that the folder has, by item id.

    Raises:
        PredictionError: a line other than a truncated last one is not a prediction.
    """
    files = [out / PREDICTIONS, *sorted((out / PARTS).glob("*.jsonl"))]
    return {x.id: x for file in files if file.is_file() for x in read_lines(file)[0]}


def _wait_for_all(items: Sequence[Item], out: AnyPath) -> dict[str, Prediction]:
    """Wait until the parts of all processes have all items."""
    last_size, is_announced = -1, False
    while True:
        size = sum(size_of(file) for file in (out / PARTS).glob("*.jsonl"))
        if size != last_size:  # otherwise nothing has been written
            last_size, finished = size, read_finished(out)
            num_missing = sum(item.id not in finished for item in items)
            if not num_missing:
                return finished
            if not is_announced:
                _print(f"waiting for {num_missing} items")
                is_announced = True
        time.sleep(POLL_SECONDS)


def _drop_truncated_line(part: AnyPath) -> bool:
    """Remove the line that was being written when the process was killed, if there is one."""
    if not part.is_file():
        return False
    data = part.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) == len(data):
        return False
    part.write_bytes(complete)
    return True


def _print(text: str) -> None:
    tqdm.write(f"eval: {text}", file=sys.stderr)
