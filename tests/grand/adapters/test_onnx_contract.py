"""Models in ONNX files follow the contract of all adapters, in onnxruntime and in OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.grand.adapters.onnx_models.detector import ONNXDetector
from glamm_jax.grand.adapters.onnx_models.mask import (
    ONNXMaskProposer,
    ONNXMaskSegmenter,
)
from glamm_jax.grand.adapters.onnx_models.tagger import ONNXTagger
from tests.grand.adapters.contract import AdapterCase, AdapterContract
from tests.grand.adapters.tiny_onnx import (
    photographs,
    write_brightness_model,
    write_colour_model,
)

SHAPE = ("batch", 3, 32, 32)
INPUT = "[input]\nwidth = 32\nheight = 32\n"
DETECTOR = """
classes = ["dog", "cat", "cup"]
min_score = 0.4
nms_iou = 0.9
[input]
width = 32
height = 32
resize = "letterbox-centred"
[output]
decoding = "boxes"
detections = "rows"
columns = ["cx", "cy", "w", "h", "classes"]
box_units = "unit"
"""
MASK = f'classes = ["person"]\n{INPUT}[output]\ndecoding = "mask"\nmask = "mask"\n'
TAGGER = (
    f'classes = ["a", "b", "c", "d"]\n{INPUT}[output]\ndecoding = "classes"\n'
    'activation = "none"\ntop = 3\n'
)
KINDS: dict[str, tuple[type[Any], str]] = {
    "detector": (ONNXDetector, DETECTOR),
    "mask detector": (ONNXDetector, MASK),
    "region_proposer": (ONNXMaskProposer, MASK),
    "segmenter": (ONNXMaskSegmenter, MASK),
    "tagger": (ONNXTagger, TAGGER),
}
BOX = (2.0, 3.0, 30.0, 31.5)


@contextmanager
def _limited(adapter: Any, number: int) -> Iterator[None]:
    """Let the session fail for lack of memory, as that of an accelerator does."""
    session = adapter._session
    run = session.run

    def limited(images: Any, *arguments: Any) -> Any:
        if len(images) > number:
            raise MemoryError("out of memory: Failed to allocate memory for requested buffer")
        return run(images, *arguments)

    session.run = limited
    try:
        yield
    finally:
        session.run = run


def write_model(folder: Path, kind: str) -> tuple[type[Any], Path]:
    """Write a model and its description; returns the adapter's class and the description."""
    adapter, text = KINDS[kind]
    path = folder / f"{kind}.toml"
    path.write_text(f'model = "{kind}.onnx"\n{text}')
    model = folder / f"{kind}.onnx"
    if text is MASK:
        write_brightness_model(model, SHAPE)
    elif kind == "tagger":
        write_colour_model(model, SHAPE, 4, rows=1)
    else:
        write_colour_model(model, SHAPE, 7)
    return adapter, path


@pytest.fixture(
    scope="module",
    params=[(kind, engine, size) for kind in KINDS for engine, size in (("", 2), ("opencv", 1))],
    ids=lambda param: " ".join(map(str, param)),
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AdapterCase:
    kind, engine, size = request.param
    adapter, path = write_model(tmp_path_factory.mktemp("onnx"), kind)
    if engine:
        path.write_text(f'engine = "{engine}"\n{path.read_text()}')
    images = photographs()
    columns = [[[BOX, (0.0, 0.0, 9.0, 9.0)], [], [BOX], [BOX], [BOX]]]
    return AdapterCase(
        "detector" if kind == "mask detector" else kind,
        partial(adapter, str(path), "tiny", batch_size=size),
        images,
        columns if kind == "segmenter" else (),
        tolerance=1e-5,
        limited=_limited if size > 1 else None,
    )


class TestONNXModels(AdapterContract):
    """All roles of described models."""
