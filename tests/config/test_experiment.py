"""Experiments check themselves, are changed by name, and are frozen as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

import configs
from configs.tiny import get_config
from glamm_jax.config import tiny, with_lora
from glamm_jax.config.experiment import (
    CheckpointConfig,
    ConversationConfig,
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    MixtureEntry,
    OptimConfig,
    ValidationConfig,
)
from glamm_jax.config.overrides import SYNONYMS, with_overrides
from glamm_jax.data.sources.registry import datasets
from glamm_jax.data.split_folder import dataset_name
from glamm_jax.errors import ConfigError
from glamm_jax.weights.config_file import config_from_json, config_to_json


@pytest.fixture
def config() -> ExperimentConfig:
    return get_config()


RECIPES = sorted(
    path.stem
    for path in Path(configs.__path__[0]).glob("*.py")
    if path.stem not in ("__init__", "mixtures")
)


@pytest.mark.parametrize("name", RECIPES)
def test_an_experiment_is_the_frozen_one(name: str, goldens: Path) -> None:
    """`tests/goldens/experiments/NAME.json` is written anew by hand when a recipe changes."""
    config = import_module(f"configs.{name}").get_config()
    frozen = (goldens / "experiments" / f"{name}.json").read_text(encoding="utf-8")
    assert json.dumps(config_to_json(config), indent=1) + "\n" == frozen
    assert config_from_json(ExperimentConfig, json.loads(frozen)) == config


SMALL = ("tiny", "learn", "adapt", "finetune_own", "miniworld_pretrain", "miniworld_finetune_gcg")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SMALL])
def test_recipes_name_datasets_that_can_be_converted_and_steps_of_160(name: str) -> None:
    config = import_module(f"configs.{name}").get_config()
    known = {f"shards/{dataset_name(name)}/1.0.0" for name in datasets()}
    assert {part.dataset for part in config.data.mixture} <= known
    pictures = (
        config.data.batch_shape.images * config.data.batch_slices * config.optim.accumulation_steps
    )
    assert pictures == 160
    assert sum(part.weight for part in config.data.mixture) == pytest.approx(1, abs=1e-4)


MIXTURE = (MixtureEntry("shards", ("caption",)),)
BAD_FIELDS = [
    (OptimConfig, "peak_lr", 0.0),
    (OptimConfig, "schedule", "cosine"),
    (OptimConfig, "warmup_steps", 5001),
    (OptimConfig, "total_steps", 0),
    (OptimConfig, "betas", (0.9, 1.0)),
    (OptimConfig, "weight_decay", -0.1),
    (OptimConfig, "clip_norm", 0.0),
    (OptimConfig, "trainable", "some"),
    (OptimConfig, "unused_parts", "move"),
    (OptimConfig, "accumulation_steps", 0),
    (OptimConfig, "max_skipped_steps", 0),
    (MeshConfig, "data", -1),
    (MeshConfig, "fsdp", 0),
    (CheckpointConfig, "every", 0),
    (CheckpointConfig, "keep_last", 0),
    (CheckpointConfig, "keep_best", -1),
    (CheckpointConfig, "keep_every", -1),
    (CheckpointConfig, "every_minutes", -1.0),
    (ValidationConfig, "every_minutes", -1.0),
    (ValidationConfig, "every", -1),
    (ValidationConfig, "num_examples", 0),
    (ValidationConfig, "num_panels", -1),
    (DataConfig, "tokenizer", ""),
    (DataConfig, "seed", -1),
    (DataConfig, "batch_slices", 0),
    (DataConfig, "workers", -1),
    (DataConfig, "mixture", ()),
    (ConversationConfig, "max_turns", 0),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("owner", "field", "value"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_value(owner: type, field: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        owner(**{"mixture": MIXTURE} | {field: value} if owner is DataConfig else {field: value})
    assert str(error.value).startswith(f"{owner.__name__}.{field} = {value!r}: ")


def test_parts_that_do_not_fit_each_other_are_named(config: ExperimentConfig) -> None:
    adapted = replace(config.optim, trainable="released")
    with pytest.raises(ConfigError, match=r"GLaMMConfig\.lora = None: .*with_lora"):
        replace(config, optim=adapted)
    assert replace(config, model=with_lora(tiny(800)), optim=adapted).model.lora is not None
    long = replace(config.data.batch_shape, tokens=2049)
    with pytest.raises(ConfigError, match=r"BatchShape\.tokens = 2049: .* = 2048"):
        replace(config, data=replace(config.data, batch_shape=long))


@pytest.mark.usefixtures("unchecked")
def test_quotas_that_cannot_hold_a_task_of_the_mixture_are_named(config: ExperimentConfig) -> None:
    regions = MixtureEntry("miniworld/easy", ("caption", "region"))
    with pytest.raises(
        ConfigError, match=r"BatchShape\.region_images = 0: .*'region'\) of the mix"
    ):
        replace(config.data, mixture=(regions,))
    blind = replace(config.data.batch_shape, grounding_images=0)
    with pytest.raises(ConfigError, match=r"BatchShape\.grounding_images = 0: tasks \('gcg',\)"):
        replace(config.data, batch_shape=blind)
    with pytest.raises(ConfigError, match=r"MixtureEntry\.tasks = \('gcd',\): choose some of"):
        MixtureEntry("miniworld/easy", ("gcd",))
    with pytest.raises(ConfigError, match=r"MixtureEntry\.weight = 0: must be positive"):
        MixtureEntry("miniworld/easy", ("gcg",), weight=0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.peak_lr=1e-4", 1e-4),
        ("optim.total_steps = 70", 70),
        ("optim.betas=0.8,0.99", (0.8, 0.99)),
        ("optim.unused_parts=zero", "zero"),
        ("data.tokenizer=some/folder", "some/folder"),
        ("model.sam.global_blocks=2,3", (2, 3)),
        ("model.region.box_scale=none", None),
        ("model.region.box_scale=336", 336.0),
        ("data.mixture.0.dataset=shards/mine/1.0.0", "shards/mine/1.0.0"),
        ("data.mixture.0.conversation.max_turns=7", 7),
        ("seed=3", 3),
    ],
)
def test_an_override_is_read_as_its_fields_type(
    config: ExperimentConfig, text: str, value: object
) -> None:
    changed: object = with_overrides(config, [text])
    for name in text.partition("=")[0].strip().split("."):
        changed = changed[int(name)] if isinstance(changed, tuple) else getattr(changed, name)
    assert changed == value
    assert type(changed) is type(value)


def test_every_synonym_names_a_field(config: ExperimentConfig) -> None:
    for other, field in SYNONYMS.items():
        with pytest.raises(ConfigError, match=rf"did you mean {re.escape(field)}\?"):
            with_overrides(config, [f"{other}=1"])


def test_overrides_are_checked_together_and_touch_nothing_else(config: ExperimentConfig) -> None:
    texts = ["optim.total_steps=3", "optim.warmup_steps=3", "seed=5"]
    expected = replace(config, seed=5, optim=replace(config.optim, total_steps=3, warmup_steps=3))
    assert with_overrides(config, texts) == with_overrides(config, reversed(texts)) == expected
    with pytest.raises(ConfigError, match=r"OptimConfig\.warmup_steps = 5"):
        with_overrides(config, ["optim.total_steps=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim.peak_rl=1",
            r"no configuration field 'optim.peak_rl'; did you mean optim.peak_lr\?",
        ),
        ("clip_norm=1", r"'clip_norm'; did you mean optim.clip_norm\?"),
        ("lr=1e-3", r"no configuration field 'lr'; did you mean optim.peak_lr\?"),
        ("optim.learning_rate=1", r"did you mean optim.peak_lr\?"),
        ("max_grad_norm=1", r"did you mean optim.clip_norm\?"),
        ("epochs=3", r"did you mean optim.total_steps\?"),
        ("data.mixture=x", r"data.mixture.0.dataset\? --data FOLDER replaces all datasets"),
        ("optim=1", "no configuration field 'optim'; set one of its fields: optim.peak_lr,"),
        (
            "data.mixture.9.weight=1",
            r"'data.mixture.9.weight'; did you mean data.mixture",
        ),
        ("phlogiston=1", "no configuration field 'phlogiston'$"),
        ("optim.peak_lr", "write name=value"),
        ("optim.total_steps=1.5", "optim.total_steps=1.5: not int"),
        ("optim.unused_parts=move", r"choose from \('skip', 'zero'\)"),
        ("optim.betas=0.9", "optim.betas=0.9: 2 values"),
        ("model.lora=8", "model.lora=8: not LoRAConfig; it cannot be set"),
    ],
)
def test_an_override_that_cannot_be_is_explained(
    config: ExperimentConfig, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides(config, [text])
