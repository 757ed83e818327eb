"""Modules with golden weights, and configurations from the JSON files of golden folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import nnx

from glamm_jax.config import (
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    LoRAConfig,
    RegionConfig,
    SAMConfig,
    TokenConfig,
)
from glamm_jax.models.glamm import GLaMM
from glamm_jax.testing.golden_checkpoints import GoldenSource
from glamm_jax.weights.flat_state import fill_state, state_shapes
from glamm_jax.weights.glamm import glamm_table
from glamm_jax.weights.rules import WeightTable, tensor_shapes
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.transfer import import_tensors
from tools.parity.report import GoldenError

Module = TypeVar("Module", bound=nnx.Module)


def golden_module(
    make: Callable[[], Module], table: WeightTable, *, prefix: str = "", salt: str = ""
) -> Module:
    """Return a module with golden weights, imported through its weight table.

    Args:
        make: builds the module; it is only traced, so its initial values are never allocated.
        table: of the module.
        prefix: of the table's torch names in the complete model's state dict.
        salt: of the golden rule.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    leaves = state_shapes(state)
    source = GoldenSource(tensor_shapes(table, leaves), table, prefix=prefix, salt=salt)
    writer = MemoryWriter()
    import_tensors(table, source, leaves, writer)
    return nnx.merge(graph, fill_state(state, writer.arrays))


def golden_glamm(config: GLaMMConfig, salt: str) -> GLaMM:
    """Return the complete model with golden weights."""
    return golden_module(lambda: GLaMM(config, rngs=nnx.Rngs(0)), glamm_table(config), salt=salt)


def glamm_config(values: Mapping[str, Any]) -> GLaMMConfig:
    """Return the model's configuration from `config` in the info.json of an e2e or pipeline folder.

    Raises:
        GoldenError: a field is missing, unknown or invalid.
    """
    fields = {"name", "salt", "llm", "clip", "sam", "region", "grid"}
    if unknown := set(values) - fields:
        raise GoldenError(f"info.json: config has unknown fields {sorted(unknown)}")
    try:
        clip = _with_values(CLIPConfig(), values["clip"], _CLIP_FIELDS)
        llm = dict(values["llm"])
        base_vocab = llm.pop("base_vocab")
        default = LlamaConfig(vocab_size=base_vocab + 7, remat="none")
        llama = _with_values(default, llm, _LLAMA_FIELDS)
        sam = _with_values(SAMConfig(), values["sam"], _SAM_FIELDS)
        region = _with_values(RegionConfig(), values["region"], _REGION_FIELDS)
        tokens = TokenConfig.appended_to(base_vocab)
        config = GLaMMConfig(clip=clip, llama=llama, region=region, sam=sam, tokens=tokens)
    except KeyError as error:
        raise GoldenError(f"info.json: config lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise GoldenError(f"info.json: config: {error}") from error
    if values.get("grid", clip.grid_size) != clip.grid_size:
        raise GoldenError(f"info.json: grid {values['grid']}, but CLIP's is {clip.grid_size}")
    return config


def lora_config(values: Mapping[str, Any], num_layers: int) -> LoRAConfig:
    """Return the adapters' configuration from `lora` in a variant_lora_info.json.

    Args:
        values: rank, alpha, dropout, and the paths of the adapted modules.
        num_layers: of the decoder.

    Raises:
        GoldenError: a projection is adapted in some layers only, which stacked layers cannot
            represent.
    """
    targets = Counter(path.split(".")[-1] for path in values["targets"])
    if partial := [name for name, count in targets.items() if count != num_layers]:
        raise GoldenError(f"lora.targets: {partial} are not once in each of {num_layers} layers")
    return LoRAConfig(
        rank=values["r"],
        alpha=values["alpha"],
        dropout=values["dropout"],
        targets=tuple(targets),
    )


_CLIP_FIELDS = {
    "hidden": "hidden_dim",
    "inter": "mlp_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "image": "image_size",
    "patch": "patch_size",
    "act": "activation",
}
_LLAMA_FIELDS = {
    "hidden": "hidden_dim",
    "inter": "mlp_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "vocab": "vocab_size",
    "rms_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "max_pos": "max_positions",
}
_SAM_FIELDS = {
    "img": "image_size",
    "patch": "patch_size",
    "embed": "hidden_dim",
    "depth": "num_layers",
    "heads": "num_heads",
    "window": "window_size",
    "globals": "global_blocks",
    "out": "out_dim",
    "dec_depth": "decoder_layers",
    "dec_heads": "decoder_heads",
    "dec_mlp": "decoder_mlp_dim",
    "mask_in_chans": "mask_channels",
    "iou_hidden": "iou_dim",
}
_REGION_FIELDS = {"gn_groups": "norm_groups", "mid": "mid_dim"}


def _with_values(default: Any, values: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """Return a configuration with other values.

    Args:
        default: the configuration.
        values: by their names in the JSON file.
        names: {name in the JSON file: field of the configuration}.

    Raises:
        KeyError: a name is not in `names`.
        ValueError: a value of an integer field is not an integer.
    """
    fields = {
        names[name]: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    for field, value in fields.items():
        if isinstance(getattr(default, field), int) and not isinstance(value, int):
            raise ValueError(f"{field} = {value!r} is not an integer")
    return type(default)(**{**vars(default), **fields})


def clip_config(hf_config: Mapping[str, Any], hidden_states: tuple[int, ...]) -> CLIPConfig:
    """Return the configuration of CLIP's vision model from Hugging Face's.

    Args:
        hf_config: a CLIPVisionConfig.
        hidden_states: the states that the model returns.
    """
    return CLIPConfig(
        image_size=hf_config["image_size"],
        patch_size=hf_config["patch_size"],
        hidden_dim=hf_config["hidden_size"],
        mlp_dim=hf_config["intermediate_size"],
        num_layers=hf_config["num_hidden_layers"],
        num_heads=hf_config["num_attention_heads"],
        activation=hf_config["hidden_act"],
        norm_eps=hf_config["layer_norm_eps"],
        projector_layer=hidden_states[-1],
        region_layers=hidden_states,
    )


def llama_config(values: Mapping[str, Any]) -> LlamaConfig:
    """Return the configuration of a decoder from `config` in components/info.json."""
    return _with_values(LlamaConfig(remat="none"), values, _LLAMA_FIELDS)
