"""Benchmark at full size: convert a 7B checkpoint, export it, and answer a question with it.

examples:
  python -m bench.full_size --work DIR   # all steps: two cores, 40 GB of disk in DIR
  python -m bench.full_size --keep       # keep the model folder and the answer
  python -m bench.full_size --tiny       # the same steps with a tiny model, in seconds

Every step is a separate process, of which wall time and peak memory are measured.

  write     write the 968 tensors of GLaMM-7B and the 392 of CLIP, with generated values, in
            bfloat16 (SAM and L-P in float32, as in the released model)
  digest    compute a hash of every tensor
  copy      copy the files, as a reference for the speed of the conversion
  convert   glamm-jax convert from-torch
  export    glamm-jax convert to-torch, parts glamm and clip
  compare   compare the hash of every exported tensor
  answer    glamm-jax ask on a photograph, in bfloat16

The original files are removed before the export, so that 40 GB of disk suffice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.measure import RESULTS, machine, table, write
from glamm_jax.config import GLaMMConfig, released, tiny
from glamm_jax.models.abstract import abstract_model
from glamm_jax.testing.golden_checkpoints import (
    GoldenSource,
    write_checkpoint,
    write_padded_tokenizer,
)
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import CLIP_PREFIX, SAM_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, glamm_hf_config, with_glamm_jax_config
from glamm_jax.weights.rules import Shapes, tensor_shapes
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import SafetensorsSource, nbytes_of
from glamm_jax.weights.transfer import BFLOAT16

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"
DISK_BYTES = 40e9
PROMPT = "What is in this picture? Where is <p> the roof </p> [SEG]?"
FLOAT32_PREFIXES = (SAM_PREFIX, "model.text_hidden_fcs.")


@dataclass(frozen=True)
class Step:
    """Measurements of a step.

    Attributes:
        name: of the step.
        seconds: wall time.
        peak_gib: peak memory of the process in GiB.
    """

    name: str
    seconds: float
    peak_gib: float


class StepError(RuntimeError):
    """The process of a step failed, after printing its error."""


def run_step(name: str, arguments: Sequence[str]) -> Step:
    """Run a Python module as a separate process and measure it.

    Args:
        name: of the step.
        arguments: module and command line.

    Raises:
        StepError: the exit status is not 0.
    """
    print(f"\n== {name}: python -m {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise StepError(f"{name}: exit status {process.returncode}")
    step = Step(name, seconds, usage.ru_maxrss / 2**20)
    print(f"== {name}: {step.seconds:.1f} s, peak memory {step.peak_gib:.2f} GiB", flush=True)
    return step


def run_all(work: Path, is_tiny: bool) -> list[Step]:
    """Run every step.

    Args:
        work: folder of all files.
        is_tiny: use a tiny model.

    Raises:
        StepError: a step failed.
    """
    module = ["bench.full_size", "--work", str(work), *(["--tiny"] if is_tiny else [])]
    model, original, clip = work / "model", work / "original", work / "clip"
    steps = [run_step("write", [*module, "--step", "write"])]
    steps.append(run_step("digest", [*module, "--step", "digest"]))
    steps.append(run_step("copy", [*module, "--step", "copy"]))
    shutil.rmtree(work / "copy")
    convert = ["convert", "from-torch", str(original), "--clip", str(clip), "--out", str(model)]
    steps.append(run_step("convert", convert))
    shutil.rmtree(original)
    shutil.rmtree(clip)
    for part, out in (("glamm", "back"), ("clip", "clip-back")):
        export = ["convert", "to-torch", str(model), "--part", part, "--out", str(work / out)]
        steps.append(run_step(f"export {part}", export))
    steps.append(run_step("compare", [*module, "--step", "compare"]))
    shutil.rmtree(work / "back")
    shutil.rmtree(work / "clip-back")
    ask = ["demo.ask", "--model", str(model), "--dtype", "bfloat16", "--image", str(photograph())]
    ask += ["--prompt", PROMPT, "--tokens", "16", "--out", str(work / "answer")]
    steps.append(run_step("answer", ask))
    return steps


# ------------------------------------------------------------------------------ the steps


def write_originals(work: Path, is_tiny: bool) -> None:
    """Write GLaMM's and CLIP's folder in the format in which they are released."""
    tokenizer = GOLDENS / "tokenizer"
    config = tiny(base_vocab_size=800) if is_tiny else released()
    if not is_tiny:
        write_padded_tokenizer(tokenizer, work / "tokenizer", config.tokens.image_start)
        tokenizer = work / "tokenizer"
    glamm_shapes, clip_shapes = checkpoint_shapes(config, is_tiny)
    vision_hf_config = clip_hf_config(config.clip)
    shapes = glamm_shapes | {CLIP_PREFIX + name: shape for name, shape in clip_shapes.items()}
    hf_config = with_glamm_jax_config(
        glamm_hf_config(config, "bfloat16"), config, shapes, vision_hf_config
    )

    def stored_dtype(name: str) -> np.dtype:
        return np.dtype(np.float32) if name.startswith(FLOAT32_PREFIXES) else BFLOAT16

    glamm = GoldenSource(glamm_shapes, table_of(config), dtype=stored_dtype)
    clip = GoldenSource(
        clip_shapes, table_of(config.clip), dtype=lambda name: BFLOAT16, prefix=CLIP_PREFIX
    )
    total = nbytes_of(glamm) + nbytes_of(clip)
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=None) as bar:

        def advance(name: str, nbytes: int) -> None:
            bar.update(nbytes)

        write_checkpoint(
            glamm, work / "original", hf_config, tokenizer=tokenizer, on_tensor=advance
        )
        write_checkpoint(clip, work / "clip", vision_hf_config, on_tensor=advance)


def photograph() -> Path:
    """Return the path of scikit-learn's photograph of China."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def checkpoint_shapes(config: GLaMMConfig, is_tiny: bool) -> tuple[dict, dict]:
    """Return names and shapes of GLaMM's and of CLIP's folder, recorded or of the tiny model."""
    if not is_tiny:
        return recorded_shapes("glamm_7b_saved_hf"), recorded_shapes("clip_vit_l14_336_hf")
    shapes: Shapes = tensor_shapes(table_of(config), state_shapes(abstract_model(config)[1]))
    glamm = {name: shape for name, shape in shapes.items() if not name.startswith(CLIP_PREFIX)}
    clip = {
        name.removeprefix(CLIP_PREFIX): shape
        for name, shape in shapes.items()
        if name.startswith(CLIP_PREFIX)
    }
    return glamm, clip


def recorded_shapes(manifest: str) -> dict[str, tuple[int, ...]]:
    """Return {tensor: shape} of a recorded manifest."""
    path = GOLDENS / "manifest" / f"{manifest}.json"
    tensors = json.loads(path.read_text(encoding="utf-8"))["tensors"]
    return {name: tuple(shape) for name, (shape, _) in tensors.items()}


def digests(folders: Sequence[Path]) -> dict[str, str]:
    """Return dtype, shape and hash of every tensor of the folders, as one string."""
    out = {}
    for folder in folders:
        source = SafetensorsSource(folder)
        for name, info in tqdm(source.infos.items(), desc=folder.name, disable=None):
            digest = hashlib.blake2b(source.read(name).tobytes(), digest_size=16).hexdigest()
            out[name] = f"{info.dtype} {list(info.shape)} {digest}"
    return out


def write_digests(work: Path) -> None:
    """Write the hashes of the original tensors."""
    original = digests([work / "original", work / "clip"])
    (work / "digests.json").write_text(json.dumps(original), encoding="utf-8")
    print(f"{len(original)} tensors")


def copy_originals(work: Path) -> None:
    """Copy the original files and flush them to the disk."""
    for name in ("original", "clip"):
        shutil.copytree(work / name, work / "copy" / name)
    os.sync()


def compare_digests(work: Path) -> None:
    """Compare the exported tensors with the original ones.

    Raises:
        SystemExit: tensors differ.
    """
    original = json.loads((work / "digests.json").read_text(encoding="utf-8"))
    exported = digests([work / "back", work / "clip-back"])
    differing = sorted(n for n in original | exported if original.get(n) != exported.get(n))
    if differing:
        raise SystemExit(f"{len(differing)} tensors differ: {', '.join(differing[:5])} ...")
    print(f"{len(exported)} tensors are byte-identical")


STEPS = {"digest": write_digests, "copy": copy_originals, "compare": compare_digests}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.full_size",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/full-size"),
        help="folder of all files; its contents are removed first",
    )
    parser.add_argument("--keep", action="store_true", help="keep the model folder and the answer")
    parser.add_argument("--tiny", action="store_true", help="tiny model, to test the benchmark")
    parser.add_argument("--step", choices=("write", *STEPS), help="run one step in this process")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "full_size.json", help="JSON to write"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step, or all of them and report the measurements; return the exit status."""
    options = parse(arguments)
    work: Path = options.work
    if options.step:
        work.mkdir(parents=True, exist_ok=True)
        if options.step == "write":
            write_originals(work, options.tiny)
        else:
            STEPS[options.step](work)
        return 0
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    free = shutil.disk_usage(work).free
    if not options.tiny and free < DISK_BYTES:
        print(f"{work}: {DISK_BYTES / 1e9:.0f} GB are needed, {free / 1e9:.1f} GB are free")
        return 2
    try:
        steps = run_all(work, options.tiny)
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            for name in ("original", "clip", "copy", "model", "back", "clip-back", "tokenizer"):
                shutil.rmtree(work / name, ignore_errors=True)
    seconds = {step.name: step.seconds for step in steps}
    rows = [[s.name, f"{s.seconds:.0f} s", f"{s.peak_gib:.2f} GiB"] for s in steps]
    print("\n" + table(["step", "wall time", "peak memory"], rows))
    ratio = seconds["copy"] / seconds["convert"]
    print(f"\nspeed of the conversion / speed of copying the files: {ratio:.2f}")
    write(
        options.out,
        {"machine": machine(), "steps": [asdict(s) for s in steps], "copy_over_convert": ratio},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
