"""Sources of tensors: dtypes and shapes of all at once, values one tensor at a time."""

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
    """The tensors of a checkpoint of any format. `read` is thread-safe."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of every tensor."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in torch's layout."""
        ...


@runtime_checkable
class LeafSource(Protocol):
    """The leaves of a model. `read` is thread-safe."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape of every leaf."""
        ...

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """Return a leaf, or one layer of a stacked leaf, in the layout of this library."""
        ...


def shapes_of(source: TensorSource | LeafSource) -> dict[str, Shape]:
    """Return {name: shape} of everything in a source."""
    return {name: info.shape for name, info in source.infos.items()}


def nbytes_of(source: TensorSource | LeafSource) -> int:
    """Return the size of everything in a source, in bytes."""
    return sum(info.nbytes for info in source.infos.values())


class SafetensorsSource:
    """A safetensors file, or a folder of them with its index."""

    def __init__(self, path: Path):
        self._locations = read_folder(path) if path.is_dir() else read_header(path)
        self.infos = {name: location.info for name, location in self._locations.items()}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as a read-only map of its file."""
        return map_tensor(self._locations[name])


class MemorySource:
    """Arrays in memory: the leaves of a model's state, or the tensors of a checkpoint."""

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
    """Another source's tensors under other names.

    Args:
        source: the tensors.
        rename: returns the new name of a tensor, or None to leave the tensor out.

    Raises:
        WeightsError: two tensors get the same name.
    """

    def __init__(self, source: TensorSource, rename: Callable[[str], str | None]):
        self._source = source
        self._names: dict[str, str] = {}
        for old in source.infos:
            new = rename(old)
            if new is None:
                continue
            if new in self._names:
                raise WeightsError(
                    f"{self._names[new]} and {old} are two versions of {new}; remove one of them"
                )
            self._names[new] = old
        self.infos = {new: source.infos[old] for new, old in self._names.items()}

    def read(self, name: str) -> np.ndarray:
        """Return the tensor of this new name."""
        return self._source.read(self._names[name])


class OverlaidSource:
    """A source in which another one replaces and adds tensors.

    Args:
        base: the tensors that are replaced where both have one.
        overlay: the tensors that replace them.
    """

    def __init__(self, base: TensorSource, overlay: TensorSource):
        self._base, self._overlay = base, overlay
        self.infos: Mapping[str, TensorInfo] = {**base.infos, **overlay.infos}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor."""
        return (self._overlay if name in self._overlay.infos else self._base).read(name)


class ResizedVocabularySource:
    """Another source with rows appended to its embeddings and head, unless it has enough.

    Source: resize_token_embeddings of transformers, whose new rows are normal with 0.02.

    Args:
        source: tensors under LLaMA's names.
        num_rows: size of the new vocabulary.
        seed: of the new rows.
        tied: whether the head has the rows of the embeddings.
    """

    RESIZED = ("model.embed_tokens.weight", "lm_head.weight")

    def __init__(self, source: TensorSource, num_rows: int, seed: int, tied: bool = False):
        self._source, self._num_rows, self._seed, self._tied = source, num_rows, seed, tied
        self.infos = {
            name: info._replace(shape=(max(num_rows, info.shape[0]), *info.shape[1:]))
            if name in self.RESIZED
            else info
            for name, info in source.infos.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, with its new rows where it has any."""
        tensor = self._source.read(name)
        if name not in self.RESIZED or len(tensor) >= self._num_rows:
            return tensor
        rng = np.random.default_rng([self._seed, 0 if self._tied else self.RESIZED.index(name)])
        shape = (self._num_rows - len(tensor), *tensor.shape[1:])
        new_rows = 0.02 * rng.standard_normal(shape, np.float32)
        return np.concatenate([tensor, new_rows.astype(tensor.dtype)])


class JoinedSource:
    """Several sources as one.

    Raises:
        WeightsError: a tensor is in more than one source.
    """

    def __init__(self, sources: Sequence[TensorSource]):
        self._owners: dict[str, TensorSource] = {}
        duplicates = [
            name
            for source in sources
            for name in source.infos
            if self._owners.setdefault(name, source) is not source
        ]
        if duplicates:
            raise WeightsError(f"in more than one source: {', '.join(duplicates)}")
        self.infos = {name: source.infos[name] for name, source in self._owners.items()}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor from the source that has it."""
        return self._owners[name].read(name)
