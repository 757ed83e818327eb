"""What the roles of this library's own models have in common."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakValueDictionary

from glamm_jax.config import DType
from glamm_jax.errors import ConfigError
from glamm_jax.json_files import show
from glamm_jax.weights.config_file import config_to_json
from glamm_jax.weights.folder import ModelFolder

SAMPLED_BYTES = 4096  # of each tensor, for the fingerprint
DTYPES = ("float32", "bfloat16", "float16")

Model = TypeVar("Model")
# What roles of this process have loaded, while one of them exists.
_LOADED: WeakValueDictionary[Any, Any] = WeakValueDictionary()


class ModelRole(Generic[Model]):
    """A role that a model folder plays. The weights are loaded by `setup`.

    Its fingerprint has the configuration, the first bytes of every tensor, and all arguments.

    Attributes:
        name: of the model.
        fingerprint: changes with everything that changes results.
        needs_device: one worker for each accelerator.
        batch_size: images of a call.

    Args:
        name: of the model.
        model: a model folder, or ORG/NAME of the Hugging Face Hub.
        dtype: of the weights and of the computation; "": as stored.
        batch_size: images of a call.
        settings: all other arguments that change results.

    Raises:
        ConfigError, FolderError: an argument or the folder cannot be used.
    """

    path_arguments: ClassVar[tuple[str, ...]] = ("model",)
    needs_device = True

    def __init__(self, name: str, model: str, dtype: str, batch_size: int, **settings: Any):
        if dtype and dtype not in DTYPES:
            raise ConfigError(f"dtype = {show(dtype)}: choose from {', '.join(DTYPES)}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size = {show(batch_size)}: at least 1")
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model = {show(model)} is not the path of a model folder")
        self.name, self.batch_size, self._path = name, batch_size, model
        self.dtype: DType | None = dtype or None  # type: ignore[assignment]  # checked above
        content = [type(self).__name__, name, _content(ModelFolder(model)), dtype, settings]
        text = json.dumps(content, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.fingerprint = f"{type(self).__name__}-{digest[:16]}"
        self._model: Model | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the weights, which each worker loads for itself."""
        return self.__dict__ | {"_model": None}

    def setup(self) -> None:
        """Load the weights, unless another role of this process has them already."""
        if self._model is None:
            key = (type(self).load, self._path, self.dtype)
            model = _LOADED.get(key)
            self._model = _LOADED[key] = self.load() if model is None else model

    def load(self) -> Model:
        """Return the model."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        """The model, loaded."""
        self.setup()
        assert self._model is not None
        return self._model


def _content(folder: ModelFolder) -> list[Any]:
    """Describe the content of a folder, wherever it is."""
    digest = hashlib.sha256()
    for name in sorted(folder.infos):
        info = folder.infos[name]
        digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
        digest.update(folder.read(name).reshape(-1)[:SAMPLED_BYTES].tobytes()[:SAMPLED_BYTES])
    return [config_to_json(folder.config), digest.hexdigest()]
