"""Fold LoRA adapters into their kernels: a model folder in, a model folder without LoRA out.

W + (alpha / rank) A B is formed in float32 and rounded once to the dtype that W is stored in.

  python -m convert merge MODEL --out MERGED
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from glamm_jax.cli.progress import fails_politely, progress_bar, report
from glamm_jax.config import GLaMMConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import new_folder
from glamm_jax.weights.folder import ModelFolder, seal
from glamm_jax.weights.lora import MergedLeaves, without_lora
from glamm_jax.weights.tensor_sources import nbytes_of
from glamm_jax.weights.transfer import copy_leaves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model folder with LoRA")
    parser.add_argument("--out", type=Path, required=True, metavar="MERGED", help="a new folder")


def run(options: argparse.Namespace) -> int:
    """Merge; 2 when something cannot be used."""
    return fails_politely("merge", lambda: merge(options.model, options.out))


def merge(model: Path, out: Path) -> None:
    """Write the merged model beside the old one."""
    folder = ModelFolder(model)
    config = folder.config
    if not isinstance(config, GLaMMConfig) or config.lora is None:
        raise FolderError(f"{model}: has no LoRA to merge")
    leaves = MergedLeaves(folder, config.lora)
    total = nbytes_of(leaves)
    with new_folder(out, total) as target:
        with progress_bar(total, "merging") as advance:
            copy_leaves(leaves, target, on_tensor=advance)
        seal(target, replace(config, lora=None), without_lora(folder.record()), model)
    report(total)
