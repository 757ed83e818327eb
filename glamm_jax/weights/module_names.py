"""Names of tensors as trainings save them, without the prefixes of what wrapped the model.

DistributedDataParallel, torch.compile, FSDP, activation checkpointing, DeepSpeed and peft each put
their own attribute between a model and its modules, and `state_dict` has it in every name:

    module.model.norm.weight                           model.norm.weight
    base_model.model.lm_head._orig_mod.weight          lm_head.weight
    ...self_attn.q_proj.base_layer.weight              ...self_attn.q_proj.weight
    base_model.model.lm_head.modules_to_save.default.weight
                                                       base_model.model.lm_head.weight

The prefix `base_model.model.` of a peft adapter, which has no kernels of its own, is kept: it tells
an adapter from a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.rules import WeightsError

ADAPTER_PREFIX = "base_model.model."
# Attributes of torch.compile, FSDP, activation checkpointing, and Lightning with DeepSpeed.
_WRAPPERS = {
    *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"),
}
# Attributes in front of a complete model: of DDP and DeepSpeed, Lightning, and peft.
_OUTER = re.compile(r"(?:(?:module|model|base_model)\.)+")
# A tensor that every model of a family has; what precedes it is the prefix of the wrappers.
_LANDMARKS = (
    "model.layers.0.self_attn.q_proj.weight",
    "vision_model.embeddings.class_embedding",
    "image_encoder.patch_embed.proj.weight",
)
_MODULES_TO_SAVE, _ORIGINAL, _BASE_LAYER = "modules_to_save", "original_module", "base_layer"
_LORA = re.compile(r"(.*\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.(.+))?")
# Modules of CLIPVisionModel, to which transformers 5 gives no prefix.
_VISION_MODULES = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


@dataclass(frozen=True)
class CanonicalNames:
    """Result of `canonical_names`.

    Attributes:
        names: name in the file -> name without wrappers; None: the tensor is dropped.
        num_replaced: tensors dropped since peft keeps a module's state from before the training.
    """

    names: dict[str, str | None]
    num_replaced: int


def canonical_names(names: Iterable[str], source_name: str) -> CanonicalNames:
    """Remove the wrappers of trainings from the names of a checkpoint.

    Args:
        names: of all tensors.
        source_name: what an error message calls the checkpoint.

    Raises:
        WeightsError: the checkpoint has several adapters, or FSDP's flattened parameters.
    """
    plain = {name: _without_wrappers(name) for name in names}
    if flat := [name for name in plain if "_flat_param" in name]:
        raise WeightsError(
            f"{source_name}: {flat[0]} is a flattened parameter of FSDP; save the model with "
            "StateDictType.FULL_STATE_DICT"
        )
    prefix = _outer_prefix({_without_peft(name) for name in plain.values()})
    plain = {name: new.removeprefix(prefix) for name, new in plain.items()}
    _check_one_adapter(plain.values(), source_name)
    saved = {_without_peft(new) for new in plain.values() if f".{_MODULES_TO_SAVE}." in new}
    result: dict[str, str | None] = {}
    for name, new in plain.items():
        bare = _without_peft(new)
        is_replaced = f".{_ORIGINAL}." in new and bare in saved
        result[name] = None if is_replaced else _with_vision_prefix(bare)
    return CanonicalNames(result, sum(new is None for new in result.values()))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _outer_prefix(names: set[str]) -> str:
    """Return what precedes the names of a complete model; empty for an adapter."""
    for landmark in _LANDMARKS:
        if landmark in names:
            return ""
        for name in names:
            prefix = name.removesuffix(landmark)
            if prefix != name and _OUTER.fullmatch(prefix):
                return prefix
    # An adapter, or a CLIPVisionModel of transformers 5: only DDP's prefix is unambiguous.
    prefix = ""
    while names and all(name.startswith(f"{prefix}module.") for name in names):
        prefix += "module."
    return prefix


def _without_peft(name: str) -> str:
    """Remove peft's attributes, and the names of adapters."""
    lora = _LORA.fullmatch(name)
    if lora is not None:
        return name
    parts = name.split(".")
    if _MODULES_TO_SAVE in parts:
        position = parts.index(_MODULES_TO_SAVE)
        has_adapter_name = len(parts) > position + 2
        del parts[position : position + (2 if has_adapter_name else 1)]
    elif name.startswith(ADAPTER_PREFIX) and "default" in parts:
        parts.remove("default")
    return ".".join(part for part in parts if part not in (_ORIGINAL, _BASE_LAYER))


def _check_one_adapter(names: Iterable[str], source_name: str) -> None:
    adapters = set()
    for name in names:
        lora = _LORA.fullmatch(name)
        if lora is not None and lora[2] is not None and lora[2].endswith(".weight"):
            adapters.add(lora[2].removesuffix(".weight"))
    if len(adapters) > 1:
        raise WeightsError(
            f"{source_name}: several adapters ({', '.join(sorted(adapters))}); save the one that "
            "is used with save_pretrained(selected_adapters=[...]), or merge them"
        )


def _with_vision_prefix(name: str) -> str:
    """Add the prefix that transformers 5 leaves out of a CLIPVisionModel."""
    for prefix in (CLIP_PREFIX, ""):
        if name.startswith(tuple(prefix + module for module in _VISION_MODULES)):
            return f"{prefix}vision_model.{name.removeprefix(prefix)}"
    return name
