"""What the adapters of transformers share: options, loading, batches of equal shapes, checks.

Each item is prepared alone, and a call of the network has items whose arrays have equal shapes. So
nothing is padded because of other items, and a batch of one gives what a batch of many gives, but
for the rounding of sums.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import transformers
from PIL import Image

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.torch_models.model_files import (
    check_model,
    model_folder,
    model_identity,
)
from glamm_jax.grand.adapters.usable_images import answer_usable
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import Results, RoleError, RoleImage
from glamm_jax.grand.stages import one_line
from glamm_jax.json_files import show

DTYPES = ("auto", "float32", "bfloat16", "float16")
NOT_FINITE = RoleError("output", "the model's numbers are not finite")
Inputs = Mapping[str, torch.Tensor]
Item = TypeVar("Item")
# Part of a field's type -> what a file of roles may have in its place.
_KINDS: Mapping[str, tuple[type[Any], ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "None": (type(None),),
    "Sequence[str]": (list, tuple),
}
_OWN = ("name", "device", "batch_size")  # change no results


def in_range(default: float | None, low: float, high: float = math.inf) -> Any:
    """Return a field of an adapter: a number with a range.

    Args:
        default: its value.
        low: the smallest value.
        high: the largest value.
    """
    return field(default=default, metadata={"range": (low, high)})


def share(default: float | None) -> Any:
    """Return a field of an adapter: a number in [0, 1]."""
    return in_range(default, 0.0, 1.0)


@dataclass(eq=False, kw_only=True)
class TransformersAdapter:
    """A model of transformers in a role. The fields are the keys of a table of a file of roles.

    Attributes:
        name: of the model in the annotation.
        model: ORG/NAME or ORG/NAME@REVISION on the Hugging Face Hub, or a folder.
        device: as torch names it: "cpu", "cuda", "cuda:1"; "auto": "cuda" if there is one.
        dtype: of the weights and activations; "auto": that of the stored weights.
        batch_size: number of images, or of requests, that the network gets at once.
        needs_device: whether the device is another than the CPU.
        fingerprint: of the class, the model and all fields that change results.
    """

    name: str
    model: str = ""
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = in_range(8, 1)
    needs_device: bool = field(init=False)
    fingerprint: str = field(init=False)

    path_arguments: ClassVar[tuple[str, ...]] = ("model",)
    role: ClassVar[str] = ""  # in messages, with its article
    auto_class: ClassVar[str] = ""  # of transformers; has the list of the types that fit
    only_types: ClassVar[tuple[str, ...]] = ()  # of these, those that the adapter can use
    processor_class: ClassVar[str] = "AutoProcessor"  # of transformers
    # Parts of the names of tensors that change no result and that checkpoints may lack.
    unused_tensors: ClassVar[tuple[str, ...]] = ("num_batches_tracked", "position_ids")

    def __post_init__(self) -> None:
        """Check the fields; weights are neither downloaded nor read.

        Raises:
            ConfigError: a field has an invalid value, or there is no such model.
        """
        for item in fields(self):
            if item.init:
                setattr(self, item.name, _checked(item, getattr(self, item.name)))
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype = {self.dtype!r}: choose from {', '.join(DTYPES)}")
        self.needs_device = self._torch_device().type != "cpu"
        self._check()
        check_model(self.model)
        options = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.init and item.name not in (*_OWN, *self.path_arguments)
        }
        options |= {"class": type(self).__name__, "model": model_identity(self.model)}
        options |= self._file_contents()
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        self.fingerprint = f"{type(self).__name__}-{digest[:16]}"
        self._network: Any = None
        self._processor: Any = None
        self._config: Any = None

    def _check(self) -> None:
        """Check the fields of a subclass together."""

    def _file_contents(self) -> dict[str, str]:
        """Return the contents of files that change results, for the fingerprint."""
        return {}

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"device = {self.device!r}: {one_line(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `setup` makes, which each worker loads for itself."""
        names = {item.name for item in fields(self)}
        state = {key: value for key, value in self.__dict__.items() if key in names}
        return state | {"_network": None, "_processor": None, "_config": None}

    # ------------------------------------------------------------------ loading

    def setup(self) -> None:
        """Download the model if it is not in the cache, and load it.

        Raises:
            ConfigError: the model does not fit the role or cannot be loaded.
            HubError: the repository cannot be read.
        """
        if self._network is not None:
            return
        folder = model_folder(self.model)
        config = _load(self.model, transformers.AutoConfig.from_pretrained, folder)
        auto = self._auto(config)
        self._check_type(config, auto)
        transformers.logging.disable_progress_bar()  # there is one for the images
        loader = getattr(transformers, self.processor_class).from_pretrained
        # Always the same code for images, whether or not torchvision is installed.
        images = {} if self.processor_class == "AutoTokenizer" else {"backend": "pil"}
        self._processor = _load(self.model, loader, folder, **images)
        network, report = _load(
            self.model,
            auto.from_pretrained,
            folder,
            use_safetensors=True,
            dtype=self.dtype if self.dtype == "auto" else getattr(torch, self.dtype),
            output_loading_info=True,
        )
        missing = sorted(
            name
            for name in {*report["missing_keys"], *map(str, report["mismatched_keys"])}
            if not any(part in name for part in self.unused_tensors)
        )
        if missing:
            raise ConfigError(
                f"{self.model}: the weights of {type(network).__name__} lack {len(missing)} "
                f"tensors, such as {missing[0]}: no checkpoint of a model for this role"
            )
        try:
            network = network.to(self._torch_device())
        except (RuntimeError, AssertionError) as error:
            if "out of memory" in str(error).lower():
                raise
            raise ConfigError(f"device = {self.device!r}: {one_line(error)}") from error
        self._network, self._config = network.eval(), config
        self._prepare()

    def _auto(self, config: Any) -> Any:
        """Return the class of transformers that loads a model with this configuration."""
        return getattr(transformers, self.auto_class)

    def _check_type(self, config: Any, auto: Any) -> None:
        fitting = self.only_types or sorted({key.model_type for key in auto._model_mapping})
        if config.model_type not in fitting:
            raise ConfigError(
                f"{self.model}: a model of the type {config.model_type!r} cannot be {self.role}; "
                f"types that can: {', '.join(fitting)}"
            )

    def _prepare(self) -> None:
        """Make what a subclass needs besides the network, once."""

    # ------------------------------------------------------------------ calls

    def answer_usable(
        self, images: Sequence[RoleImage], answer: Callable[..., list[Any]], *columns: Sequence[Any]
    ) -> Results[Any]:
        """Answer for the images that have pixels; the others have an error.

        Args:
            images: the batch.
            answer: gets the usable images and their elements of `columns`; returns their results.
            columns: further inputs, each as long as the batch.
        """

        def with_model(*inputs: Any) -> list[Any]:
            self.setup()
            with torch.inference_mode():
                return answer(*inputs)

        return answer_usable(images, with_model, *columns)

    def batches(
        self, inputs: Sequence[Inputs], size: int
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield the places of items of equal shapes, and their arrays on the device.

        Args:
            inputs: the arrays of each item, with a first axis of the item.
            size: the largest number of items. With the number of images of a call it becomes
                smaller when the worker halves its batches.
        """
        groups: dict[Any, list[int]] = {}
        for place, arrays in enumerate(inputs):
            key = tuple((name, tuple(value.shape)) for name, value in sorted(arrays.items()))
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            for at in range(0, len(places), size):
                part = places[at : at + size]
                arrays = {
                    name: self.to_device(torch.cat([inputs[i][name] for i in part]))
                    for name in inputs[part[0]]
                }
                yield part, arrays

    def to_device(self, array: torch.Tensor) -> torch.Tensor:
        """Return an array on the device; floats have the dtype of the network."""
        dtype = self._network.dtype if array.is_floating_point() else None
        return array.to(self._network.device, dtype)

    def run(self, network: Callable[..., Any], /, **inputs: Any) -> Any:
        """Call the network or a part of it.

        Raises:
            ConfigError: the device cannot compute with the dtype.
        """
        try:
            return network(**inputs)
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented for 'Half'" in str(error) or "BFloat16'" in str(error):
                raise ConfigError(
                    f"dtype = {self._network.dtype}: {self._network.device} cannot compute this "
                    f'model with it; set dtype = "float32" ({one_line(error)})'
                ) from error
            raise

    def image_inputs(self, image: RoleImage) -> dict[str, torch.Tensor]:
        """Return the arrays of an image."""
        return arrays_of(self._processor(images=picture(image), return_tensors="pt"))


def _load(name: str, loader: Callable[..., Any], folder: Path, **options: Any) -> Any:
    try:
        return loader(folder, local_files_only=True, trust_remote_code=False, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        advice = ""
        if "video processor" in str(error).lower():
            advice = "; this type needs torchvision, which is not used here: choose another model"
        raise ConfigError(f"{name}: cannot be loaded: {one_line(error)}{advice}") from error


def _checked(item: Any, value: Any) -> Any:
    kinds = [kind for part in item.type.split(" | ") for kind in _KINDS[part]]
    if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{item.name} = {show(value)}: it has the type {item.type}")
    if isinstance(value, list | tuple):
        if not all(isinstance(x, str) and x.strip() for x in value):
            raise ConfigError(f"{item.name} = {show(value)}: not a list of texts")
        return tuple(value)
    if "range" in item.metadata and value is not None:
        low, high = item.metadata["range"]
        if not low <= value <= high:  # also NaN
            limits = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
            raise ConfigError(f"{item.name} = {value}: it is {limits}")
    return float(value) if float in kinds and value is not None else value


def picture(image: RoleImage) -> Image.Image:
    """Return an image as the processors of transformers take it."""
    return Image.fromarray(np.ascontiguousarray(image.pixels))


def image_size(image: RoleImage) -> tuple[int, int]:
    """Return height and width."""
    height, width, _ = image.pixels.shape
    return height, width


def crop(image: RoleImage, box: Box) -> Image.Image:
    """Return the whole pixels that a box touches; at least one, inside of the image."""
    height, width = image_size(image)
    x0, y0, x1, y1 = clipped(box, (height, width))
    left, top = min(math.floor(x0), width - 1), min(math.floor(y0), height - 1)
    right, bottom = max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1)
    return picture(image).crop((left, top, right, bottom))


def clipped(box: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the part of a box that is in the image.

    Args:
        box: x0 y0 x1 y1 in pixels.
        size: height and width of the image.
    """
    height, width = size
    x0, y0, x1, y1 = (
        min(max(float(value), 0.0), float(side))
        for value, side in zip(box, (width, height) * 2, strict=True)
    )
    return x0, y0, x1, y1


def detections_of(
    rows: Iterable[tuple[Sequence[float], float, str | None]], size: tuple[int, int]
) -> list[Detection]:
    """Return detections with the part of their boxes that is in the image, the best first.

    Boxes without such a part are left out: OWLv2 has some in the margin that makes a square of the
    image, and language models write boxes without area.

    Args:
        rows: box, score and label of each.
        size: height and width of the image.
    """
    result = []
    for box, score, label in rows:
        x0, y0, x1, y1 = part = clipped(box, size)
        if x0 < x1 and y0 < y1:
            result.append(Detection(part, min(max(score, 0.0), 1.0), label))
    return sorted(result, key=lambda detection: -detection.score)


def arrays_of(encoding: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the arrays of what a processor made."""
    return {key: value for key, value in encoding.items() if isinstance(value, torch.Tensor)}


def is_finite(*arrays: torch.Tensor) -> bool:
    """Return whether no array has infinite values or NaN."""
    return all(bool(torch.isfinite(array).all()) for array in arrays)
