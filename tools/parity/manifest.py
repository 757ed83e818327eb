"""The part `manifest`: names, shapes and dtypes of the original's checkpoints, at full size.

No tensor is read. Every tensor of a manifest has a disposition (converted, recomputed, carried or
dropped) and its shape and dtype are compared with the weight table. A tensor that the table does
not have counts as failed, and so do tensors of the table that the manifest lacks, and leaves that
are not filled completely and once.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from glamm_jax.config import GLaMMConfig, LoRAConfig, TokenConfig
from glamm_jax.models.abstract import abstract_model
from glamm_jax.text.special_tokens import TOKEN_CONFIG_FIELDS
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, glamm_hf_config
from glamm_jax.weights.infer_config import (
    clip_config,
    family_of,
    glamm_config,
    llama_config,
    lora_config,
    sam_config,
)
from glamm_jax.weights.llama import llama_table
from glamm_jax.weights.lora import ADAPTER_PREFIX, injected_name
from glamm_jax.weights.rules import (
    Shape,
    Shapes,
    UnmappedTensor,
    WeightTable,
    find_problems,
    tensor_shapes,
)
from glamm_jax.weights.tables import table_of
from tools.parity.recorded_folder import part_folder
from tools.parity.report import ArrayComparison, ComparisonReport, RecordedFile, read_json

PART = "manifest"
FLOAT32 = "float32"


class ExpectedCheckpoint(NamedTuple):
    """What a weight table says about a checkpoint.

    Attributes:
        table: of the checkpoint's family.
        leaves: shapes of the model's leaves.
        tensors: shapes of the converted tensors.
        unmapped: the other tensors.
    """

    table: WeightTable
    leaves: Shapes
    tensors: dict[str, Shape]
    unmapped: dict[str, UnmappedTensor]


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare every file of `folder/manifest`.

    Raises:
        GoldenError: there is no such folder.
    """
    part = part_folder(folder, PART)
    files = {path.stem: read_json(path) for path in sorted(part.glob("*.json"))}
    manifests = {name: value["tensors"] for name, value in files.items() if "tensors" in value}
    config = complete_config(manifests)
    for name, value in files.items():
        with (
            ledger.guard(str(part / name)),
            RecordedFile.open(ledger, PART, part / f"{name}.json") as recorded,
        ):
            if "tensors" in value:
                check_tensors(recorded, value["tensors"])
            elif "rule" in value:
                check_dropped(recorded, config)
            elif "config_used" in value:
                check_notes(recorded, config)
            elif "trainable_params" in value:
                check_trainable(recorded, config)
            elif "peft_wrapped_example" in value:
                check_lora(recorded, config)
            else:
                check_clip_configs(recorded, value, manifests)


def complete_config(manifests: dict[str, Any]) -> GLaMMConfig:
    """Infer the configuration of the GLaMM that has a CLIP; without one, the released model's."""
    for tensors in manifests.values():
        shapes = {name: tuple(shape) for name, (shape, _) in tensors.items()}
        if any(name.startswith(CLIP_PREFIX) for name in shapes):
            return glamm_config(shapes, {}, {})
    return GLaMMConfig()


# ------------------------------------------------------------------------- state dicts


def check_tensors(recorded: RecordedFile, tensors: dict[str, Any]) -> None:
    """Compare shape and dtype of every tensor; the note is its disposition.

    Args:
        recorded: the manifest.
        tensors: {name: (shape, dtype)}.
    """
    shapes = {name: tuple(shape) for name, (shape, _) in tensors.items()}
    expected = expected_checkpoint(shapes, recorded.file)
    numel = 0
    for name in shapes:
        entry = _expected_entry(expected, injected_name(name))
        if entry is None:
            continue  # not compared, which the report counts as failed
        shape, dtype, disposition = entry
        numel += math.prod(shape)
        recorded.compare(f"tensors.{name}", [list(shape), dtype], "exact", disposition)
    injected = {injected_name(name): shape for name, shape in shapes.items()}
    for problem in find_problems(expected.table, injected, expected.leaves):
        if problem.startswith(("missing", "leaf", "no such leaf")):
            recorded.report.rows.append(ArrayComparison(PART, recorded.file, problem, "differs"))
    recorded.compare("count", len(shapes), "exact")
    recorded.compare("numel", numel, "exact")
    recorded.exclude("note", "prose")


def expected_checkpoint(shapes: Shapes, source_name: str) -> ExpectedCheckpoint:
    """Return what is expected of a checkpoint of these tensors; its family is inferred.

    Args:
        shapes: {name: shape} of the checkpoint.
        source_name: what an error message calls the checkpoint.
    """
    family = family_of(shapes, source_name)
    if family == "adapter":
        return _expected_adapter(shapes)
    config = {
        "glamm": lambda: glamm_config(shapes, {}, {}),
        "llama": lambda: llama_config(shapes, {}),
        "clip": lambda: clip_config(shapes, {}),
        "sam": lambda: sam_config(shapes),
    }[family]()
    table, leaves = table_of(config), state_shapes(abstract_model(config)[1])
    if family == "glamm" and not any(name.startswith(CLIP_PREFIX) for name in shapes):
        table, leaves = without_clip(table), {k: s for k, s in leaves.items() if k[:5] != "clip."}
    return ExpectedCheckpoint(table, leaves, tensor_shapes(table, leaves), table.unmapped_by_name())


def without_clip(table: WeightTable) -> WeightTable:
    """Return the table of what the original saves."""
    # quirk 27: the original saves its checkpoints without CLIP.
    return WeightTable(
        tuple(rule for rule in table.rules if not rule.tensor.startswith(CLIP_PREFIX)),
        tuple(tensor for tensor in table.unmapped if not tensor.tensor.startswith(CLIP_PREFIX)),
    )


def _expected_adapter(shapes: Shapes) -> ExpectedCheckpoint:
    """Return what is expected of a peft adapter; the decoder is inferred from the adapter."""
    injected = {injected_name(name): shape for name, shape in shapes.items()}
    lora = lora_config(injected, {})
    _, hidden_dim = next(shape for name, shape in injected.items() if ".lora_A." in name)
    llama = llama_config(injected, {"hidden_size": hidden_dim})
    table = llama_table(llama, lora).with_prefix(leaf="llama.")
    table = WeightTable(tuple(rule for rule in table.rules if ".lora_" in rule.tensor))
    model = GLaMMConfig(
        llama=llama, lora=lora, tokens=TokenConfig.appended_to(llama.vocab_size - 7)
    )
    leaves = {k: s for k, s in state_shapes(abstract_model(model)[1]).items() if ".lora." in k}
    return ExpectedCheckpoint(table, leaves, tensor_shapes(table, leaves), {})


def _expected_entry(expected: ExpectedCheckpoint, name: str) -> tuple[Shape, str, str] | None:
    """Return (shape, dtype, disposition) of a tensor; None if the table does not have it."""
    if name in expected.tensors:
        return expected.tensors[name], FLOAT32, "converted"
    tensor = expected.unmapped.get(name)
    if tensor is None:
        return None
    if tensor.compute is not None:
        value = tensor.compute()
        return value.shape, str(value.dtype), f"recomputed: {tensor.reason}"
    # A carried layer has the shapes of the converted ones.
    like = re.sub(r"\.layers\.\d+\.", ".layers.0.", name).replace("post_layernorm", "pre_layrnorm")
    return expected.tensors[like], FLOAT32, f"{tensor.disposition}: {tensor.reason}"


# ------------------------------------------------------------------------- the other files


def check_dropped(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Compare what the original's merge drops with all of CLIP's tensors."""
    table = table_of(config)
    names = {mapping.tensor for mapping in table.mappings()} | set(table.unmapped_by_name())
    clip_names = {name for name in names if name.startswith(CLIP_PREFIX)}
    differing = sorted(clip_names ^ set(recorded.get("keys")))
    recorded.record_error("keys", len(differing), "exact", ", ".join(differing[:5]))
    recorded.compare("count", len(clip_names), "exact")
    recorded.exclude("rule", "prose")


def check_notes(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Compare buffers, added tokens and config.json of the recorded model."""
    table = table_of(config)
    converted = [mapping.tensor for mapping in table.mappings()]
    unmapped = table.unmapped_by_name()
    buffers = [n for n, t in unmapped.items() if t.compute is not None and "pixel_" not in n]
    # A buffer in torch, but a leaf here, since it cannot be recomputed.
    buffers += [n for n in converted if n.endswith("positional_encoding_gaussian_matrix")]
    differing = sorted(set(buffers) ^ set(recorded.get("persistent_buffers")))
    recorded.record_error("persistent_buffers", len(differing), "exact", ", ".join(differing[:5]))
    patterns = [re.escape(p).replace(r"\*", r"\d+") for p in recorded.get("non_persistent_buffers")]
    matches = [name for name in converted for p in patterns if re.fullmatch(p, name)]
    recorded.record_error("non_persistent_buffers", len(matches), "exact", ", ".join(matches))
    for token, field in TOKEN_CONFIG_FIELDS.items():
        token_id = getattr(config.tokens, field)
        recorded.compare(f"added_tokens_in_order.{token}", token_id, "exact")
    recorded.compare("embedding_rows_after_resize", config.llama.vocab_size, "exact")
    hf_config = glamm_hf_config(config, FLOAT32)
    for name in recorded.names_under("config_used."):
        key = name.removeprefix("config_used.")
        if key not in hf_config:
            recorded.exclude(name, "a default of transformers that GLaMM never reads")
        elif key == "mm_vision_tower":
            recorded.exclude(name, "a path on the machine of the recording")
        else:
            recorded.compare(name, hf_config[key], "exact")


def check_trainable(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Compare the selection `released` with what the original trains."""
    adapted = GLaMMConfig(**{**vars(config), "lora": LoRAConfig()})
    state = abstract_model(adapted)[1]
    leaves, table = state_shapes(state), table_of(adapted)
    trainable = set(state_shapes(nnx.filter_state(state, trainable_filter("released"))))
    names = {mapping.tensor for mapping in table.mappings() if mapping.leaf in trainable}
    lora = {name for name in names if ".lora_" in name}
    differing = sorted((names - lora) ^ set(recorded.get("trainable_non_lora")))
    recorded.record_error("trainable_non_lora", len(differing), "exact", ", ".join(differing[:5]))
    recorded.compare("n_lora", len(lora), "exact")
    num_trainable = sum(math.prod(leaves[leaf]) for leaf in trainable)
    recorded.compare("trainable_params", num_trainable, "exact")
    shapes = tensor_shapes(table, leaves)
    unmapped = table.unmapped_by_name()
    expected = ExpectedCheckpoint(table, leaves, shapes, unmapped)
    carried = [name for name, tensor in unmapped.items() if tensor.disposition == "carried"]
    entries = [_expected_entry(expected, name) for name in carried]
    num_carried = sum(math.prod(entry[0]) for entry in entries if entry is not None)
    # Not a parameter in torch, but a buffer.
    num_buffers = sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if name.endswith("positional_encoding_gaussian_matrix")
    )
    total = sum(math.prod(shape) for shape in shapes.values()) + num_carried - num_buffers
    recorded.compare("total_params", total, "exact")


def check_lora(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Compare the names of adapters with and without peft's prefix, and the released adapters."""
    lora = LoRAConfig()
    wrapped, bare = recorded.get("peft_wrapped_example"), recorded.get("in_place_example")
    recorded.compare("in_place_example", [injected_name(name) for name in wrapped], "exact")
    recorded.compare("peft_wrapped_example", [ADAPTER_PREFIX + name for name in bare], "exact")
    names = {
        rule.tensor for rule in llama_table(config.llama, lora).rules if ".lora_A" in rule.tensor
    }
    layers = range(config.llama.num_layers)
    modules = {n.split(".lora_")[0].replace("{layer}", str(i)) for n in names for i in layers}
    recorded.compare("targets", sorted(modules), "exact")
    for name, value in (
        ("r", lora.rank),
        ("alpha", lora.alpha),
        ("scaling", lora.scale),
        ("dropout_train", lora.dropout),
    ):
        recorded.compare(name, value, "exact")


def check_clip_configs(recorded: RecordedFile, value: Any, manifests: dict[str, Any]) -> None:
    """Compare CLIP configurations with what is inferred from the manifests' tensors.

    Args:
        recorded: the file of the configurations.
        value: {beginning of a manifest's name: configuration}.
        manifests: {name: tensors}.
    """
    for name in value:
        matching = [tensors for stem, tensors in manifests.items() if stem.startswith(name)]
        if not matching:
            recorded.exclude_prefix(f"{name}.", "the folder has no manifest of this CLIP")
            continue
        shapes = {tensor: tuple(shape) for tensor, (shape, _) in matching[0].items()}
        hf_config = clip_hf_config(clip_config(shapes, {}))
        recorded.exclude(f"{name}.projection_dim", "of CLIP's text encoder, which is dropped")
        for key in recorded.names_under(f"{name}."):
            if key not in recorded.handled:
                recorded.compare(key, hf_config.get(key.removeprefix(f"{name}.")), "exact")
