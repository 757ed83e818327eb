"""A LoRA adapter as the model has it: one rank and one scale, in every layer.

peft allows another rank and another scale for each module, and layers without an adapter. All this
is represented exactly by uniform adapters: a smaller rank by columns of zeros, a layer without an
adapter by zeros, and another scale by a factor of B. The tensors that this changes are stored a
second time as they were, for the export.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from glamm_jax.config import PROJECTIONS
from glamm_jax.weights.peft_config import MERGE, AdapterSettings
from glamm_jax.weights.rules import WeightsError
from glamm_jax.weights.safetensors import TensorInfo
from glamm_jax.weights.tensor_sources import RenamedSource, TensorSource
from glamm_jax.weights.transfer import convert_dtype

FLOAT32 = np.dtype(np.float32)
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_DECODER_MODULE = re.compile(rf"model\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(PROJECTIONS)})")


@dataclass(frozen=True)
class _Matrix:
    """How a matrix of an adapter is made: the factor of its values; their number is padded."""

    info: TensorInfo
    source_name: str | None  # None: zeros
    factor: float = 1.0


class UniformAdapter:
    """The adapter's tensors with one rank and one scale; a `TensorSource`.

    Args:
        source: all tensors of the model, adapters under their injected names.
        settings: of the adapter's configuration file.

    Attributes:
        rank: the largest of all modules.
        scale: the one of most modules.
        infos: dtype and shape of every tensor.
        changed: tensors that differ from those of the source.
        added: tensors of modules that the source does not adapt.

    Raises:
        WeightsError: a matrix is missing, of another rank than the settings say, or adapts
            something else than a linear layer of the decoder; all are listed.
    """

    def __init__(self, source: TensorSource, settings: AdapterSettings):
        self._source = source
        modules = _adapted_modules(source, settings)
        scales = {module: settings.scale_of(module) for module in modules}
        ranks = [settings.rank_of(module) for module in modules]
        self.rank, self.scale = max(ranks), Counter(scales.values()).most_common(1)[0][0]
        self._matrices: dict[str, _Matrix] = {}
        for module, scale in scales.items():
            a, b = source.infos[module + _A], source.infos[module + _B]
            self._add(module + _A, a._replace(shape=(self.rank, a.shape[1])), 1.0)
            factor = 1.0 if scale == self.scale else scale / self.scale
            b = b if factor == 1.0 else b._replace(dtype=FLOAT32)
            self._add(module + _B, b._replace(shape=(b.shape[0], self.rank)), factor)
        self.changed = frozenset(
            name
            for name, matrix in self._matrices.items()
            if matrix.info != source.infos[name] or matrix.factor != 1.0
        )
        self.added = self._fill({module.rpartition(".")[2] for module in modules}, settings)
        self.infos: Mapping[str, TensorInfo] = {
            **source.infos,
            **{name: matrix.info for name, matrix in self._matrices.items()},
        }

    def _add(self, name: str, info: TensorInfo, factor: float) -> None:
        self._matrices[name] = _Matrix(info, name, factor)

    def _fill(self, targets: set[str], settings: AdapterSettings) -> frozenset[str]:
        """Add zeros for the modules that are not adapted in a stack that is."""
        dtypes = {
            (name.split(".lora_")[0].rpartition(".")[2], name[-len(_A) :]): matrix.info.dtype
            for name, matrix in self._matrices.items()
        }
        added = set()
        for name, info in self._source.infos.items():
            module = name.removesuffix(".weight")
            target = module.rpartition(".")[2]
            is_candidate = target in targets and _DECODER_MODULE.fullmatch(module)
            if not is_candidate or module + _A in self._matrices or settings.adapts(module):
                continue
            out_dim, in_dim = info.shape
            for suffix, shape in ((_A, (self.rank, in_dim)), (_B, (out_dim, self.rank))):
                zeros = TensorInfo(dtypes[target, suffix], shape)
                self._matrices[module + suffix] = _Matrix(zeros, None)
                added.add(module + suffix)
        return frozenset(added)

    def originals(self) -> TensorSource:
        """Return the tensors that are changed, as they were."""
        return RenamedSource(self._source, lambda name: name if name in self.changed else None)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in torch's layout."""
        matrix = self._matrices.get(name)
        if matrix is None or (matrix.source_name is not None and name not in self.changed):
            return self._source.read(name)
        array = np.zeros(matrix.info.shape, matrix.info.dtype)
        if matrix.source_name is not None:
            values = self._source.read(matrix.source_name)
            if matrix.factor != 1.0:
                values = convert_dtype(values, FLOAT32) * np.float32(matrix.factor)
            array[: values.shape[0], : values.shape[1]] = values
        return array


def _adapted_modules(source: TensorSource, settings: AdapterSettings) -> list[str]:
    """Return the modules that have an adapter, and compare them with the settings."""
    where = settings.where
    lora = [name for name in source.infos if ".lora_" in name]
    modules = sorted({name.split(".lora_")[0] for name in lora})
    names = {module + suffix for module in modules for suffix in (_A, _B)}
    problems = [f"{name} is not supported; {MERGE}" for name in lora if name not in names]
    problems += [f"missing tensor {name}" for name in sorted(names) if name not in source.infos]
    for module in modules:
        if not _DECODER_MODULE.fullmatch(module):
            problems.append(f"{module}: only linear layers of the decoder can be adapted; {MERGE}")
        elif not settings.adapts(module):
            problems.append(f"{module} is adapted, but target_modules and layers exclude it")
        rank = settings.rank_of(module)
        for suffix, axis in ((_A, 0), (_B, 1)):
            info = source.infos.get(module + suffix)
            if info is not None and (len(info.shape) != 2 or info.shape[axis] != rank):
                problems.append(f"{module}{suffix}: shape {info.shape}, but rank {rank} is stated")
    for name in source.infos:
        module = name.removesuffix(".weight")
        if settings.targets is not None and module not in modules:
            is_expected = _DECODER_MODULE.fullmatch(module) and settings.adapts(module)
            if is_expected and module != name:
                problems.append(f"missing tensors of the adapter of {module}")
    if problems:
        raise WeightsError(
            "\n".join([f"{where}: problems with the adapter ({len(problems)}):", *problems])
        )
    if not modules:
        raise WeightsError(f"{where}: the adapter contains no LoRA matrices")
    return modules


def check_saved_modules(settings: AdapterSettings, names: list[str]) -> None:
    """Check that the adapter contains every module that its configuration says it replaces.

    Args:
        settings: of the adapter.
        names: of the adapter's tensors.

    Raises:
        WeightsError: a module is missing.
    """
    for module in settings.modules_to_save:
        if not any(f".{module}." in f".{name}" for name in names):
            raise WeightsError(
                f"{settings.where}: modules_to_save lists {module!r}, but the adapter contains no "
                "tensor of it; save the adapter again, or merge it where it was trained"
            )
