"""Checkpoint folders in the original's format, their tensors drawn by the golden rule.

They stand in for released weights, which cannot be had everywhere: the names and shapes are those
that were recorded of the original, so what converts them converts the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.errors import GLaMMError
from glamm_jax.files import atomic_folder
from glamm_jax.testing import golden_weights
from glamm_jax.weights.folder import copy_tokenizer
from glamm_jax.weights.rules import Shapes, WeightTable
from glamm_jax.weights.safetensors import SHARD_BYTES, TensorInfo, TensorWriter
from glamm_jax.weights.tensor_sources import nbytes_of
from glamm_jax.weights.transfer import convert_dtype, run_in_threads

FLOAT32 = np.dtype(np.float32)


class GoldenSource:
    """Tensors of these names and shapes, drawn when they are read.

    Args:
        table: knows the buffers that are computed instead (rotary frequencies, position ids).
        dtype: what a tensor is stored as, by its name.
        prefix: stands before a name when it is drawn, as in the whole model's state dict.
    """

    def __init__(
        self,
        shapes: Shapes,
        table: WeightTable,
        *,
        dtype: Callable[[str], np.dtype] = lambda name: FLOAT32,
        prefix: str = "",
        salt: str = "",
    ):
        self._prefix, self._salt = prefix, salt
        self._computed = {
            name: unread.compute
            for name, unread in table.unmapped_by_name().items()
            if unread.compute is not None and name in shapes
        }
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(
                self._computed[name]().dtype if name in self._computed else dtype(name),
                tuple(shape),
            )
            for name, shape in shapes.items()
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        if name in self._computed:
            return self._computed[name]()
        info = self.infos[name]
        drawn = golden_weights.tensor(self._prefix + name, info.shape, self._salt)
        if drawn is None:
            raise GLaMMError(f"{name}: computed by models, but no table says how")
        return convert_dtype(drawn, info.dtype)


def write_checkpoint(
    source: GoldenSource,
    folder: Path,
    hf_config: Mapping[str, Any],
    *,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[str, int], None] = lambda name, nbytes: None,
) -> None:
    """A Hugging Face folder: safetensors with their index, config.json, tokenizer files.

    Raises: FolderError when it exists, does not fit or cannot be written.
    """
    with atomic_folder(folder, nbytes_of(source)) as target:

        def write(name: str) -> None:
            writer.write(name, source.read(name))
            on_tensor(name, source.infos[name].nbytes)

        with TensorWriter(target, shard_bytes=shard_bytes).open(source.infos) as writer:
            run_in_threads(write, source.infos)
        if tokenizer is not None:
            copy_tokenizer(tokenizer, target)
        text = json.dumps(dict(hf_config), indent=2) + "\n"
        (target / "config.json").write_text(text, encoding="utf-8")


def padded_tokenizer(source: Path, target: Path, pieces: int) -> None:
    """A tokenizer folder whose sentencepiece model has this many pieces.

    The new ones are characters of Unicode's private area, which no text holds: encodings stay.
    """
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # generated
    model.ParseFromString((source / "tokenizer.model").read_bytes())
    known = len(model.pieces)
    first_private = 0xF0000
    for i in range(pieces - known):
        model.pieces.add(piece=chr(first_private + i), score=-1e6 - i)
    model.trainer_spec.vocab_size = pieces
    target.mkdir(parents=True)
    copy_tokenizer(source, target)
    (target / "tokenizer.model").write_bytes(model.SerializeToString())
