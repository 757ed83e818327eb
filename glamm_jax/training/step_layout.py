"""How a step of a given number of images is laid out on a number of devices.

A recipe of 160 images, as 5 batches of 8 slices of 4 images, runs so on 1, 2, 4 and 8 devices; on
16 devices as 5 batches of 16 x 2, on 32 as 5 of 32 x 1, on 40 as one of 40 x 4.
"""

from __future__ import annotations

import math
from dataclasses import replace

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.errors import ConfigError
from glamm_jax.storage import AnyPath
from glamm_jax.training.run_folder import CONFIG, read_run_config
from glamm_jax.types import BatchShape

# The fields of a batch's shape that change with its number of images.
_COUNTS = ("rows", "images", "region_images", "regions", "grounding_images", "masks")


def laid_out(
    config: ExperimentConfig, num_devices: int, run: AnyPath | None = None
) -> ExperimentConfig:
    """Return a configuration whose steps have `data.step_images` images on so many devices.

    Where the devices cannot divide the slices as configured, there is one slice for each device, of
    as many images as `data.batch_shape` has or fewer, and as many batches as are needed. A run that
    exists keeps the layout that it started with, since the order of the samples follows from it.

    Args:
        config: of a run. Without `data.step_images` it is returned as it is.
        num_devices: that divide the batch: `data` x `fsdp`.
        run: folder of the run, if it may exist.

    Raises:
        ConfigError: the configured layout has another number of images, or the devices cannot
            divide the images.
    """
    total, data = config.data.step_images, config.data
    if not total:
        return config
    images, batches = data.batch_shape.images, config.optim.accumulation_steps
    if images * data.batch_slices * batches != total:
        raise ConfigError(
            f"data.batch_shape.images {images} x data.batch_slices {data.batch_slices} x "
            f"optim.accumulation_steps {batches} = {images * data.batch_slices * batches} images, "
            f"but data.step_images = {total}; set it to 0 to use the three as they are"
        )
    if run is not None and (run / CONFIG).exists():
        stored = read_run_config(run)
        if stored.data.step_images == total and stored.data.batch_slices % num_devices == 0:
            shape, slices = stored.data.batch_shape, stored.data.batch_slices
            return _with_layout(config, shape, slices, stored.optim.accumulation_steps)
    if data.batch_slices % num_devices == 0:
        return config
    if total % num_devices:
        raise ConfigError(
            f"data.step_images = {total} cannot be divided among {num_devices} devices (data x "
            f"fsdp); use {_nearest_divisors(total, num_devices)} of them (mesh.devices), or "
            "another number of images"
        )
    own_images = total // num_devices
    in_slice = max(n for n in range(1, images + 1) if own_images % n == 0)
    counts = {
        name: math.ceil(getattr(data.batch_shape, name) * in_slice / images) for name in _COUNTS
    }
    shape = replace(data.batch_shape, **counts)
    return _with_layout(config, shape, num_devices, own_images // in_slice)


def _with_layout(
    config: ExperimentConfig, shape: BatchShape, slices: int, batches: int
) -> ExperimentConfig:
    return replace(
        config,
        data=replace(config.data, batch_shape=shape, batch_slices=slices),
        optim=replace(config.optim, accumulation_steps=batches),
    )


def _nearest_divisors(total: int, number: int) -> str:
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    nearest = [max(n for n in divisors if n < number), *[n for n in divisors if n > number][:1]]
    return " or ".join(map(str, nearest))
