"""Small datasets on disk: pictures, masks, and the fixtures of the original's formats."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.record import DatasetSource, ReadResult, Record, check_record

FIXTURES = Path(__file__).parents[2] / "goldens" / "fixtures" / "data"
HEIGHT, WIDTH = 12, 20


def picture(height: int = HEIGHT, width: int = WIDTH, kind: str = "PNG") -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(stream, kind)
    return stream.getvalue()


def block(
    left: int, top: int, right: int, bottom: int, height: int = HEIGHT, width: int = WIDTH
) -> dict[str, Any]:
    """Run lengths of a rectangle."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def pixels(record: Record, region: int, *, overlap: bool = False) -> int:
    """How many pixels a region's mask, or its overlap, has."""
    counts = record.regions[region].overlap if overlap else record.regions[region].mask
    if counts is None:
        return 0
    runs = {"size": [record.height, record.width], "counts": counts}
    return int(rle.decode(runs).sum())


def write(path: Path, content: Any) -> Path:
    """A file of bytes, or of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_bytes = isinstance(content, bytes)
    path.write_bytes(content if is_bytes else json.dumps(content).encode())
    return path


def copy_fixtures(root: Path, *folders: str) -> Path:
    """A data folder with some of the fixtures' folders."""
    for folder in folders:
        shutil.copytree(FIXTURES / folder, root / folder)
    return root


def kinds(found: ReadResult) -> Counter[str]:
    """How often each kind of defect was noted."""
    return Counter(defect.kind for defect in found.defects)


def tasks(record: Record | None) -> Counter[str]:
    """How many annotations of each task a record has."""
    return Counter(each.task for each in record.annotations) if record else Counter()


def texts(record: Record | None, task: str) -> list[str]:
    """The texts of one task."""
    return [each.text for each in record.annotations if each.task == task] if record else []


def read_all(source: DatasetSource) -> dict[str, ReadResult]:
    """Everything a source has, every record checked."""
    found = {key: source.read(key) for key in source.keys}
    for each in found.values():
        assert each.record is not None or each.defects
        if each.record is not None:
            check_record(each.record)
    return found


def only(
    make: Callable[[Path, str], DatasetSource], root: Path, split: str = "train"
) -> ReadResult:
    """What the only picture of a small dataset gives."""
    (found,) = read_all(make(root, split)).values()
    return found
