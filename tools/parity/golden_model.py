"""Modules with the golden weights, and the configurations that golden folders describe."""

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
    """A module whose leaves are drawn by the golden rule, each under its torch name.

    Args:
        make: builds the module; it is only traced, no leaf of its own is ever allocated.
        prefix: what the torch names carry in front of the table's.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    leaves = state_shapes(state)
    source = GoldenSource(tensor_shapes(table, leaves), table, prefix=prefix, salt=salt)
    writer = MemoryWriter()
    import_tensors(table, source, leaves, writer)
    return nnx.merge(graph, fill_state(state, writer.arrays))


def golden_glamm(config: GLaMMConfig, salt: str) -> GLaMM:
    """The whole model with golden weights."""
    return golden_module(lambda: GLaMM(config, rngs=nnx.Rngs(0)), glamm_table(config), salt=salt)


def glamm_config(described: Mapping[str, Any]) -> GLaMMConfig:
    """The configuration that an e2e or pipeline folder's `info.json` describes.

    Raises: GoldenError naming a field that is missing or unknown.
    """
    known = {"name", "salt", "llm", "clip", "sam", "region", "grid"}
    if unknown := set(described) - known:
        raise GoldenError(f"info.json: config has unknown fields {sorted(unknown)}")
    try:
        clip = _renamed(CLIPConfig(), described["clip"], _CLIP_FIELDS)
        llm = dict(described["llm"])
        base_vocab = llm.pop("base_vocab")
        llama = _renamed(LlamaConfig(vocab_size=base_vocab + 7, remat="none"), llm, _LLAMA_FIELDS)
        sam = _renamed(SAMConfig(), described["sam"], _SAM_FIELDS)
        region = _renamed(RegionConfig(), described["region"], _REGION_FIELDS)
        tokens = TokenConfig.appended_to(base_vocab)
        config = GLaMMConfig(clip=clip, llama=llama, region=region, sam=sam, tokens=tokens)
    except KeyError as error:
        raise GoldenError(f"info.json: config lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise GoldenError(f"info.json: config: {error}") from error
    if described.get("grid", clip.grid_size) != clip.grid_size:
        raise GoldenError(f"info.json: grid {described['grid']}, but CLIP's is {clip.grid_size}")
    return config


def lora_config(described: Mapping[str, Any], num_layers: int) -> LoRAConfig:
    """Adapters as `variant_lora_info.json` describes them; targets are module paths.

    Raises: GoldenError when a projection is adapted in some layers only, which our stacks cannot.
    """
    targets = Counter(path.split(".")[-1] for path in described["targets"])
    if partial := [name for name, count in targets.items() if count != num_layers]:
        raise GoldenError(f"lora.targets: {partial} not in each of the {num_layers} layers once")
    return LoRAConfig(
        rank=described["r"],
        alpha=described["alpha"],
        dropout=described["dropout"],
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


def _renamed(default: Any, described: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """The default with the described fields, under our names. KeyError for an unknown one."""
    values = {names[key]: value for key, value in described.items()}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    for name, value in values.items():
        if isinstance(getattr(default, name), int) and not isinstance(value, int):
            raise ValueError(f"{name} = {value!r} is no whole number")
    return type(default)(**{**vars(default), **values})


def clip_config(described: Mapping[str, Any], read_states: tuple[int, ...]) -> CLIPConfig:
    """A Hugging Face CLIP vision config, reading these hidden states."""
    return CLIPConfig(
        image_size=described["image_size"],
        patch_size=described["patch_size"],
        hidden_dim=described["hidden_size"],
        mlp_dim=described["intermediate_size"],
        num_layers=described["num_hidden_layers"],
        num_heads=described["num_attention_heads"],
        activation=described["hidden_act"],
        norm_eps=described["layer_norm_eps"],
        projector_layer=read_states[-1],
        region_layers=read_states,
    )


def llama_config(described: Mapping[str, Any]) -> LlamaConfig:
    """A decoder alone, as `components/info.json` describes it."""
    return _renamed(LlamaConfig(remat="none"), described, _LLAMA_FIELDS)
