"""What the roles of described models have in common: batches, errors, fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.onnx_models.decoding import Outputs, OutputShapeError
from glamm_jax.grand.adapters.onnx_models.description import read_description
from glamm_jax.grand.adapters.onnx_models.images import InputImageError, PreparedImage, prepare
from glamm_jax.grand.adapters.onnx_models.session import (
    PROVIDERS,
    ModelFileError,
    ModelSession,
    choose_engine,
    file_digest,
    open_session,
)
from glamm_jax.grand.roles import RoleError, RoleImage
from glamm_jax.grand.stages import one_line

Answer = TypeVar("Answer")
TRIAL_SIDE = 64  # pixels of the image with which `setup` tries a model


class DescribedModel:
    """A model in an ONNX or TFLite file.

    Args:
        description: path of the file that describes it.
        name: of the model.
        model: path of the model file, instead of that of the description.
        device: "cpu", or "cuda" and other accelerators of onnxruntime.
        batch_size: images in one call of the model, if it takes more than one.
        threads: of the CPU, for each worker.

    Attributes:
        name: of the model.
        fingerprint: changes with the model file, the description and the engine.
        needs_device: whether `device` is not the CPU.
        batch_size: as given.

    Raises:
        GLaMMError: a file or a package is missing, or the description cannot be used.
    """

    path_arguments = ("description", "model")
    decodings: tuple[str, ...] = ()

    def __init__(
        self,
        description: str,
        name: str = "",
        model: str = "",
        device: str = "cpu",
        batch_size: int = 1,
        threads: int = 1,
    ):
        where = Path(description)
        options = read_description(where)
        if options.output.decoding not in self.decodings:
            raise ConfigError(
                f"{where}: decoding = {options.output.decoding!r} is not for this role, but "
                f"{', '.join(self.decodings)}"
            )
        if device not in PROVIDERS:
            raise ConfigError(f"device = {device!r}: choose from {', '.join(PROVIDERS)}")
        for key, value in (("batch_size", batch_size), ("threads", threads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{key} = {value!r} is not a whole number above 0")
        path = Path(model) if model else options.model
        if path is None:
            raise ConfigError(f'{where}: names no model file; give it as model = "PATH"')
        self.description, self._path = options, path
        self._device, self._threads = device, threads
        self.name = name or path.stem
        self.needs_device = device != "cpu"
        self.batch_size = batch_size
        engine = choose_engine(options, path)
        # Without the paths: the same model elsewhere gives the same results.
        content = (engine, file_digest(path), repr({**vars(options), "model": None}))
        digest = hashlib.sha256("\0".join(content).encode()).hexdigest()
        self.fingerprint = f"{type(self).__name__}-{digest[:16]}"
        self._session: ModelSession | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which each worker opens for itself."""
        return self.__dict__ | {"_session": None}

    def setup(self) -> None:
        """Load the model and try it with an empty image.

        Raises:
            GLaMMError: it cannot be loaded, or its outputs are not those of the description.
        """
        self._session = open_session(self.description, self._path, self._device, self._threads)
        trial = prepare(np.zeros((TRIAL_SIDE, TRIAL_SIDE, 3), np.uint8), self.description.input)
        (outputs,) = self._run([trial])
        try:
            self.answer(outputs, trial)
        except OutputShapeError as error:
            raise ModelFileError(f"{self._path}: {error}") from error

    def answer(self, outputs: Outputs, image: PreparedImage) -> Any:
        """Return the result of the role for one image.

        Args:
            outputs: of the model for this image.
            image: its input.
        """
        raise NotImplementedError

    def answer_each(
        self,
        images: Sequence[RoleImage],
        answer: Callable[[int, Outputs, PreparedImage], Any] | None = None,
    ) -> list[Any]:
        """Return the answer to each image, or its error.

        Args:
            images: the batch.
            answer: a function of an image's number, its outputs and its input; None: `answer`.
        """
        if self._session is None:
            self.setup()
        results: list[Any] = [None] * len(images)
        prepared: dict[int, PreparedImage] = {}
        for place, image in enumerate(images):
            try:
                prepared[place] = prepare(image.pixels, self.description.input)
            except InputImageError as error:
                results[place] = RoleError("input", one_line(error))
        for places in self._batches(prepared):
            outputs = self._run([prepared[place] for place in places])
            for place, own in zip(places, outputs, strict=True):
                try:
                    if answer is None:
                        results[place] = self.answer(own, prepared[place])
                    else:
                        results[place] = answer(place, own, prepared[place])
                except OutputShapeError as error:
                    results[place] = RoleError("output", one_line(error))
        return results

    def _batches(self, prepared: dict[int, PreparedImage]) -> list[list[int]]:
        """Return the places of images that one call of the model may have, of equal shape."""
        assert self._session is not None
        limit = self.batch_size if self._session.has_free_batch else 1
        batches: list[list[int]] = []
        for place, image in prepared.items():
            last = batches[-1] if batches else []
            if last and len(last) < limit and prepared[last[0]].array.shape == image.array.shape:
                last.append(place)
            else:
                batches.append([place])
        return batches

    def _run(self, images: Sequence[PreparedImage]) -> list[Outputs]:
        """Call the model; returns the outputs of each image, whose batch is an axis of 1."""
        assert self._session is not None
        names = self.description.output.names
        stacked = np.stack([image.array for image in images])
        sizes = np.asarray([image.input_size for image in images], np.int64)
        arrays = self._session.run(stacked, names, sizes)
        if len(images) == 1:
            return [dict(zip(names, arrays, strict=True))]
        for name, array in zip(names, arrays, strict=True):
            if array.shape[:1] != (len(images),):
                raise ModelFileError(
                    f"{self._path}: output {name!r} has the shape {list(array.shape)} for "
                    f"{len(images)} images; use batch_size = 1"
                )
        return [
            {name: array[i : i + 1] for name, array in zip(names, arrays, strict=True)}
            for i in range(len(images))
        ]
