"""A step has the images of its recipe on any number of devices, or says which numbers it allows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from configs import finetune_gcg, pretrain
from glamm_jax.errors import ConfigError
from glamm_jax.training.run_folder import CONFIG
from glamm_jax.training.step_layout import laid_out
from glamm_jax.weights.config_file import config_to_json

RECIPE = finetune_gcg.get_config()


@pytest.mark.parametrize(
    ("devices", "images", "batches"),
    [(10, 4, 4), (16, 2, 5), (20, 4, 2), (32, 1, 5), (40, 4, 1), (160, 1, 1)],
)
def test_devices_that_cannot_divide_the_slices_of_a_recipe_get_one_each(
    devices: int, images: int, batches: int
) -> None:
    config = laid_out(RECIPE, devices)
    shape = config.data.batch_shape
    assert (config.data.batch_slices, shape.images, config.optim.accumulation_steps) == (
        *(devices, images, batches),
    )
    assert devices * images * batches == 160
    rows = math.ceil(images / finetune_gcg.IMAGES_PER_ROW)
    assert (shape.rows, shape.grounding_images, shape.masks) == (rows, images, 8 * images)
    assert (shape.tokens, shape.mask_height) == (1792, 640)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_devices_that_divide_the_slices_of_a_recipe_use_them(devices: int) -> None:
    assert laid_out(RECIPE, devices) == RECIPE


def test_a_layout_of_another_number_of_images_is_an_error() -> None:
    config = replace(RECIPE, data=replace(RECIPE.data, batch_slices=16))
    with pytest.raises(ConfigError, match=r"4 x data.batch_slices 16 x .* 5 = 320 images, but"):
        laid_out(config, 16)


def test_quotas_that_do_not_divide_are_rounded_up() -> None:
    shape = laid_out(pretrain.get_config(), 32).data.batch_shape
    assert (shape.images, shape.region_images, shape.regions, shape.grounding_images) == (
        *(1, 1, 5, 1),
    )


def test_devices_that_cannot_divide_the_images_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"160 cannot be divided among 64 devices .* use 40 or 80"
    ):
        laid_out(RECIPE, 64)
    with pytest.raises(ConfigError, match=r"among 256 devices .* use 160 of them"):
        laid_out(RECIPE, 256)


def test_a_layout_that_is_set_stays() -> None:
    config = replace(RECIPE, data=replace(RECIPE.data, step_images=0, batch_slices=64))
    assert laid_out(config, 64) == config


def test_a_run_keeps_its_layout_where_the_devices_can_divide_it(tmp_path: Path) -> None:
    started = laid_out(RECIPE, 16)
    (tmp_path / CONFIG).write_text(json.dumps(config_to_json(started)))
    for devices in (16, 8, 2):
        assert laid_out(RECIPE, devices, tmp_path) == started
    assert laid_out(RECIPE, 32, tmp_path) == laid_out(RECIPE, 32)
