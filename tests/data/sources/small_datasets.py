"""Small datasets on disk: image files, masks, and the fixtures in the formats of the original."""

from __future__ import annotations

import io
import json
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


def image_bytes(height: int = HEIGHT, width: int = WIDTH, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
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
    """The number of pixels of a region's mask, or of its overlap."""
    counts = record.regions[region].overlap if overlap else record.regions[region].mask
    if counts is None:
        return 0
    runs = {"size": [record.height, record.width], "counts": counts}
    return int(rle.decode(runs).sum())


def write(path: Path, content: Any) -> Path:
    """Write a file of bytes, or of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_bytes = isinstance(content, bytes)
    path.write_bytes(content if is_bytes else json.dumps(content).encode())
    return path


def kinds(result: ReadResult) -> Counter[str]:
    """The number of defects of each kind."""
    return Counter(defect.kind for defect in result.defects)


def tasks(record: Record | None) -> Counter[str]:
    """The number of annotations of each task."""
    return Counter(item.task for item in record.annotations) if record else Counter()


def texts(record: Record | None, task: str) -> list[str]:
    """The texts of one task."""
    return [item.text for item in record.annotations if item.task == task] if record else []


def read_all(source: DatasetSource) -> dict[str, ReadResult]:
    """Read every key of a source, and check every record."""
    results = {key: source.read(key) for key in source.keys}
    for result in results.values():
        assert result.record is not None or result.defects
        if result.record is not None:
            check_record(result.record)
    return results


def read_single(
    make: Callable[[Path, str], DatasetSource], root: Path, split: str = "train"
) -> ReadResult:
    """Read the only image of a small dataset."""
    (result,) = read_all(make(root, split)).values()
    return result
