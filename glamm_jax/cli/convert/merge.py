"""Merge LoRA adapters into the kernels that they adapt; write a model folder without LoRA.

examples:
  glamm-jax convert merge trained --out merged
  glamm-jax convert to-torch merged --out merged-hf     # then: export to PyTorch

W + (alpha / rank) A B is computed in float32 and rounded once to the dtype of W.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib import import_module

from glamm_jax.cli.program import any_path, model_path
from glamm_jax.cli.progress import print_summary, progress_bar
from glamm_jax.config import GLaMMConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.weights.config_file import CONFIG_FILE
from glamm_jax.weights.folder import ModelFolder, finish_folder
from glamm_jax.weights.lora import MergedLeaves, without_lora
from glamm_jax.weights.safetensors import TensorWriter
from glamm_jax.weights.tensor_sources import nbytes_of
from glamm_jax.weights.transfer import copy_leaves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=model_path, metavar="MODEL", help="model folder with LoRA")
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="MERGED", help="new model folder"
    )


def run(options: argparse.Namespace) -> None:
    """Write the merged model.

    Raises:
        FolderError: the model has no LoRA, or a folder cannot be read or written.
    """
    folder = ModelFolder(options.model)
    config = folder.config
    if not isinstance(config, GLaMMConfig) or config.lora is None:
        raise FolderError(f"{options.model}: has no LoRA to merge")
    leaves = MergedLeaves(folder, config.lora)
    nbytes = nbytes_of(leaves)
    merged = replace(config, lora=None)
    with atomic_folder(options.out, nbytes, CONFIG_FILE) as target:
        with progress_bar(nbytes, "merging") as advance:
            copy_leaves(leaves, TensorWriter(target), on_tensor=advance)
        finish_folder(target, merged, without_lora(folder.source_info()), options.model)
    print_summary(nbytes)


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["merge", *sys.argv[1:]]))
