"""Where tensors come from: names, dtypes and shapes at once, bytes one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from glamm_jax.weights.rules import Shape, WeightsError
from glamm_jax.weights.safetensors import TensorInfo, map_tensor, read_folder, read_header


@runtime_checkable
class TensorSource(Protocol):
    """A checkpoint of any format. `read` may be called from several threads."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of every tensor."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One tensor, in torch's layout."""
        ...


@runtime_checkable
class LeafSource(Protocol):
    """The leaves of a model. `read` may be called from several threads."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of every leaf."""
        ...

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """A leaf, or one layer of a stacked one, in our layout."""
        ...


class SafetensorsSource:
    """A safetensors file, or a folder of them with its index."""

    def __init__(self, path: Path):
        self._places = read_folder(path) if path.is_dir() else read_header(path)
        self.infos = {name: place.info for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor, a read-only map of its file."""
        return map_tensor(self._places[name])


def shapes_of(source: TensorSource | LeafSource) -> dict[str, Shape]:
    """{name: shape} of everything a source holds."""
    return {name: info.shape for name, info in source.infos.items()}


def nbytes_of(source: TensorSource | LeafSource) -> int:
    """How much a source holds."""
    return sum(info.nbytes for info in source.infos.values())


class MemorySource:
    """Arrays in memory: the leaves of a model's state, or a checkpoint's tensors."""

    def __init__(self, arrays: Mapping[str, np.ndarray | jax.Array]):
        self._arrays = arrays
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(np.dtype(array.dtype), tuple(array.shape))
            for name, array in arrays.items()
        }

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """Return an array, or one entry of its leading axis."""
        array = self._arrays[name]
        return np.asarray(array if position is None else array[position])


class RenamedSource:
    """Another source's tensors under other names; those that `rename` maps to None are left out."""

    def __init__(self, source: TensorSource, rename: Callable[[str], str | None]):
        self._source = source
        self._names = {new: old for old in source.infos if (new := rename(old)) is not None}
        self.infos = {new: source.infos[old] for new, old in self._names.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor that carries this name now."""
        return self._source.read(self._names[name])


class ResizedVocabularySource:
    """Another source whose vocabulary has more rows: small noise behind the ones it knows.

    Source: resize_token_embeddings of transformers, whose new rows are normal with 0.02.
    """

    ROWS = ("model.embed_tokens.weight", "lm_head.weight")

    def __init__(self, source: TensorSource, rows: int, seed: int):
        self._source, self._rows, self._seed = source, rows, seed
        self.infos = {
            name: info._replace(shape=(rows, *info.shape[1:])) if name in self.ROWS else info
            for name, info in source.infos.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The tensor, with its new rows if it has any."""
        known = self._source.read(name)
        if name not in self.ROWS:
            return known
        draw = np.random.default_rng([self._seed, self.ROWS.index(name)])
        new = 0.02 * draw.standard_normal((self._rows - len(known), *known.shape[1:]), np.float32)
        return np.concatenate([known, new.astype(known.dtype)])


class JoinedSource:
    """Several sources as one.

    Raises: WeightsError naming the tensors that more than one of them holds.
    """

    def __init__(self, sources: Sequence[TensorSource]):
        self._owners: dict[str, TensorSource] = {}
        twice = [
            name for source in sources for name in source.infos if not self._claim(name, source)
        ]
        if twice:
            raise WeightsError(f"held by more than one source: {', '.join(twice)}")
        self.infos = {name: source.infos[name] for name, source in self._owners.items()}

    def _claim(self, name: str, source: TensorSource) -> bool:
        return self._owners.setdefault(name, source) is source

    def read(self, name: str) -> np.ndarray:
        """The tensor, from the source that holds it."""
        return self._owners[name].read(name)
