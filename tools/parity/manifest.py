"""The part `manifest`: what becomes of every tensor that the original's checkpoints hold.

Nothing is drawn here: names, shapes and dtypes alone are compared, at full size. A tensor is
converted, recomputed, carried through or dropped for a reason; a name that no table knows fails,
and so does one that a table wants and the manifest lacks, or a leaf that is not filled once.
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
from glamm_jax.training.optimizer import trainable_filter
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


class Known(NamedTuple):
    """What our tables say of a checkpoint: its tensors as we expect them, and the leaves."""

    table: WeightTable
    leaves: Shapes
    tensors: dict[str, Shape]  # converted: name -> shape
    unread: dict[str, UnmappedTensor]


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare every file of `folder/manifest`.

    Raises: GoldenError when there is no such folder.
    """
    part = part_folder(folder, PART)
    found = {path.stem: read_json(path) for path in sorted(part.glob("*.json"))}
    manifests = {name: value["tensors"] for name, value in found.items() if "tensors" in value}
    config = whole_config(manifests)
    for name, value in found.items():
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


def whole_config(manifests: dict[str, Any]) -> GLaMMConfig:
    """The configuration of the GLaMM among these manifests, with its CLIP; released without one."""
    for tensors in manifests.values():
        held = {name: tuple(shape) for name, (shape, _) in tensors.items()}
        if any(name.startswith(CLIP_PREFIX) for name in held):
            return glamm_config(held, {}, {})
    return GLaMMConfig()


# ------------------------------------------------------------------------- state dicts


def check_tensors(recorded: RecordedFile, tensors: dict[str, Any]) -> None:
    """One row a tensor: its fate, and shape and dtype as our tables expect them."""
    held = {name: tuple(shape) for name, (shape, _) in tensors.items()}
    known = known_tensors(held, recorded.file)
    numel = 0
    for name in held:
        told = _expected(known, injected_name(name))
        if told is None:
            continue  # stays unknown, and fails
        shape, dtype, fate = told
        numel += math.prod(shape)
        recorded.compare(f"tensors.{name}", [list(shape), dtype], "exact", fate)
    own = {injected_name(name): shape for name, shape in held.items()}
    for problem in find_problems(known.table, own, known.leaves):
        if problem.startswith(("missing", "leaf", "no such leaf")):
            recorded.report.rows.append(ArrayComparison(PART, recorded.file, problem, "differs"))
    recorded.compare("count", len(held), "exact")
    recorded.compare("numel", numel, "exact")
    recorded.exclude("note", "prose")


def known_tensors(held: Shapes, what: str) -> Known:
    """The table of whatever checkpoint these tensors are, restricted to what it can hold."""
    family = family_of(held, what)
    if family == "adapter":
        return _known_adapter(held)
    config = {
        "glamm": lambda: glamm_config(held, {}, {}),
        "llama": lambda: llama_config(held, {}),
        "clip": lambda: clip_config(held, {}),
        "sam": lambda: sam_config(held),
    }[family]()
    table, leaves = table_of(config), state_shapes(abstract_model(config)[1])
    if family == "glamm" and not any(name.startswith(CLIP_PREFIX) for name in held):
        table, leaves = without_clip(table), {k: s for k, s in leaves.items() if k[:5] != "clip."}
    return Known(table, leaves, tensor_shapes(table, leaves), table.unmapped_by_name())


def without_clip(table: WeightTable) -> WeightTable:
    """The table of what the original saves: no CLIP (trap 27)."""
    return WeightTable(
        tuple(rule for rule in table.rules if not rule.tensor.startswith(CLIP_PREFIX)),
        tuple(unread for unread in table.unmapped if not unread.tensor.startswith(CLIP_PREFIX)),
    )


def _known_adapter(held: Shapes) -> Known:
    """A peft adapter: the adapters of a decoder, which is inferred from them alone."""
    own = {injected_name(name): shape for name, shape in held.items()}
    lora = lora_config(own, {})
    first = next(shape for name, shape in own.items() if ".lora_A." in name)
    llama = llama_config(own, {"hidden_size": first[1]})
    table = llama_table(llama, lora).under(leaf="llama.")
    table = WeightTable(tuple(rule for rule in table.rules if ".lora_" in rule.tensor))
    model = GLaMMConfig(
        llama=llama, lora=lora, tokens=TokenConfig.appended_to(llama.vocab_size - 7)
    )
    leaves = {k: s for k, s in state_shapes(abstract_model(model)[1]).items() if ".lora." in k}
    return Known(table, leaves, tensor_shapes(table, leaves), {})


def _expected(known: Known, name: str) -> tuple[Shape, str, str] | None:
    """(shape, dtype, fate) of a tensor; None when no table knows it."""
    if name in known.tensors:
        return known.tensors[name], FLOAT32, "converted"
    unread = known.unread.get(name)
    if unread is None:
        return None
    if unread.value is not None:
        value = unread.value()
        return value.shape, str(value.dtype), f"recomputed: {unread.reason}"
    # A layer that is carried has the shapes of those that are read.
    like = re.sub(r"\.layers\.\d+\.", ".layers.0.", name).replace("post_layernorm", "pre_layrnorm")
    return known.tensors[like], FLOAT32, f"{unread.kind}: {unread.reason}"


# ------------------------------------------------------------------------- the other files


def check_dropped(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """What the merge of the original drops is CLIP's side of our table, whole."""
    table = table_of(config)
    names = {entry.tensor for entry in table.mappings()} | set(table.unmapped_by_name())
    ours = {name for name in names if name.startswith(CLIP_PREFIX)}
    differing = sorted(ours ^ set(recorded.get("keys")))
    recorded.record_error("keys", len(differing), "exact", ", ".join(differing[:5]))
    recorded.compare("count", len(ours), "exact")
    recorded.exclude("rule", "prose")


def check_notes(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Buffers, added tokens and config.json of the recorded model."""
    unread = table_of(config).unmapped_by_name()
    saved = [name for name, u in unread.items() if u.value is not None and "pixel_" not in name]
    # A buffer in torch, a leaf with us: it cannot be recomputed.
    saved += [n for n in _converted(config) if n.endswith("positional_encoding_gaussian_matrix")]
    differing = sorted(set(saved) ^ set(recorded.get("persistent_buffers")))
    recorded.record_error("persistent_buffers", len(differing), "exact", ", ".join(differing[:5]))
    patterns = [re.escape(p).replace(r"\*", r"\d+") for p in recorded.get("non_persistent_buffers")]
    wanted = [name for name in _converted(config) for p in patterns if re.fullmatch(p, name)]
    recorded.record_error("non_persistent_buffers", len(wanted), "exact", ", ".join(wanted))
    for token, name in TOKEN_CONFIG_FIELDS.items():
        recorded.compare(f"added_tokens_in_order.{token}", getattr(config.tokens, name), "exact")
    recorded.compare("embedding_rows_after_resize", config.llama.vocab_size, "exact")
    ours = glamm_hf_config(config, FLOAT32)
    for name in recorded.names_under("config_used."):
        key = name.removeprefix("config_used.")
        if key not in ours:
            recorded.exclude(name, "transformers' own default, which GLaMM never reads")
        elif key == "mm_vision_tower":
            recorded.exclude(name, "a path of the machine that recorded")
        else:
            recorded.compare(name, ours[key], "exact")


def check_trainable(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """The named set `released` is what the original's set-up leaves trainable."""
    adapted = GLaMMConfig(**{**vars(config), "lora": LoRAConfig()})
    state = abstract_model(adapted)[1]
    leaves, table = state_shapes(state), table_of(adapted)
    trained = set(state_shapes(nnx.filter_state(state, trainable_filter("released"))))
    names = {e.tensor for e in table.mappings() if e.leaf in trained}
    lora = {name for name in names if ".lora_" in name}
    differing = sorted((names - lora) ^ set(recorded.get("trainable_non_lora")))
    recorded.record_error("trainable_non_lora", len(differing), "exact", ", ".join(differing[:5]))
    recorded.compare("n_lora", len(lora), "exact")
    count = sum(math.prod(leaves[leaf]) for leaf in trained)
    recorded.compare("trainable_params", count, "exact")
    sizes = tensor_shapes(table, leaves)
    carried = [
        name for name, unread in table.unmapped_by_name().items() if unread.kind == "carried"
    ]
    known = Known(table, leaves, sizes, table.unmapped_by_name())
    unread = sum(math.prod(told[0]) for name in carried if (told := _expected(known, name)))
    # A buffer is no parameter to torch.
    buffers = sum(
        math.prod(shape)
        for n, shape in sizes.items()
        if n.endswith("positional_encoding_gaussian_matrix")
    )
    total = sum(math.prod(shape) for shape in sizes.values()) + unread - buffers
    recorded.compare("total_params", total, "exact")


def check_lora(recorded: RecordedFile, config: GLaMMConfig) -> None:
    """Names with and without peft's wrapping, and the released adapters."""
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
    """A CLIP's configuration is told by its tensors."""
    for name in value:
        matching = [tensors for stem, tensors in manifests.items() if stem.startswith(name)]
        if not matching:
            recorded.exclude_prefix(f"{name}.", "no manifest of this CLIP lies beside it")
            continue
        held = {tensor: tuple(shape) for tensor, (shape, _) in matching[0].items()}
        ours = clip_hf_config(clip_config(held, {}))
        recorded.exclude(f"{name}.projection_dim", "of CLIP's text side, which is dropped")
        for key in recorded.names_under(f"{name}."):
            if key not in recorded.handled:
                recorded.compare(key, ours.get(key.removeprefix(f"{name}.")), "exact")


def _converted(config: GLaMMConfig) -> list[str]:
    return [entry.tensor for entry in table_of(config).mappings()]
