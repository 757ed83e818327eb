"""Export a model folder to PyTorch; a converted checkpoint is exported byte for byte.

examples:
  glamm-jax convert to-torch glamm --out GLaMM-back
  glamm-jax convert to-torch glamm --part clip --out CLIP-back
  glamm-jax convert to-torch adapted --part adapter --out my-lora
  glamm-jax convert to-torch adapted --lora injected --out training-checkpoint

--part selects what is exported:

  glamm     a Hugging Face folder for the original's from_pretrained: safetensors, index,
            config.json, tokenizer; without CLIP, as the original saves it (default)
  clip      the CLIP folder, with the layers that GLaMM does not use
  adapter   the LoRA adapters of the model, as a peft adapter, with the modules that came with them

A model folder of CLIP, LLaMA or SAM alone has one part, and --part is not needed.

--lora applies to the part glamm: `merged` (default) merges adapters into the kernels, `injected`
writes them under the names of a training checkpoint, `none` leaves them out.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from glamm_jax.cli.convert.assemble import leaf_shapes
from glamm_jax.cli.program import model_path, this_machine
from glamm_jax.cli.progress import print_summary, progress_bar
from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, SAMConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.weights.folder import ModelFolder, copy_tokenizer
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hf_config import (
    adapter_hf_config,
    clip_hf_config,
    component_hf_config,
    glamm_hf_config,
    llama_hf_config,
    with_glamm_jax_config,
)
from glamm_jax.weights.lora import (
    REPLACED_BY_ADAPTER,
    MergedLeaves,
    UniformLeaves,
    adapter_name,
)
from glamm_jax.weights.rules import WeightTable, tensor_shapes
from glamm_jax.weights.safetensors import DTYPES, TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import LeafSource, shapes_of
from glamm_jax.weights.transfer import CARRIED, StoredDtypes, default_stored_dtypes, export_tensors


@dataclass(frozen=True)
class Part:
    """A part of a model that is exported.

    Attributes:
        table: maps tensors to leaves.
        stored_dtypes: the tensors, under GLaMM's names, and their dtypes.
        leaves: of the model.
        hf_config: config.json; None: the part has none.
        rename: returns a tensor's name in the exported files.
        stem: name of the safetensors files.
        config_name: file name of `hf_config`.
    """

    table: WeightTable
    stored_dtypes: StoredDtypes
    leaves: LeafSource
    hf_config: dict[str, Any] | None
    rename: Callable[[str], str] = lambda name: name
    stem: str = "model"
    config_name: str = "config.json"

    @property
    def nbytes(self) -> int:
        """Size of the tensors that are converted from leaves."""
        shapes = tensor_shapes(self.table, shapes_of(self.leaves))
        return sum(
            math.prod(shapes[name]) * DTYPES[dtype].itemsize
            for name, dtype in self.stored_dtypes.items()
            if name in shapes
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=model_path, metavar="MODEL", help="model folder")
    parser.add_argument("--out", type=this_machine, required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--part", choices=("glamm", "clip", "adapter"), default="glamm", help="default: %(default)s"
    )
    parser.add_argument(
        "--lora",
        choices=("merged", "injected", "none"),
        default="merged",
        help="default: %(default)s",
    )


def run(options: argparse.Namespace) -> None:
    """Write the part's tensors, then its config.json and tokenizer."""
    folder = ModelFolder(options.model)
    part = select_part(folder, options.part, options.lora)
    with atomic_folder(options.out, part.nbytes) as target:
        with progress_bar(part.nbytes, "exporting") as advance:
            export_tensors(
                part.table,
                part.stored_dtypes,
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
    print(f"{options.out}: {len(part.stored_dtypes)} tensors")
    print_summary(part.nbytes)


def select_part(folder: ModelFolder, name: str, lora: str) -> Part:
    """Return a part of a model.

    Args:
        folder: the model.
        name: glamm, clip or adapter; irrelevant if the model is not a GLaMM.
        lora: treatment of the adapters in the part glamm: merged, injected or none.

    Raises:
        FolderError: the model has no such part.
    """
    config, table = folder.config, table_of(folder.config)
    source_info = folder.source_info()
    stored_dtypes = source_info.get("tensors") or default_stored_dtypes(table, folder)
    hf_configs = source_info.get("described", {})
    if not isinstance(config, GLaMMConfig):
        hf_config = None
        shapes = tensor_shapes(table, shapes_of(folder))
        if isinstance(config, CLIPConfig):
            hf_config = hf_configs.get("clip") or clip_hf_config(config)
            hf_config = component_hf_config(hf_config, config, shapes)
        elif isinstance(config, SAMConfig):
            hf_config = component_hf_config({}, config, shapes) or None
        elif isinstance(config, LlamaConfig):
            default = llama_hf_config(config, _torch_dtype(stored_dtypes))
            hf_config = default | hf_configs.get("llama", {})
        return Part(table, stored_dtypes, folder, hf_config)
    if name == "clip":
        return Part(
            table,
            {tensor: d for tensor, d in stored_dtypes.items() if tensor.startswith(CLIP_PREFIX)},
            folder,
            hf_configs.get("clip") or clip_hf_config(config.clip),
            rename=lambda tensor: tensor.removeprefix(CLIP_PREFIX),
        )
    if name == "adapter":
        if config.lora is None:
            raise FolderError(f"{folder.path}: has no LoRA adapters to export")
        matrices = [tensor for tensor in stored_dtypes if ".lora_" in tensor]
        modules = sorted({tensor.split(".lora_")[0] for tensor in matrices})
        replaced = set(source_info.get(REPLACED_BY_ADAPTER, ()))
        hf_config = adapter_hf_config(config.lora, modules, str(folder.path))
        return Part(
            table,
            {tensor: stored_dtypes[tensor] for tensor in (*matrices, *sorted(replaced))},
            folder,
            hf_config | hf_configs.get("adapter", {}),
            rename=adapter_name,
            stem="adapter_model",
            config_name="adapter_config.json",
        )
    if lora == "none" and config.lora is not None and source_info.get(REPLACED_BY_ADAPTER):
        raise FolderError(
            f"{folder.path}: {', '.join(source_info[REPLACED_BY_ADAPTER])} came with the adapter, "
            "and the model folder does not contain those of before; use --lora merged, or convert "
            "the model again without --adapter"
        )
    return _glamm_part(folder, config, lora, stored_dtypes, hf_configs)


def _glamm_part(
    folder: ModelFolder,
    config: GLaMMConfig,
    lora: str,
    stored_dtypes: StoredDtypes,
    hf_configs: dict[str, Any],
) -> Part:
    leaves: LeafSource = folder
    stored_dtypes = {n: d for n, d in stored_dtypes.items() if not n.startswith(CLIP_PREFIX)}
    if config.lora is not None and lora != "injected":
        leaves = MergedLeaves(folder, config.lora if lora == "merged" else None)
        config = replace(config, lora=None)
        stored_dtypes = {n: d for n, d in stored_dtypes.items() if ".lora_" not in n}
    table = table_of(config)
    if config.lora is not None:
        leaves = UniformLeaves(folder)
        default = default_stored_dtypes(table, leaves)
        adapters = {n: d for n, d in default.items() if ".lora_" in n}
        stored_dtypes = stored_dtypes | {
            name: stored_dtypes.get(name, dtype) if CARRIED + name not in folder.infos else dtype
            for name, dtype in adapters.items()
        }
    shapes = tensor_shapes(table, leaf_shapes(config))
    hf_config = glamm_hf_config(config, _torch_dtype(stored_dtypes)) | hf_configs.get("glamm", {})
    hf_config = with_glamm_jax_config(hf_config, config, shapes, hf_configs.get("clip", {}))
    return Part(table, stored_dtypes, leaves, hf_config)


def _torch_dtype(stored_dtypes: StoredDtypes) -> str:
    """Return the dtype of most tensors, as config.json names it."""
    return str(DTYPES[Counter(stored_dtypes.values()).most_common(1)[0][0]])


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["to-torch", *sys.argv[1:]]))
