"""The complete configuration in an exported config.json, compared with the other keys of the file.

An export adds it where the original's keys do not describe the model. Whoever edits these keys, or
pairs the export with another CLIP, must not get the model of before without notice.
"""

from __future__ import annotations

from typing import Any

from glamm_jax.config import CLIPConfig, GLaMMConfig
from glamm_jax.json_files import JSONObject, show
from glamm_jax.weights.hf_config import GLAMM_JAX_KEY, clip_hf_config, llama_hf_config
from glamm_jax.weights.infer_config import HFConfig, clip_config, llama_config
from glamm_jax.weights.rules import WeightsError

# What changes the computation, and has a key in the files of transformers.
_LLAMA_FIELDS = (
    *("hidden_dim", "mlp_dim", "num_layers", "num_heads", "kv_heads", "head_dim", "norm_eps"),
    *("rope_theta", "rope_scaling", "tie_embeddings"),
)
_CLIP_FIELDS = (
    *("image_size", "patch_size", "hidden_dim", "mlp_dim", "num_layers", "num_heads"),
    *("activation", "norm_eps"),
)


def check_stored_glamm(config: GLaMMConfig, hf_config: HFConfig, where: str) -> None:
    """Compare a stored model with the keys of its config.json; a key that is missing agrees.

    Args:
        config: the stored configuration.
        hf_config: the complete file.
        where: the file, for messages.

    Raises:
        WeightsError: they differ, or a key has a value that is not supported.
        JSONError: a key has an impossible value.
    """
    # The rotary embeddings have three keys that contradict each other; defaults are for neither.
    stored, clip = config.llama, config.clip
    default = llama_hf_config(stored, "float32")
    keys = {key: value for key, value in hf_config.items() if value is not None}
    if keys.keys() & {"rope_theta", "rope_scaling", "rope_parameters"}:
        default = {k: v for k, v in default.items() if not k.startswith("rope_")}
    file = JSONObject(keys, where)
    for key, path, own in (
        ("mm_vision_select_layer", "clip.projector_layer", clip.projector_layer),
        ("num_level_reg_features", "len(clip.region_layers)", len(clip.region_layers)),
    ):
        if (other := file.integer(key, own)) != own:
            raise _contradiction(where, path, own, other)
        keys.pop(key, None)
    _compare(stored, llama_config({}, default | keys, where), _LLAMA_FIELDS, "llama", where)


def check_stored_clip(stored: CLIPConfig, hf_config: HFConfig, where: str, path: str) -> None:
    """Compare a stored CLIP with the keys of CLIP's config.json; a key that is missing agrees.

    Args:
        stored: the CLIP of the stored configuration.
        hf_config: config.json of CLIP, or of its vision model alone.
        where: the file that has the stored configuration, for messages.
        path: of the stored CLIP in it.

    Raises:
        WeightsError: they differ, or a key has a value that is not supported.
        JSONError: a key has an impossible value.
    """
    config = JSONObject(dict(hf_config), "CLIP's config.json")
    vision: dict[str, Any] = dict(config.object("vision_config", config).fields)
    keys = {k: v for k, v in vision.items() if v is not None and k != GLAMM_JAX_KEY}
    stated = clip_config({}, clip_hf_config(stored) | keys, stored.projector_layer, is_alone=True)
    _compare(stored, stated, _CLIP_FIELDS, path, where)


def _compare(stored: Any, stated: Any, fields: tuple[str, ...], path: str, where: str) -> None:
    for name in fields:
        if (own := getattr(stored, name)) != (other := getattr(stated, name)):
            raise _contradiction(where, f"{path}.{name}".lstrip("."), own, other)


def _contradiction(where: str, field: str, own: Any, other: Any) -> WeightsError:
    return WeightsError(
        f"{where}: {GLAMM_JAX_KEY}: {field} = {show(own)}, but the keys of transformers say "
        f"{show(other)}; correct the one that is wrong, or use the checkpoint that belongs to it"
    )
