"""Weights & Biases without a connection: its own files have the metrics of a run, also resumed."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.training.loop import ValidationResult
from glamm_jax.training.metric_writers import WeightsAndBiases


def record(step: int) -> Any:
    losses = {"loss": 1.0 / step, "ce": 0.5, "bce": 0.25, "dice": 0.125}
    return losses | {
        "step": step,
        "learning_rate": 1e-4,
        "skipped": False,
        "grad_norm": 2.0,
        "grad_norms": {"llama": 1.5},
        "seconds": 0.5,
        "input_seconds": 0.1,
        "prepare_seconds": 0.1,
        "images": {"world": 4},
    }


def messages(data: bytes) -> Iterator[bytes]:
    """Yield the messages of a log in the format of LevelDB: blocks of records with a checksum."""
    block, header = 32_768, struct.Struct("<IHB")
    assert data[:4] == b":W&B"
    position, message = 7, b""
    while position + header.size <= len(data):
        if block - position % block < header.size:
            position += block - position % block
            continue
        _, length, kind = header.unpack_from(data, position)
        position += header.size
        message += data[position : position + length]
        position += length
        if kind in (1, 4):  # the complete message, or its last part
            yield message
            message = b""


def logged(folder: Path) -> list[dict[str, Any]]:
    """Read the history of all runs below a folder."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(folder.rglob("*.wandb")):
        for data in messages(path.read_bytes()):
            message = wandb_internal_pb2.Record()
            message.ParseFromString(data)
            if message.WhichOneof("record_type") == "history":
                items = message.history.item
                rows.append(
                    {x.key or ".".join(x.nested_key): json.loads(x.value_json) for x in items}
                )
    return rows


@pytest.mark.filterwarnings("ignore")  # of the package
def test_weights_and_biases_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    panel = np.zeros((4, 4, 3), np.uint8)
    for steps in ((1, 2), (3,)):  # the second is a resumed run
        writer = WeightsAndBiases("project", folder, {"optim": {"peak_lr": 1e-4}})
        for step in steps:
            writer.write_step(record(step))
        writer.write_validation(steps[-1] + 1, ValidationResult({"gcg/mIoU": 0.5}, [panel]))
        writer.close()
        time.sleep(1.1)  # the package names the folder of a run by the second of its start
    rows = logged(folder)
    losses = [row["loss/ce"] for row in rows]
    assert losses == [0.5, 0.5, 0.5]
    assert [row["mixture/world"] for row in rows] == [1.0, 1.0, 1.0]
    assert [row["validation/gcg/mIoU"] for row in rows if "validation/gcg/mIoU" in row] == [0.5] * 2
    assert [*folder.rglob("media/images/panels/*.png")]
