"""A model file in onnxruntime, OpenCV or LiteRT.

    session = open_session(description, Path("nanodet.onnx"), "cpu", threads=1)
    outputs = session.run(np.zeros((1, 3, 416, 416), np.float32), ["Identity:0"])

onnxruntime reads ONNX, on the CPU and on accelerators; on the CPU, OpenCV reads ONNX, and LiteRT
TFLite. OpenCV 5.0 reads TFLite, too, but is not used for it: it returns the boxes of an SSD in
another order than LiteRT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.grand.adapters.onnx_models.description import ModelDescription, OutputName

# Device -> onnxruntime's provider.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
PACKAGES = {"onnxruntime": "onnxruntime", "opencv": "cv2", "litert": "ai_edge_litert"}
ENDINGS = {".onnx": ("onnxruntime", "opencv"), ".tflite": ("litert",)}
# How onnxruntime says that an array does not fit the memory of the device.
_MEMORY_TEXTS = ("failed to allocate memory", "smaller than requested bytes", "out of memory")
_BLOCK = 1 << 20


class ModelFileError(GLaMMError):
    """A model file does not fit its description, or cannot be opened. Names it and says why."""


@runtime_checkable  # by the tests
class ModelSession(Protocol):
    """A model that is loaded."""

    @property
    def has_free_batch(self) -> bool: ...

    def run(
        self, images: np.ndarray, names: Sequence[OutputName], sizes: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return outputs.

        Args:
            images: inputs, with an axis for the batch.
            names: of the outputs.
            sizes: width and height of each input, for models that want them.

        Raises:
            ModelFileError: the inputs do not fit the model, or it has no such output.
            MemoryError: the arrays do not fit the memory.
        """
        ...


def choose_engine(description: ModelDescription, path: Path) -> str:
    """Return the engine of a model file.

    Raises:
        ConfigError: no engine that reads the file is installed, or its ending is not known.
    """
    engines = ENDINGS.get(path.suffix.lower())
    if engines is None:
        raise ConfigError(f"{path}: the name of a model ends with {' or '.join(ENDINGS)}")
    if description.engine:
        if description.engine not in engines:
            raise ConfigError(f"{path}: {description.engine} does not read {path.suffix}")
        engines = (description.engine,)
    for engine in engines:
        if find_spec(PACKAGES[engine]) is not None:
            return engine
    raise ConfigError(
        f"{path}: {' or '.join(engines)} is not installed: pip install 'glamm-jax[annotate-onnx]'"
    )


def file_digest(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        ModelFileError: it cannot be read.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_session(
    description: ModelDescription, path: Path, device: str, threads: int
) -> ModelSession:
    """Load a model.

    Args:
        description: names the input.
        path: of the file.
        device: a key of `PROVIDERS`.
        threads: of the CPU, for each worker.

    Raises:
        ModelFileError: it cannot be loaded.
        ConfigError: the engine cannot use the device.
    """
    engine = choose_engine(description, path)
    if engine == "onnxruntime":
        return _RuntimeSession(description, path, device, threads)
    if device != "cpu":
        raise ConfigError(f"device = {device!r}: {engine} runs models on the CPU only")
    if description.input.size_name:
        raise ConfigError(f"{path}: input.size_name needs the engine onnxruntime")
    if engine == "opencv":
        return _OpenCVSession(description, path, threads)
    return _LiteRTSession(description, path, threads)


class _RuntimeSession:
    """A model in onnxruntime."""

    def __init__(self, description: ModelDescription, path: Path, device: str, threads: int):
        import onnxruntime

        provider = PROVIDERS[device]
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise ConfigError(
                f"device = {device!r}: this onnxruntime has no {provider}, but "
                f"{', '.join(available)}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3  # errors
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, [provider])
        except Exception as error:  # of the runtime, one class for each kind
            raise ModelFileError(f"{path}: cannot be loaded: {error}") from error
        used = self._session.get_providers()
        if provider not in used:
            raise ModelFileError(f"{path}: {provider} cannot be used, only {', '.join(used)}")
        self._path = path
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]
        table = description.input
        self._name = table.name or next(iter(self._inputs), "")
        self._size_name = table.size_name
        expected = {self._name, *((self._size_name,) if self._size_name else ())}
        for name in sorted(expected ^ {*self._inputs}):
            what = "has no input" if name in expected else "also needs the input"
            raise ModelFileError(f"{path}: {what} {name!r}; there are: {', '.join(self._inputs)}")

    @property
    def has_free_batch(self) -> bool:
        """Whether inputs of several images are possible."""
        size = self._inputs[self._name].shape[:1]
        return bool(size) and not isinstance(size[0], int)

    def run(
        self, images: np.ndarray, names: Sequence[OutputName], sizes: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return outputs; arguments as of `ModelSession`."""
        expected = self._inputs[self._name].shape
        fits = len(expected) == images.ndim and all(
            not isinstance(a, int) or a == b for a, b in zip(expected, images.shape, strict=True)
        )
        if not fits:
            raise ModelFileError(
                f"{self._path}: its input has the shape {expected}, that of the description "
                f"{list(images.shape)}; check layout, width and height"
            )
        feeds = {self._name: images}
        if self._size_name and sizes is not None:
            feeds[self._size_name] = sizes
        try:
            return self._session.run([self._output(name) for name in names], feeds)
        except Exception as error:
            text = str(error)
            if any(part in text.lower() for part in _MEMORY_TEXTS):
                raise MemoryError(f"out of memory: {text}") from error
            raise ModelFileError(f"{self._path}: {text}") from error

    def _output(self, name: OutputName) -> str:
        if isinstance(name, int) and name < len(self._outputs):
            return self._outputs[name]
        if name in self._outputs:
            return str(name)
        raise ModelFileError(
            f"{self._path}: has no output {name!r}; there are: {', '.join(self._outputs)}"
        )


class _OpenCVSession:
    """A model in OpenCV, which does not say what inputs it has."""

    has_free_batch = False

    def __init__(self, description: ModelDescription, path: Path, threads: int):
        import cv2

        cv2.setNumThreads(threads)
        self._path, self._name = path, description.input.name
        try:
            self._net: Any = cv2.dnn.readNetFromONNX(str(path))
            self._outputs = [str(name) for name in self._net.getUnconnectedOutLayersNames()]
        except cv2.error as error:
            raise ModelFileError(f"{path}: cannot be loaded: {error}") from error

    def run(
        self, images: np.ndarray, names: Sequence[OutputName], sizes: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return outputs; arguments as of `ModelSession`."""
        import cv2

        outputs = [self._output(name) for name in names]
        try:
            self._net.setInput(images, self._name)
            # Copies: the arrays are those of the network, which the next image overwrites.
            return [np.array(output) for output in self._net.forward(outputs)]
        except cv2.error as error:
            text = str(error)
            if "Insufficient memory" in text or "Failed to allocate" in text:
                raise MemoryError(f"out of memory: {text}") from error
            raise ModelFileError(
                f"{self._path}: with an input of shape {list(images.shape)} and the outputs "
                f"{', '.join(outputs)} (those of the file: {', '.join(self._outputs)}): {text}"
            ) from error

    def _output(self, name: OutputName) -> str:
        if isinstance(name, str):
            return name  # of any layer, beside those of the list
        if name < len(self._outputs):
            return self._outputs[name]
        raise ModelFileError(
            f"{self._path}: has no output {name}; there are: {', '.join(self._outputs)}"
        )


class _LiteRTSession:
    """A model in LiteRT."""

    has_free_batch = False

    def __init__(self, description: ModelDescription, path: Path, threads: int):
        from ai_edge_litert.interpreter import (  # pyright: ignore[reportMissingImports]  # an extra
            Interpreter,
        )

        self._path = path
        try:
            self._model: Any = Interpreter(str(path), num_threads=threads)
            self._model.allocate_tensors()
        except Exception as error:  # of C++
            raise ModelFileError(f"{path}: cannot be loaded: {error}") from error
        inputs = {item["name"]: item for item in self._model.get_input_details()}
        name = description.input.name or next(iter(inputs), "")
        if [*inputs] != [name]:
            raise ModelFileError(f"{path}: one input is due; there are: {', '.join(inputs)}")
        self._input = inputs[name]
        self._outputs = {item["name"]: item for item in self._model.get_output_details()}

    def run(
        self, images: np.ndarray, names: Sequence[OutputName], sizes: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return outputs; arguments as of `ModelSession`."""
        due = tuple(self._input["shape"]), np.dtype(self._input["dtype"])
        if (images.shape, images.dtype) != due:
            raise ModelFileError(
                f"{self._path}: its input has the shape {list(map(int, due[0]))} of {due[1]}, that "
                f"of the description {list(images.shape)} of {images.dtype}; check layout, width, "
                "height and dtype"
            )
        details = [self._output(name) for name in names]
        try:
            self._model.set_tensor(self._input["index"], images)
            self._model.invoke()
            return [self._read(item) for item in details]
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"{self._path}: {error}") from error

    def _read(self, item: dict[str, Any]) -> np.ndarray:
        """Return an output, as numbers if the model has it in steps."""
        array = self._model.get_tensor(item["index"])
        scale, zero = item["quantization"]
        return (array.astype(np.float32) - zero) * scale if scale else array

    def _output(self, name: OutputName) -> dict[str, Any]:
        own = self._outputs
        if isinstance(name, int) and name < len(own):
            return [*own.values()][name]
        if name in own:
            return own[str(name)]
        raise ModelFileError(f"{self._path}: has no output {name!r}; there are: {', '.join(own)}")
