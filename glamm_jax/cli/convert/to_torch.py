"""Turn a model folder into what PyTorch reads: the same bytes that it came from.

  glamm     a Hugging Face folder for the original's from_pretrained: safetensors, index,
            config.json, tokenizer; without CLIP, as the original saves it
  clip      the CLIP folder inside it, with the layers that nobody reads
  adapter   the LoRA of a model, as a peft adapter
  (a model folder of CLIP, LLaMA or SAM alone has one part, itself)

--lora says what becomes of adapters in the glamm part: `merged` folds them into their kernels,
`injected` keeps them under the names of a training checkpoint, `none` leaves them out.

  python -m convert to-torch glamm --out GLaMM-back
  python -m convert to-torch glamm --part clip --out CLIP-back
  python -m convert to-torch adapted --part adapter --out my-lora
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glamm_jax.cli.progress import print_summary, progress_bar
from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import ModelFolder, copy_tokenizer
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hf_config import (
    adapter_hf_config,
    clip_hf_config,
    glamm_hf_config,
    llama_hf_config,
    with_glamm_jax_config,
)
from glamm_jax.weights.lora import MergedLeaves, adapter_name
from glamm_jax.weights.rules import WeightTable, tensor_shapes
from glamm_jax.weights.safetensors import DTYPES, TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import LeafSource, shapes_of
from glamm_jax.weights.transfer import StoredDtypes, default_stored_dtypes, export_tensors


@dataclass(frozen=True)
class Part:
    """What is exported: tensors by GLaMM's names, what they are called there, and config.json."""

    table: WeightTable
    record: StoredDtypes
    leaves: LeafSource
    hf_config: dict[str, Any] | None
    rename: Callable[[str], str] = lambda name: name
    stem: str = "model"
    config_name: str = "config.json"

    @property
    def nbytes(self) -> int:
        """About what is written: by the leaves that the tensors come from."""
        sizes = tensor_shapes(self.table, shapes_of(self.leaves))
        return sum(
            math.prod(sizes[name]) * DTYPES[dtype].itemsize
            for name, dtype in self.record.items()
            if name in sizes
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--part", choices=("glamm", "clip", "adapter"), default="glamm")
    parser.add_argument("--lora", choices=("merged", "injected", "none"), default="merged")


def run(options: argparse.Namespace) -> None:
    """Write the part's tensors, then its config.json and tokenizer."""
    folder = ModelFolder(options.model)
    part = choose(folder, options.part, options.lora)
    with atomic_folder(options.out, part.nbytes) as target:
        with progress_bar(part.nbytes, "exporting") as advance:
            export_tensors(
                part.table,
                part.record,
                part.leaves,
                TensorWriter(target, stem=part.stem),
                rename=part.rename,
                on_tensor=advance,
            )
        if options.part == "glamm":
            copy_tokenizer(folder.path, target)
        if part.hf_config is not None:
            text = json.dumps(part.hf_config, indent=2) + "\n"
            (target / part.config_name).write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(part.record)} tensors")
    print_summary(part.nbytes)


def choose(folder: ModelFolder, name: str, lora: str) -> Part:
    """The part that the command line names.

    Raises: FolderError when the model has no such part.
    """
    config, table = folder.config, table_of(folder.config)
    saved = folder.source_info()
    record = saved.get("tensors") or default_stored_dtypes(table, folder)
    described = saved.get("described", {})
    if not isinstance(config, GLaMMConfig):
        return Part(table, record, folder, _described_part(config, described, record))
    if name == "clip":
        record = {tensor: d for tensor, d in record.items() if tensor.startswith(CLIP_PREFIX)}
        clip = described.get("clip") or clip_hf_config(config.clip)
        return Part(table, record, folder, clip, lambda tensor: tensor.removeprefix(CLIP_PREFIX))
    if name == "adapter":
        return _adapter(folder, config, table, record)
    return _glamm(folder, config, lora, record, described)


def _glamm(
    folder: ModelFolder,
    config: GLaMMConfig,
    lora: str,
    record: StoredDtypes,
    described: dict[str, Any],
) -> Part:
    leaves: LeafSource = folder
    record = {tensor: d for tensor, d in record.items() if not tensor.startswith(CLIP_PREFIX)}
    if config.lora is not None and lora != "injected":
        leaves = MergedLeaves(folder, config.lora if lora == "merged" else None)
        config = replace(config, lora=None)
        record = {tensor: dtype for tensor, dtype in record.items() if ".lora_" not in tensor}
    table = table_of(config)
    clip = described.get("clip", {})
    held = tensor_shapes(table, state_shapes(abstract_model(config)[1]))
    base = glamm_hf_config(config, _torch_dtype(record)) | described.get("glamm", {})
    return Part(table, record, leaves, with_glamm_jax_config(base, config, held, clip))


def _adapter(
    folder: ModelFolder, config: GLaMMConfig, table: WeightTable, record: StoredDtypes
) -> Part:
    record = {tensor: dtype for tensor, dtype in record.items() if ".lora_" in tensor}
    if config.lora is None:
        raise FolderError(f"{folder.path}: has no LoRA, so no adapter to export")
    modules = sorted({tensor.split(".lora_")[0] for tensor in record})
    described = adapter_hf_config(config.lora, modules, str(folder.path))
    return Part(
        *(table, record, folder, described, adapter_name),
        stem="adapter_model",
        config_name="adapter_config.json",
    )


def _described_part(
    config: Any, described: dict[str, Any], record: StoredDtypes
) -> dict[str, Any] | None:
    if isinstance(config, CLIPConfig):
        return described.get("clip") or clip_hf_config(config)
    if isinstance(config, LlamaConfig):
        return llama_hf_config(config, _torch_dtype(record)) | described.get("llama", {})
    return None


def _torch_dtype(record: StoredDtypes) -> str:
    """What most tensors are stored as."""
    return str(DTYPES[Counter(record.values()).most_common(1)[0][0]])
