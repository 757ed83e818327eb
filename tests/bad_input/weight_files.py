"""Cases of invalid weight files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy

from glamm_jax.cli.convert.assemble import Request, assemble
from glamm_jax.weights.safetensors import INDEX
from tests.bad_input.case import Case

_FILES = "Weight files"


# ------------------------------------------------------------------------------ files


def _safetensors(content: bytes) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        path = folder / "model.safetensors"
        path.write_bytes(content)
        return open_and_assemble(path)

    return run


def _header(entries: dict[str, Any], num_bytes: int) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


def _entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def valid_file() -> bytes:
    """Return a small valid safetensors file."""
    return safetensors.numpy.save({"image_encoder.patch_embed.proj.bias": np.zeros(9, np.float32)})


def _index(weight_map: dict[str, str]) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (folder / "a.safetensors").write_bytes(safetensors.numpy.save({"a": np.zeros(2)}))
        return open_and_assemble(folder)

    return run


class _Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("touch attacked",)


def _pickled(value: object) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        import torch

        path = folder / "pytorch_model.bin"
        torch.save(value, path)
        try:
            return open_and_assemble(path)
        finally:
            assert not Path("attacked").exists()

    return run


def _bare_pickle(folder: Path) -> str:
    path = folder / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(_Attack()))
    try:
        return open_and_assemble(path)
    finally:
        assert not Path("attacked").exists()


def _truncated_pickle(folder: Path) -> str:
    import torch

    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    return open_and_assemble(path)


def _unreadable(folder: Path) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(valid_file())
    failure = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with mock.patch("pathlib.Path.open", side_effect=failure):
        return open_and_assemble(path)


def open_and_assemble(path: Path) -> str:
    """Assemble a model from a checkpoint and return the class of its configuration."""
    assembly = assemble(Request(path))
    return f"accepted: {type(assembly.config).__name__}"


_OVERLAP = {"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}
CASES: tuple[Case, ...] = (
    Case(
        _FILES,
        "a missing file",
        lambda f: open_and_assemble(f / "no.safetensors"),
        "TensorFileError: no.safetensors: no such file or folder",
    ),
    Case(
        _FILES,
        "no permission to read it",
        _unreadable,
        "TensorFileError: model.safetensors: cannot be read: Permission denied",
    ),
    Case(
        _FILES,
        "an empty file",
        _safetensors(bytes(0)),
        "TensorFileError: model.safetensors: not a safetensors file, or truncated: a header of "
        "0 bytes in a file of 0 bytes",
    ),
    Case(
        _FILES,
        "a pointer of Git LFS",
        _safetensors(b"version https://git-lfs.github.com/spec/v1\n"),
        "TensorFileError: model.safetensors: a pointer of Git LFS instead of the file; run git lfs "
        "pull in its repository",
    ),
    Case(
        _FILES,
        "a text file",
        _safetensors(b"version 1\n"),
        "TensorFileError: model.safetensors: not a safetensors file, or truncated: a header of "
        "2336927755350992246 bytes in a file of 10 bytes",
    ),
    Case(
        _FILES,
        "a truncated file",
        _safetensors(valid_file()[:-4]),
        "TensorFileError: model.safetensors: the header describes a file of 140 bytes, but it has "
        "136; copy or download it again",
    ),
    Case(
        _FILES,
        "bytes after the last tensor",
        _safetensors(valid_file() + b"1234"),
        "TensorFileError: model.safetensors: the header describes a file of 140 bytes, but it has "
        "144; copy or download it again",
    ),
    Case(
        _FILES,
        "a header longer than the file",
        _safetensors(struct.pack("<Q", 2**40)),
        "TensorFileError: model.safetensors: not a safetensors file, or truncated: a header of "
        "1099511627776 bytes in a file of 8 bytes",
    ),
    Case(
        _FILES,
        "a damaged header",
        _safetensors(valid_file().replace(b'"F32"', b'"F32:')),
        "TensorFileError: model.safetensors: the header is not valid JSON",
    ),
    Case(
        _FILES,
        "overlapping tensors",
        _safetensors(_header(_OVERLAP, 12)),
        "TensorFileError: model.safetensors: tensor b overlaps the previous tensor (offset 4, "
        "expected 8)",
    ),
    Case(
        _FILES,
        "a shape that needs more bytes than its tensor has",
        _safetensors(_header({"a": _entry([2**40], 0, 8)}, 8)),
        "TensorFileError: model.safetensors: tensor a: shape (1099511627776,) of float32 needs "
        "4398046511104 bytes, but the header reserves 8",
    ),
    Case(
        _FILES,
        "a negative size",
        _safetensors(_header({"a": _entry([-2], 0, 8)}, 8)),
        "TensorFileError: model.safetensors: tensor a: invalid shape (-2,) or data_offsets 0 to 8",
    ),
    Case(
        _FILES,
        "an unknown dtype",
        _safetensors(_header({"a": {**_entry([2], 0, 8), "dtype": "F3"}}, 8)),
        "TensorFileError: model.safetensors: tensor a: dtype 'F3' is not supported",
    ),
    Case(
        _FILES,
        "an index that lists a missing file",
        _index({"b": "b.safetensors"}),
        "TensorFileError: model.safetensors.index.json: lists b.safetensors, which is not in the "
        "folder; copy or download what is missing",
    ),
    Case(
        _FILES,
        "an index that lists a tensor of no file",
        _index({"a": "a.safetensors", "b": "a.safetensors"}),
        "TensorFileError: model.safetensors.index.json: a.safetensors does not contain b",
    ),
    Case(
        _FILES,
        "an index that lists a file of another folder",
        _index({"a": "../a.safetensors"}),
        "TensorFileError: model.safetensors.index.json: '../a.safetensors' is not the name of "
        "a file beside it",
    ),
    Case(
        _FILES,
        "an index without a map",
        lambda f: ((f / INDEX).write_text("{}"), open_and_assemble(f))[1],
        "TensorFileError: model.safetensors.index.json: no field 'weight_map'; it is not an index "
        "of weights",
    ),
    Case(
        _FILES,
        "a .bin that would execute code",
        _pickled({"a": _Attack()}),
        "TensorFileError: pytorch_model.bin: refused: it contains more than a dictionary of "
        "tensors, and loading it would execute code. Get the checkpoint as safetensors, or from a "
        "trusted source",
    ),
    Case(
        _FILES,
        "a bare pickle that would execute code",
        _bare_pickle,
        "TensorFileError: pytorch_model.bin: refused: it contains more than a dictionary of "
        "tensors, and loading it would execute code. Get the checkpoint as safetensors, or from a "
        "trusted source",
    ),
    Case(
        _FILES,
        "a .bin with more than tensors",
        _pickled({"a": 1, "b": "c"}),
        "TensorFileError: pytorch_model.bin: not tensors: a, b",
    ),
    Case(
        _FILES,
        "a truncated .bin",
        _truncated_pickle,
        "TensorFileError: pytorch_model.bin: not a PyTorch file, or truncated",
    ),
)
