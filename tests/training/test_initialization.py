"""A run starts from the weights that its configuration names; fingerprints identify weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config.experiment import ExperimentConfig, InitConfig
from glamm_jax.errors import ConfigError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.fingerprint import fingerprint
from glamm_jax.training.initialization import initial_model, load_trained_model, random_model
from glamm_jax.training.loop import train
from glamm_jax.training.run_folder import RunError
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.folder import write_model
from tests.small_experiment import TOKENIZER, get_config

CONFIG = get_config()
PLAIN = replace(CONFIG.model, lora=None)
OTHER_SEED = 77


def leaves(model: GLaMM) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in flatten_state(nnx.state(model)).items()}


def config_with(**init: str) -> ExperimentConfig:
    return replace(CONFIG, init=InitConfig(**init))


def written(folder: Path, model: GLaMM) -> str:
    write_model(folder, model.config, model, TOKENIZER)
    return str(folder)


def without_adapters(model: GLaMM) -> GLaMM:
    """Return the model without its LoRA adapters, which needs no other compiled program."""
    state = nnx.filter_state(nnx.state(model), lambda path, _: "lora" not in path)
    return nnx.merge(abstract_model(PLAIN)[0], state)


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], *names: str) -> None:
    for name in names or other:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_with_nothing_named_the_seed_draws_everything() -> None:
    one, same = leaves(initial_model(CONFIG)), leaves(random_model(CONFIG.model, CONFIG.seed))
    assert_same(one, same)
    other = leaves(random_model(CONFIG.model, OTHER_SEED))
    assert not np.array_equal(one["llama.lm_head.kernel"], other["llama.lm_head.kernel"])


def test_a_folders_model_gets_the_adapters_that_it_lacks(tmp_path: Path) -> None:
    model = without_adapters(random_model(CONFIG.model, OTHER_SEED))
    result = leaves(initial_model(config_with(model=written(tmp_path / "plain", model))))
    assert_same(result, leaves(model), *leaves(model))
    adapters = {name: value for name, value in result.items() if name not in leaves(model)}
    assert adapters
    assert all(".lora." in name for name in adapters)
    assert not any(value.any() for name, value in adapters.items() if name.endswith(".b"))


def test_adapters_that_are_not_wanted_are_to_be_merged_first(tmp_path: Path) -> None:
    folder = written(tmp_path / "adapted", random_model(CONFIG.model, OTHER_SEED))
    optim = replace(CONFIG.optim, trainable="everything")
    with pytest.raises(ConfigError, match=r"has adapters .* merge them first"):
        initial_model(replace(config_with(model=folder), optim=optim, model=PLAIN))


def test_another_model_is_refused_field_by_field(tmp_path: Path) -> None:
    other = replace(CONFIG.model, text_projection_activation="gelu")
    folder = written(tmp_path / "other", random_model(other, OTHER_SEED))
    with pytest.raises(ConfigError, match=r"model\.text_projection_activation = relu, there gelu"):
        initial_model(config_with(model=folder))


def test_a_region_encoder_comes_from_a_folder_of_its_own(tmp_path: Path) -> None:
    donor = leaves(random_model(CONFIG.model, OTHER_SEED))
    folder = written(tmp_path / "donor", random_model(CONFIG.model, OTHER_SEED))
    result = leaves(initial_model(config_with(region_encoder=folder)))
    random = leaves(initial_model(CONFIG))
    replaced = [name for name in result if name.startswith("region_encoder.")]
    assert_same(result, donor, *replaced)
    assert_same(result, random, *(result.keys() - set(replaced)))
    assert any(not np.array_equal(result[name], random[name]) for name in replaced)


def test_a_run_is_where_another_begins(tmp_path: Path) -> None:
    list(train(CONFIG, tmp_path / "run", 1))
    _, trained = load_trained_model(tmp_path / "run")
    result = leaves(initial_model(config_with(run=str(tmp_path / "run"))))
    random = leaves(initial_model(CONFIG))
    assert_same(result, leaves(trained))
    assert not np.array_equal(result["llama.lm_head.kernel"], random["llama.lm_head.kernel"])
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="checkpoints: no checkpoints"):
        load_trained_model(tmp_path / "run")


def test_a_fingerprint_tells_every_bit_and_every_place() -> None:
    def state(values: list[float], name: str = "kernel") -> nnx.State:
        return nnx.State({"layer": {name: nnx.Param(jnp.array(values))}})

    one = fingerprint(state([1.0, 2.0, 3.0]))
    assert one == fingerprint(state([1.0, 2.0, 3.0]))
    assert one != fingerprint(state([2.0, 1.0, 3.0]))
    assert one != fingerprint(state([1.0, 2.0, np.nextafter(np.float32(3), np.float32(4))]))
    assert one != fingerprint(state([1.0, 2.0, 3.0], name="bias"))
    half = nnx.State({"layer": {"kernel": nnx.Param(jnp.array([1.0, 2.0, 3.0], jnp.bfloat16))}})
    assert one != fingerprint(half)
