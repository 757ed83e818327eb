"""Cases of JSON lines of a user, and of damaged record shards."""

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

_LINES = "Your own data, one line of JSON"
_SHARDS = "Record shards"
_SQUARE = [[1, 1, 5, 1, 5, 5]]


def _line(line: dict[str, Any] | bytes, image: bytes | None = None) -> Callable[[Path], str]:
    """Read a line about dog.jpg, and list its defects and the tasks of its record."""

    def run(folder: Path) -> str:
        (folder / "dog.jpg").write_bytes(jpeg() if image is None else image)
        raw = line if isinstance(line, bytes) else json.dumps({"image": "dog.jpg", **line}).encode()
        (folder / "own.jsonl").write_bytes(raw)
        source = JsonlSource(folder / "own.jsonl", "train")
        (key,) = source.keys
        record, defects = source.read(key)
        tasks = "no record" if record is None else ", ".join(x.task for x in record.annotations)
        return "; ".join([*(f"{where} ({kind})" for kind, where in defects), f"kept: {tasks}"])

    return run


def _converted(folder: Path) -> SplitFolder:
    """Convert three images into one shard."""
    reader = SourceReader(plain(3), folder, "train", 1)
    target = reader.target(folder)
    target.begin(reader.description())
    write_shard(reader, target, 0)
    target.publish(target.summarize(3))
    return target


def _damaged(damage: Callable[[SplitFolder], Any], split: str = "train") -> Callable[[Path], str]:
    """Damage a dataset, and read its first record."""

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
        "not JSON",
        _line(b"{"),
        "SourceError: own.jsonl: line 1, column 2: not valid JSON: Expecting property name "
        "enclosed in double quotes",
    ),
    Case(
        _LINES,
        "a list that is cut off",
        _line(b'[{"image": "dog.jpg", "captions": ["A dog."]}'),
        "SourceError: own.jsonl: line 1, column 46: not valid JSON: a comma or ] is expected",
    ),
    Case(
        _LINES,
        "UTF-16",
        _line(json.dumps({"image": "dog.jpg"}).encode("utf-16")),
        "SourceError: own.jsonl: UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE)",
    ),
    Case(
        _LINES,
        "a text with a token of the model",
        _line({"captions": ["A dog [SEG]."]}),
        "own.jsonl line 1: captions[0]: the text contains [SEG], a token of the model; remove or "
        "rename it (reserved token); kept: no record",
    ),
    Case(
        _LINES,
        "a conversation in LLaVA's form, with its marker of the image",
        _line(
            {
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "A dog."},
                ]
            }
        ),
        "kept: vqa",
    ),
    Case(
        _LINES,
        "a JPEG that lacks only its end marker",
        _line(_CAPTIONS, jpeg()[:-2]),
        "own.jsonl line 1: dog.jpg: used, its pixels are complete (JPEG without its end marker); "
        "kept: caption",
    ),
    Case(
        _LINES,
        "a truncated image",
        _line(_CAPTIONS, jpeg()[:-10]),
        "own.jsonl line 1: dog.jpg: 623 bytes: not a readable image: the file ends too "
        "early (unreadable image); kept: no record",
    ),
    Case(
        _LINES,
        "an unknown field",
        _line({**_CAPTIONS, "boxs": []}),
        "own.jsonl line 1: boxs: no such field; available: image, id, split, captions, "
        "grounded_captions, expressions, regions, conversations (unknown field); kept: "
        "caption",
    ),
    Case(
        _LINES,
        "a box with swapped corners, and a valid caption",
        _line({**_CAPTIONS, "regions": [{"box": [5, 5, 1, 1], "description": "x"}]}),
        "own.jsonl line 1: regions[0].box: box 0 (5.0, 5.0, 1.0, 1.0) is inverted: give the "
        "top left corner first, x0, y0, x1, y1 (bad box); kept: caption",
    ),
    Case(
        _LINES,
        "a polygon of two points, and a valid caption",
        _line({**_CAPTIONS, "expressions": [{"text": "x", "masks": [[[1, 1, 5, 5]]]}]}),
        "own.jsonl line 1: expressions[0].masks[0]: a polygon of 4 numbers: [1, 1, 5, 5] (bad"
        " mask); kept: caption",
    ),
    Case(
        _LINES,
        "run lengths of another size than the image",
        _line({"expressions": [{"text": "x", "masks": [{"size": [2, 2], "counts": [4]}]}]}),
        "own.jsonl line 1: expressions[0].masks[0]: 2 x 2 in an image of 6 x 8 (wrong mask "
        "size); kept: no record",
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
        "a truncated ArrayRecord",
        _damaged(_cut),
        "ShardError: glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001: record "
        "0 of train: 0 bytes are not a record; delete the file and run the conversion again "
        "with the same --out: it writes only missing files",
    ),
    Case(
        _SHARDS,
        "a missing file",
        _damaged(lambda x: x.shard_path(0).unlink()),
        "ShardError: glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001: record "
        "0 of train: open() failed: No such file or directory; opening "
        "glamm_plain/1.0.0/glamm_plain-train.array_record-00000-of-00001; delete the file and"
        " run the conversion again with the same --out: it writes only missing files",
    ),
    Case(
        _SHARDS,
        "a conversion that was interrupted",
        _damaged(lambda x: (x.folder / "dataset_info.json").unlink()),
        "ShardError: glamm_plain/1.0.0: no dataset_info.json; `glamm-jax convert dataset` "
        "writes it last, so if the conversion was stopped, run the same command again",
    ),
    Case(
        _SHARDS,
        "an unknown split",
        _damaged(lambda x: None, "test"),
        "ShardError: glamm_plain/1.0.0: no split 'test'; available: train",
    ),
    Case(
        _SHARDS,
        "bytes that are not a record",
        lambda _: decode(b"\0" * 9).image_id,
        "ShardError: 9 bytes are not a record",
    ),
)
