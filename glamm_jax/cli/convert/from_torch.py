"""Convert PyTorch checkpoints to a model folder, without losing a tensor.

examples:
  glamm-jax convert from-torch MBZUAI/GLaMM-FullScope --out glamm       # of the Hugging Face Hub
  glamm-jax convert from-torch GLaMM-FullScope --clip CLIP --adapter my-lora --out adapted
  glamm-jax convert from-torch pytorch_model.bin --tokenizer GLAMM --clip CLIP --out trained
  glamm-jax convert from-torch vicuna-7b --clip CLIP --sam sam.pth --region GPT4RoI --out start
  glamm-jax convert from-torch sam_vit_h_4b8939.pth --out sam

The family of SOURCE is inferred from its contents:

  GLaMM          a Hugging Face folder (.bin or safetensors, one file or shards), or a training
                 checkpoint with injected LoRA (written by zero_to_fp32.py). It does not contain
                 CLIP: pass --clip
  CLIP, LLaMA    a Hugging Face folder; gives a model folder of this component alone
  SAM            the .pth file of Segment Anything, B, L or H; gives a model folder of SAM alone
  LLaMA with --clip and --sam    the initial GLaMM of a pretraining. The embeddings of the added
                 tokens, and layers that no checkpoint contains (V-L unless it is a LLaVA, the
                 region encoder without --region, L-P), are initialized from --seed

A SOURCE or option ORG/NAME that is no folder here is downloaded from the Hugging Face Hub: the
configuration, the tokenizer and one copy of the weights, safetensors before pickles; after an
interruption the same command goes on. ORG/NAME@REVISION is a branch, tag or commit. The CLIP that
the config.json of a downloaded GLaMM names is downloaded, too, unless --clip is given.

Names are read as trainings save them: with the prefixes of DDP, torch.compile, FSDP and peft, and
CLIP without vision_model. (transformers 5). In a folder with several copies of the weights,
model.safetensors counts first, then safetensors shards, pytorch_model.bin and its shards; a warning
names the files that are ignored. Rows that pad the vocabulary are kept. A key of
adapter_config.json that changes the computation is applied or rejected by name; modules that the
adapter contains (embeddings after a vocabulary was resized, modules_to_save) replace those of
SOURCE.

Every tensor is converted, recomputed (checked now, written again on export), carried (stored
unused for the export) or dropped for a reason that is printed. Missing and unknown tensors and
wrong shapes are listed in one error before anything is written. Stored dtypes are kept. Code in
pickles is never executed.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from glamm_jax.cli.convert.assemble import Request, assemble, leaf_shapes
from glamm_jax.cli.program import any_path, checkpoint_path, printable
from glamm_jax.cli.progress import print_summary, progress_bar
from glamm_jax.config import GLaMMConfig
from glamm_jax.files import atomic_folder
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.checkpoint_files import open_checkpoint
from glamm_jax.weights.config_file import CONFIG_FILE
from glamm_jax.weights.folder import finish_folder
from glamm_jax.weights.glamm import CLIP_PREFIX
from glamm_jax.weights.hub import local_checkpoint
from glamm_jax.weights.lora import REPLACED_BY_ADAPTER
from glamm_jax.weights.missing_paths import hub_repository
from glamm_jax.weights.safetensors import TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import nbytes_of
from glamm_jax.weights.transfer import import_tensors

CLIP_KEY = "vision_tower"  # of the config.json of a GLaMM: the name of its CLIP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", type=checkpoint_path, metavar="SOURCE", help="folder or file")
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="MODEL", help="new model folder"
    )
    parser.add_argument(
        "--clip", type=checkpoint_path, metavar="DIR", help="CLIP's Hugging Face folder"
    )
    parser.add_argument(
        "--sam", type=checkpoint_path, metavar="FILE", help=".pth file of SAM, if SOURCE is a LLaMA"
    )
    parser.add_argument(
        "--region",
        type=checkpoint_path,
        metavar="DIR",
        help="folder of GPT4RoI, if SOURCE is LLaMA",
    )
    parser.add_argument(
        "--adapter", type=checkpoint_path, metavar="DIR", help="folder of a peft adapter of SOURCE"
    )
    parser.add_argument(
        "--tokenizer",
        type=checkpoint_path,
        metavar="DIR",
        help="folder with the tokenizer and config.json, if SOURCE is a file",
    )
    parser.add_argument(
        "--lora-alpha",
        type=float,
        help="alpha of adapters without adapter_config.json (default of injected ones: 16, as "
        "released)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of initialized layers (default: 0)"
    )


def run(options: argparse.Namespace) -> None:
    """Assemble the checkpoints, write the model folder, print the disposition of the tensors."""
    assembly = assemble(_request(options))
    for warning in assembly.warnings:
        print(f"from-torch: warning: {printable(warning)}", file=sys.stderr)
    table, leaves = table_of(assembly.config), leaf_shapes(assembly.config)
    nbytes = nbytes_of(assembly.tensors)
    with atomic_folder(options.out, nbytes, CONFIG_FILE) as folder:
        with progress_bar(nbytes, "converting") as advance:
            stored_dtypes = import_tensors(
                table,
                assembly.tensors,
                leaves,
                TensorWriter(folder),
                originals=assembly.originals,
                not_exported=assembly.not_exported,
                on_tensor=advance,
            )
        source_info: dict[str, Any] = {
            "described": assembly.hf_configs,
            "tensors": stored_dtypes,
        }
        if assembly.replaced:
            source_info[REPLACED_BY_ADAPTER] = sorted(assembly.replaced)
        finish_folder(folder, assembly.config, source_info, assembly.tokenizer)
    infos = assembly.tensors.infos
    if isinstance(assembly.config, GLaMMConfig) and assembly.tokenizer is not None:
        num_ids = load_tokenizer(assembly.tokenizer).size
        if num_padding := assembly.config.llama.vocab_size - num_ids:
            print(f"{num_padding} rows of the vocabulary are padding after {num_ids} ids")
    unmapped = [tensor for name, tensor in table.unmapped_by_name().items() if name in infos]
    print(f"{options.out}: {len(infos) - len(unmapped)} tensors converted")
    for disposition in ("recomputed", "carried", "dropped"):
        reasons = [tensor.reason for tensor in unmapped if tensor.disposition == disposition]
        for reason in dict.fromkeys(reasons):
            print(f"  {reasons.count(reason)} {disposition}: {reason}")
    for reason, count in assembly.num_dropped.items():
        print(f"  {count} dropped: {reason}")
    print_summary(nbytes)


def _request(options: argparse.Namespace) -> Request:
    """Return the checkpoints to assemble, after downloading those of the Hub."""
    names = ("source", "clip", "sam", "region", "adapter", "tokenizer")
    given = {name: getattr(options, name) for name in names}
    paths = {name: path and _local_checkpoint(path) for name, path in given.items()}
    if paths["source"] != given["source"] and paths["clip"] is None:
        checkpoint = open_checkpoint(paths["source"])
        clip = checkpoint.hf_config.get(CLIP_KEY)
        has_clip = any(name.startswith(CLIP_PREFIX) for name in checkpoint.tensors.infos)
        if not has_clip and isinstance(clip, str) and hub_repository(clip):
            paths["clip"] = _local_checkpoint(Path(clip))
    return Request(**paths, lora_alpha=options.lora_alpha, seed=options.seed)


def _local_checkpoint(path: Path) -> Path:
    folder = local_checkpoint(path)
    if folder != path:
        print(f"{path}: {folder}", flush=True)
    return folder


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["from-torch", *sys.argv[1:]]))
