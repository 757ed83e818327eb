"""Rows about datasets: a user's own lines, and shards that are not what they were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.data.conversion import SourceReader, write_shard
from glamm_jax.data.record_shards import RecordShards, decode
from glamm_jax.data.sources.jsonl import JsonlSource
from glamm_jax.data.split_folder import SplitFolder
from tests.bad_input.case import Case
from tests.data.records import jpeg, plain

_LINES = "Your own data, a line of JSON"
_SHARDS = "Shards"
_SQUARE = [[1, 1, 5, 1, 5, 5]]


def _line(line: dict[str, Any] | bytes, picture: bytes | None = None) -> Callable[[Path], str]:
    """What is said of a line about a sound picture, or another one."""

    def run(folder: Path) -> str:
        (folder / "dog.jpg").write_bytes(jpeg() if picture is None else picture)
        raw = line if isinstance(line, bytes) else json.dumps({"image": "dog.jpg", **line}).encode()
        (folder / "own.jsonl").write_bytes(raw)
        source = JsonlSource(folder / "own.jsonl", "train")
        (key,) = source.keys
        record, defects = source.read(key)
        kept = "no record" if record is None else ", ".join(x.task for x in record.annotations)
        return "; ".join([*(f"{where} ({kind})" for kind, where in defects), f"kept: {kept}"])

    return run


def _converted(folder: Path) -> SplitFolder:
    """Three pictures in one shard, published."""
    reading = SourceReader(plain(3), folder, "train", 1)
    target = reading.target(folder)
    target.begin(reading.description())
    write_shard(reading, target, 0)
    target.publish(target.summarize(3))
    return target


def _damaged(damage: Callable[[SplitFolder], Any], split: str = "train") -> Callable[[Path], str]:
    """The first record of a dataset to which something has happened."""

    def run(folder: Path) -> str:
        target = _converted(folder)
        damage(target)
        return RecordShards(target.folder, split)[0].image_id

    return run


def _cut(target: SplitFolder) -> None:
    os.truncate(target.shard_path(0), target.shard_path(0).stat().st_size // 2)


_CAPTIONS: dict[str, Any] = {"captions": ["A dog."]}

CASES: tuple[Case, ...] = (
    Case(
        _LINES,
        "no JSON",
        _line(b"{"),
        "own.jsonl line 1: no readable JSON: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1) (broken line); kept: no record",
    ),
    Case(
        _LINES,
        "half of the picture",
        _line(_CAPTIONS, jpeg()[:-10]),
        "own.jsonl line 1: dog.jpg: 623 bytes: not a readable picture: the file ends too "
        "early (unreadable image); kept: no record",
    ),
    Case(
        _LINES,
        "a field that nobody knows",
        _line({**_CAPTIONS, "boxs": []}),
        "own.jsonl line 1: boxs: no such field; known here: image, id, split, captions, "
        "grounded_captions, expressions, regions, conversations (unknown field); kept: "
        "caption",
    ),
    Case(
        _LINES,
        "a box whose corners are swapped, beside a caption",
        _line({**_CAPTIONS, "regions": [{"box": [5, 5, 1, 1], "description": "x"}]}),
        "own.jsonl line 1: regions[0].box: box 0 (5.0, 5.0, 1.0, 1.0) is inverted: give the "
        "top left corner first, x0, y0, x1, y1 (bad box); kept: caption",
    ),
    Case(
        _LINES,
        "a polygon of two points, beside a caption",
        _line({**_CAPTIONS, "expressions": [{"text": "x", "masks": [[[1, 1, 5, 5]]]}]}),
        "own.jsonl line 1: expressions[0].masks[0]: a polygon of 4 numbers: [1, 1, 5, 5] (bad"
        " mask); kept: caption",
    ),
    Case(
        _LINES,
        "run lengths of another size than the picture",
        _line({"expressions": [{"text": "x", "masks": [{"size": [2, 2], "counts": [4]}]}]}),
        "own.jsonl line 1: expressions[0].masks[0]: 2 x 2 in a picture of 6 x 8 (mask of "
        "another size); kept: no record",
    ),
    Case(
        _LINES,
        "two [SEG] and one mask",
        _line({"grounded_captions": [{"text": "<p> A dog </p> [SEG] [SEG]", "masks": [_SQUARE]}]}),
        "own.jsonl line 1: grounded_captions[0]: 2 [SEG] and 1 masks (labels and masks differ"
        " in number); own.jsonl line 1: grounded_captions[0] (no groundings); kept: caption",
    ),
    Case(
        _LINES,
        "a caption of 50,000 characters",
        _line({"captions": ["A dog chases a ball. " * 2400]}),
        "kept: caption",
    ),
    Case(
        _SHARDS,
        "an ArrayRecord cut in the middle",
        _damaged(_cut),
        "ShardError: glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001: record "
        "0 of train: 0 bytes are no record; delete the file and run the conversion again with"
        " the same --out: only what is missing is written",
    ),
    Case(
        _SHARDS,
        "a file that is gone",
        _damaged(lambda x: x.shard_path(0).unlink()),
        "ShardError: glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001: record "
        "0 of train: open() failed: No such file or directory; opening "
        "glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001; delete the file and"
        " run the conversion again with the same --out: only what is missing is written",
    ),
    Case(
        _SHARDS,
        "a conversion that was killed",
        _damaged(lambda x: (x.folder / "dataset_info.json").unlink()),
        "ShardError: glamm_plain/1.0.0: no dataset_info.json; `python -m convert dataset` "
        "writes it last, so run the same command again if it was stopped",
    ),
    Case(
        _SHARDS,
        "a split that is not there",
        _damaged(lambda x: None, "test"),
        "ShardError: glamm_plain/1.0.0: no split 'test'; there are train",
    ),
    Case(
        _SHARDS,
        "bytes that are no record",
        lambda _: decode(b"\0" * 9).image_id,
        "ShardError: 9 bytes are no record",
    ),
)
