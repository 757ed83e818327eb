"""Presets are frozen as text; an error names the invalid field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from glamm_jax.config import (
    CLIP_H14_224,
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    LoRAConfig,
    RegionConfig,
    RopeScaling,
    SAMConfig,
    TokenConfig,
    paper,
    released,
    tiny,
    with_lora,
)
from glamm_jax.config.model import preset_of
from glamm_jax.errors import ConfigError
from glamm_jax.weights.config_file import config_from_json, config_to_json

PRESETS: dict[str, Callable[[], GLaMMConfig]] = {
    "released": released,
    "released_lora": lambda: with_lora(released()),
    "paper": paper,
    "paper_lora": lambda: with_lora(paper(), "paper"),
    "tiny": tiny,
    "tiny_paper": lambda: tiny(preset="paper"),
}


def resolved(config: GLaMMConfig) -> str:
    """Return the complete configuration as text, one field per line."""
    return json.dumps(config_to_json(config), indent=1) + "\n"


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_the_frozen_one(name: str, goldens: Path) -> None:
    # An intended change is made in both places; the diff of the text shows all its effects.
    frozen = (goldens / "configs" / f"{name}.json").read_text(encoding="utf-8")
    assert resolved(PRESETS[name]()) == frozen


def test_every_frozen_preset_exists(goldens: Path) -> None:
    assert {path.stem for path in (goldens / "configs").iterdir()} == set(PRESETS)


BAD_FIELDS = [
    (CLIPConfig, "image_size", 337),
    (CLIPConfig, "num_heads", 5),
    (CLIPConfig, "activation", "tanh"),
    (CLIPConfig, "norm_eps", 0.0),
    (CLIPConfig, "num_layers", 0),
    (CLIPConfig, "projector_layer", 25),
    (CLIPConfig, "region_layers", (-26, -2)),
    (LlamaConfig, "vocab_size", 0),
    (LlamaConfig, "num_heads", 33),
    (LlamaConfig, "num_heads", 4096),
    (LlamaConfig, "norm_eps", 0.0),
    (LlamaConfig, "remat", "some"),
    (LoRAConfig, "rank", 0),
    (LoRAConfig, "dropout", 1.0),
    (LoRAConfig, "targets", ("q_proj", "w_proj")),
    (RegionConfig, "roi_size", 0),
    (RegionConfig, "output", "none"),
    (RegionConfig, "compute_dtype", "float16"),
    (SAMConfig, "image_size", 1000),
    (SAMConfig, "num_heads", 7),
    (SAMConfig, "global_blocks", (7, 32)),
    (SAMConfig, "global_blocks", (15, 7)),
    (SAMConfig, "global_blocks", (7, 7)),
    (SAMConfig, "out_dim", 260),
    (SAMConfig, "decoder_heads", 6),
    (SAMConfig, "mask_channels", 6),
    (TokenConfig, "seg", -1),
    (TokenConfig, "phrase_end", -1),
    (GLaMMConfig, "projector_activation", "tanh"),
    (GLaMMConfig, "text_projection_activation", "tanh"),
    (GLaMMConfig, "compute_dtype", "float16"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("owner", "field", "value"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_value(owner: type, field: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        owner(**{field: value})
    assert str(error.value).startswith(f"{owner.__name__}.{field} = {value!r}: ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"region": RegionConfig(norm_groups=60)}, "RegionConfig.norm_groups"),
        ({"region": RegionConfig(mid_dim=512, output="shared")}, "RegionConfig.mid_dim"),
        ({"clip": CLIPConfig(hidden_dim=66, num_heads=3)}, "CLIPConfig.hidden_dim"),
        ({"tokens": TokenConfig(seg=32007)}, "TokenConfig.seg"),
        ({"tokens": TokenConfig(phrase_end=32007)}, "TokenConfig.phrase_end"),
        ({"tokens": TokenConfig(eos=40000)}, "TokenConfig.eos"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(change: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(released(), **change)


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        released().clip.image_size = 224  # pyright: ignore


def test_derived_sizes_follow_the_fields() -> None:
    assert (CLIPConfig().num_patches, CLIP_H14_224.num_patches) == (576, 256)
    assert CLIPConfig(image_size=56).num_patches == 16
    assert (SAMConfig().grid_size, SAMConfig().mask_size) == (64, 256)
    assert LoRAConfig(rank=4, alpha=6).scale == 1.5
    assert set(SAMConfig().window_blocks) == set(range(32)) - {7, 15, 23, 31}


def test_no_layer_is_computed_above_the_last_state_that_is_read() -> None:
    assert CLIPConfig().output_states == (14, 17, 20, 23)
    assert CLIPConfig().num_computed_layers == 23
    assert CLIPConfig(projector_layer=-1).num_computed_layers == 24
    assert CLIPConfig(projector_layer=5, region_layers=()).num_computed_layers == 5
    with pytest.raises(
        ConfigError, match=r"CLIPConfig\.region_layers = \(\): the output of no layer is used"
    ):
        CLIPConfig(projector_layer=0, region_layers=())


def test_added_tokens_follow_the_vocabulary_in_their_order() -> None:
    assert TokenConfig.appended_to(32000) == TokenConfig()
    assert TokenConfig.appended_to(800).seg == 804


def test_fields_that_older_releases_lack_may_be_missing_and_are_written_if_changed() -> None:
    newer = LlamaConfig(
        num_kv_heads=8, tie_embeddings=True, rope_scaling=RopeScaling("linear", 2.0)
    )
    value = json.loads(json.dumps(config_to_json(newer)))
    assert value["num_kv_heads"] == 8
    assert value["rope_scaling"]["kind"] == "linear"
    assert "head_width" not in value
    assert config_from_json(LlamaConfig, value) == newer
    older = config_to_json(LlamaConfig())
    assert not older.keys() & {"num_kv_heads", "head_width", "tie_embeddings"}
    assert config_from_json(LlamaConfig, older) == LlamaConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 5}, "num_kv_heads = 5: must divide num_heads = 32"),
        ({"num_kv_heads": 0}, "num_kv_heads = 0: must be positive"),
        ({"head_width": 63}, "head_width = 63: the width of a head must be even"),
    ],
)
def test_impossible_heads_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlamaConfig(**fields)
    assert LlamaConfig(head_width=96).query_dim == 32 * 96


def test_a_model_of_any_size_has_the_preset_of_its_variants() -> None:
    for name, make in PRESETS.items():
        assert preset_of(make()) == ("paper" if "paper" in name else "released")
    region = replace(paper().region, output="own")
    assert preset_of(replace(paper(), region=region)) == "mixed"
