"""adapter_config.json of peft: which of its keys change what a LoRA adapter computes.

Every key is read, rejected by name, or listed here as without effect on a stored adapter. An
unknown key gives a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glamm_jax.json_files import JSONObject, show
from glamm_jax.weights.rules import WeightsError

ADAPTER_CONFIG = "adapter_config.json"
MERGE = "merge the adapter with peft (merge_and_unload), save the model and convert that"

_READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern"),
    *("alpha_pattern", "modules_to_save", "init_lora_weights", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
# Key -> why it does not change the result of an adapter that has been saved.
_INERT = {
    "task_type": "class of the wrapper",
    "auto_mapping": "class of the base model",
    "base_model_name_or_path": "name of the base model",
    "revision": "of the base model",
    "inference_mode": "whether peft trains it",
    "peft_version": "version of peft",
    "bias": "trained biases are tensors of the adapter",
    "megatron_core": "module of Megatron; used together with megatron_config only",
    "loftq_config": "initialization; rejected where init_lora_weights is loftq",
    "corda_config": "initialization; rejected where init_lora_weights is corda",
    "eva_config": "initialization of A",
    "lora_ga_config": "initialization; rejected where init_lora_weights is lora_ga",
    "qalora_group_size": "used together with use_qalora only",
    "runtime_config": "where peft keeps temporary copies",
    "ensure_weight_tying": "trained embeddings are tensors of the adapter",
    "merge_weights": "of peft before 0.1: whether eval() merges",
    "save_embedding_layers": "saved embeddings are tensors of the adapter",
    "low_cpu_mem_usage": "how peft loads it",
}
# Key -> what it does. A value of false, null, 0 or empty is the default and has no effect.
_REJECTED = {
    "use_dora": "weights are also scaled by a magnitude vector",
    "lora_bias": "B has a bias",
    "target_parameters": "parameters that are not modules are adapted",
    "trainable_token_indices": "single rows of the embeddings are replaced",
    "layer_replication": "layers of the base model are repeated",
    "megatron_config": "the linear layers are those of Megatron",
    "enable_lora": "parts of one linear layer are adapted",
    "use_qalora": "inputs are pooled in groups",
    "use_bdlora": "the matrices are block-diagonal",
    "bdlora_config": "the matrices are block-diagonal",
    "alora_invocation_tokens": "the adapter applies after certain tokens only",
    "arrow_config": "several adapters are combined by a router",
    "aqlm_config": "the base model is quantized",
    "velora_config": "activations are compressed",
    "monteclora_config": "the weights are random variables",
}
# Initializations that leave the base model as it is; true and false are Kaiming and random.
_PLAIN_INITIALIZATIONS = {"gaussian", "eva", "orthogonal"}

ModuleNames = str | tuple[str, ...]


@dataclass(frozen=True)
class AdapterSettings:
    """What adapter_config.json says about the computation.

    Attributes:
        where: the file, for messages.
        rank: of modules without a pattern.
        alpha: of modules without a pattern.
        dropout: rate on the inputs.
        is_rank_stabilized: the scale is alpha / sqrt(rank) instead of alpha / rank.
        rank_pattern: regular expression of module names -> rank.
        alpha_pattern: regular expression of module names -> alpha.
        modules_to_save: modules that the adapter replaces.
        targets: names of adapted modules or their ends, or a regular expression; None: not stated.
        excluded: in the same form: modules that are not adapted.
        layers: the only layers that are adapted; None: all.
        layer_attributes: names of the list of layers; empty: any.
        warnings: sentences for the user.
    """

    where: str
    rank: int
    alpha: float
    dropout: float = 0.0
    is_rank_stabilized: bool = False
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    modules_to_save: tuple[str, ...] = ()
    targets: ModuleNames | None = None
    excluded: ModuleNames | None = None
    layers: tuple[int, ...] | None = None
    layer_attributes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """Return the rank of the adapter of a module."""
        return _of_pattern(self.rank_pattern or {}, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of A B."""
        rank, alpha = (
            self.rank_of(module),
            _of_pattern(self.alpha_pattern or {}, module, self.alpha),
        )
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank

    def adapts(self, module: str) -> bool:
        """Return whether a module has an adapter; True if the file does not say.

        Source: check_target_module_exists of peft.
        """
        if self.excluded and _is_named(self.excluded, module):
            return False
        if self.targets is None or self.targets == "all-linear":
            is_target = True
        else:
            is_target = _is_named(self.targets, module)
        if not is_target or self.layers is None:
            return is_target
        for attribute in self.layer_attributes or ("[^.]*",):
            if match := re.match(rf".*\.{attribute}\.(\d+)\.", module):
                return int(match[1]) in self.layers
        return False


def adapter_settings(config: JSONObject) -> AdapterSettings:
    """Read an adapter_config.json.

    Raises:
        JSONError: a field has an impossible value.
        WeightsError: a field asks for a computation that is not supported.
    """
    kind = config.text("peft_type", "LORA")
    if kind.upper() != "LORA":
        raise WeightsError(f"{config.place('peft_type')} = {show(kind)}: only LORA; {MERGE}")
    for key, effect in _REJECTED.items():
        if value := config.fields.get(key):
            raise WeightsError(
                f"{config.place(key)} = {show(value)} is not supported: {effect}; {MERGE}"
            )
    _check_initialization(config)
    warnings = []
    if config.boolean("fan_in_fan_out", False):
        warnings.append(
            f"{config.place('fan_in_fan_out')} = true is ignored, as by peft: LLaMA's layers are "
            "nn.Linear"
        )
    unknown = [key for key in config if key not in _READ | _INERT.keys() | _REJECTED.keys()]
    # Newer versions of peft add keys whose default has no effect.
    if active := [key for key in unknown if config.fields[key] not in (None, False, {}, [])]:
        pairs = ", ".join(f"{key} = {show(config.fields[key])}" for key in active)
        warnings.append(
            f"{config.where}: unknown keys are ignored: {pairs}. If they change what the adapter "
            f"computes, {MERGE}"
        )
    return AdapterSettings(
        where=config.where,
        rank=config.integer("r", 8, minimum=1),
        alpha=config.number("lora_alpha", 8.0),
        dropout=config.number("lora_dropout", 0.0, minimum=0.0, maximum=1.0),
        is_rank_stabilized=config.boolean("use_rslora", False),
        rank_pattern=_pattern(config, "rank_pattern", "integer"),
        alpha_pattern=_pattern(config, "alpha_pattern", "number"),
        modules_to_save=tuple(_module_names(config, "modules_to_save", only_lists=True) or ()),
        targets=_module_names(config, "target_modules"),
        excluded=_module_names(config, "exclude_modules"),
        layers=_layers(config),
        layer_attributes=_layer_attributes(config),
        warnings=tuple(warnings),
    )


def _check_initialization(config: JSONObject) -> None:
    value = config.value("init_lora_weights", True)
    if isinstance(value, bool) or value in _PLAIN_INITIALIZATIONS:
        return
    raise WeightsError(
        f"{config.place('init_lora_weights')} = {show(value)}: this initialization may also change "
        "the base model, so the adapter does not belong to the original base. Save it with "
        "save_pretrained(path_initial_model_for_weight_conversion=...), which makes a plain "
        f"adapter, or {MERGE}"
    )


def _module_names(config: JSONObject, key: str, only_lists: bool = False) -> ModuleNames | None:
    """Read a list of names, or a regular expression."""
    value = config.value(key, None)
    if isinstance(value, str) and not only_lists:
        _check_expression(value, config.place(key))
        return value
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise WeightsError(f"{config.place(key)} = {show(value)} is not a list of names")
    return tuple(value)


def _layers(config: JSONObject) -> tuple[int, ...] | None:
    value = config.value("layers_to_transform", None)
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise WeightsError(
            f"{config.place('layers_to_transform')} = {show(value)}: numbers of layers are expected"
        )
    return tuple(numbers) or None  # to peft, an empty list is no restriction


def _layer_attributes(config: JSONObject) -> tuple[str, ...]:
    names = _module_names(config, "layers_pattern") or ()
    names = (names,) if isinstance(names, str) else names
    for name in names:
        _check_expression(name, config.place("layers_pattern"))
    return names


def _is_named(names: ModuleNames, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _check_expression(expression: str, place: str) -> None:
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise WeightsError(f"{place}: not a regular expression: {error}") from error


def _pattern(config: JSONObject, key: str, kind: str) -> dict[str, Any]:
    """Read a pattern: regular expression of module names -> number."""
    entries = config.object(key, None)
    if entries is None:
        return {}
    for pattern in entries:
        _check_expression(pattern, entries.place(pattern))
    if kind == "integer":
        return {pattern: entries.integer(pattern, minimum=1) for pattern in entries}
    return {pattern: entries.number(pattern) for pattern in entries}


def _of_pattern(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first expression that matches the end of a module's name.

    Source: get_pattern_key of peft.
    """
    for expression, value in pattern.items():
        if re.match(rf"(.*\.)?({expression})$", module):
            return value
    return default
