"""Turn checkpoints of PyTorch into a model folder, without losing a tensor.

SOURCE is recognised by what it holds:

  GLaMM          a Hugging Face folder (.bin or safetensors, one file or shards), or the file of a
                 training with injected LoRA (zero_to_fp32.py's); it holds no CLIP, so name it
  CLIP, LLaMA    a Hugging Face folder: a model folder of that part alone
  SAM            the .pth of Segment Anything, B, L or H: the same
  LLaMA with --clip and --sam: a GLaMM to start a pretraining from. The rows of the added tokens,
                 and layers that no part has (V-L unless it is a LLaVA, regions without --region,
                 L-P), are drawn from --seed

Every tensor is converted, recomputed (checked now, written again on export), carried through or
dropped for a stated reason; anything missing, unknown or misshapen is listed, all at once, before a
byte is written. Stored dtypes are kept. Pickles never run code.

  python -m convert from-torch GLaMM-FullScope --clip clip-vit-large-patch14-336 --out glamm
  python -m convert from-torch GLaMM-FullScope --clip CLIP --adapter my-lora --out adapted
  python -m convert from-torch pytorch_model.bin --tokenizer GLAMM --clip CLIP --out trained
  python -m convert from-torch vicuna-7b --clip CLIP --sam sam.pth --region GPT4RoI --out start
  python -m convert from-torch sam_vit_h_4b8939.pth --out sam
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glamm_jax.cli.convert.assemble import Assembly, Request, assemble
from glamm_jax.cli.progress import print_summary, progress_bar
from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import finish_folder
from glamm_jax.weights.safetensors import TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import nbytes_of
from glamm_jax.weights.transfer import import_tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder or a file")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="a new folder")
    parser.add_argument("--clip", type=Path, metavar="DIR", help="CLIP's Hugging Face folder")
    parser.add_argument("--sam", type=Path, metavar="FILE", help="SAM, beside a LLaMA SOURCE")
    parser.add_argument("--region", type=Path, metavar="DIR", help="GPT4RoI, beside a LLaMA SOURCE")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="a peft adapter of SOURCE")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="tokenizer and config.json, if SOURCE is a file",
    )
    parser.add_argument(
        "--lora-alpha", type=float, default=16.0, help="of injected LoRA (default: 16, as released)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of layers that no part has")


def run(options: argparse.Namespace) -> None:
    """Assemble, write, say what became of every tensor."""
    names = ("clip", "sam", "region", "adapter", "tokenizer", "lora_alpha", "seed")
    assembly = assemble(Request(options.source, **{n: getattr(options, n) for n in names}))
    leaves = state_shapes(abstract_model(assembly.config)[1])
    total = nbytes_of(assembly.tensors)
    with atomic_folder(options.out, total) as folder:
        with progress_bar(total, "converting") as advance:
            record = import_tensors(
                table_of(assembly.config),
                assembly.tensors,
                leaves,
                TensorWriter(folder),
                on_tensor=advance,
            )
        way_back = {"described": assembly.hf_configs, "tensors": record}
        finish_folder(folder, assembly.config, way_back, assembly.tokenizer)
    _say(assembly, options.out)
    print_summary(total)


def _say(assembly: Assembly, out: Path) -> None:
    table = table_of(assembly.config)
    held = assembly.tensors.infos
    unread = [u for name, u in table.unmapped_by_name().items() if name in held]
    print(f"{out}: {len(held) - len(unread)} tensors converted")
    for kind in ("recomputed", "carried", "dropped"):
        reasons = [unused.reason for unused in unread if unused.kind == kind]
        for reason in dict.fromkeys(reasons):
            print(f"  {reasons.count(reason)} {kind}: {reason}")
    for reason, count in assembly.dropped.items():
        print(f"  {count} dropped: {reason}")
