"""The main job at its true size: a 7B folder in the original's format, there, back, and answering.

    make full-size                         everything, on two cores and 40 GB of disk
    python -m bench.full_size --work DIR   where the folders go (removed afterwards unless --keep)
    python -m bench.full_size --tiny       seconds: the same steps with a tiny model

Each step is a process of its own, measured from outside: wall time and the most memory it held.

    write     all 968 tensors of GLaMM-7B and the 392 of CLIP by the golden rule, in bfloat16 (SAM
              and L-P in float32, as the released merge leaves them)
    digest    a hash of every tensor
    copy      the files copied once: the yardstick of the conversion
    convert   python -m convert from-torch
    export    python -m convert to-torch, both parts; then every tensor's hash against the first
    answer    python -m demo.ask on a photograph, in bfloat16

The originals are removed before the export, so that 40 GB of disk are enough.
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

import ml_dtypes
import numpy as np
from tqdm import tqdm

from bench.measure import RESULTS, machine, table, write
from glamm_jax.config import GLaMMConfig, released, tiny
from glamm_jax.models.abstract import abstract_model
from glamm_jax.testing.golden_checkpoints import GoldenSource, padded_tokenizer, write_checkpoint
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import CLIP_PREFIX, SAM_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, glamm_hf_config, with_glamm_jax_config
from glamm_jax.weights.rules import Shapes, tensor_shapes
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import SafetensorsSource, nbytes_of

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"
DISK_BYTES = 40e9
PROMPT = "What is in this picture? Where is <p> the roof </p> [SEG]?"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KEPT_FLOAT32 = (SAM_PREFIX, "model.text_hidden_fcs.")


@dataclass(frozen=True)
class Step:
    """One process: what it was for, how long it took, the most memory it held."""

    name: str
    seconds: float
    peak_gib: float
    note: str = ""


class StepError(RuntimeError):
    """A step ended with an error; it has been printed."""


def run_step(name: str, arguments: Sequence[str]) -> Step:
    """Run a Python module as a process of its own and measure it."""
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
    """Every step, in order.

    Raises: StepError naming the first step that does not end well.
    """
    size = ["--tiny"] if is_tiny else []
    here = ["bench.full_size", "--work", str(work), *size]
    model, first, clip = work / "model", work / "original", work / "clip"
    steps = [run_step("write", [*here, "--step", "write"])]
    steps.append(run_step("digest", [*here, "--step", "digest"]))
    steps.append(run_step("copy", [*here, "--step", "copy"]))
    shutil.rmtree(work / "copy")
    convert = ["convert", "from-torch", str(first), "--clip", str(clip), "--out", str(model)]
    steps.append(run_step("convert", convert))
    shutil.rmtree(first)
    shutil.rmtree(clip)
    for part, out in (("glamm", "back"), ("clip", "clip-back")):
        export = ["convert", "to-torch", str(model), "--part", part, "--out", str(work / out)]
        steps.append(run_step(f"export {part}", export))
    steps.append(run_step("compare", [*here, "--step", "compare"]))
    shutil.rmtree(work / "back")
    shutil.rmtree(work / "clip-back")
    ask = [
        "demo.ask",
        "--model",
        str(model),
        "--dtype",
        "bfloat16",
        "--image",
        str(photograph()),
    ]
    ask += ["--prompt", PROMPT, "--tokens", "16", "--out", str(work / "answer")]
    steps.append(run_step("answer", ask))
    return steps


# ------------------------------------------------------------------------------ the steps


def write_originals(work: Path, is_tiny: bool) -> None:
    """GLaMM's folder and CLIP's, as they would be downloaded."""
    tokenizer = GOLDENS / "tokenizer"
    config = tiny(base_vocab_size=800) if is_tiny else released()
    if not is_tiny:
        padded_tokenizer(tokenizer, work / "tokenizer", config.tokens.image_start)
        tokenizer = work / "tokenizer"
    saved, clip = tensors_of(config, is_tiny)
    clip_described = clip_hf_config(config.clip)
    held = saved | {CLIP_PREFIX + name: shape for name, shape in clip.items()}
    described = with_glamm_jax_config(
        glamm_hf_config(config, "bfloat16"), config, held, clip_described
    )
    stored = lambda name: np.dtype(np.float32) if name.startswith(KEPT_FLOAT32) else BFLOAT16  # noqa: E731
    main = GoldenSource(saved, table_of(config), dtype=stored)
    tower = GoldenSource(
        clip, table_of(config.clip), dtype=lambda name: BFLOAT16, prefix=CLIP_PREFIX
    )
    total = nbytes_of(main) + nbytes_of(tower)
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=None) as bar:

        def advance(name: str, nbytes: int) -> None:
            bar.update(nbytes)

        write_checkpoint(main, work / "original", described, tokenizer=tokenizer, on_tensor=advance)
        write_checkpoint(tower, work / "clip", clip_described, on_tensor=advance)


def photograph() -> Path:
    """The photograph of China that scikit-learn carries."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def tensors_of(config: GLaMMConfig, is_tiny: bool) -> tuple[dict, dict]:
    """Names and shapes of the GLaMM folder and of CLIP's: recorded, or the tiny model's own."""
    if not is_tiny:
        return recorded_shapes("glamm_7b_saved_hf"), recorded_shapes("clip_vit_l14_336_hf")
    known: Shapes = tensor_shapes(table_of(config), state_shapes(abstract_model(config)[1]))
    cut = len(CLIP_PREFIX)
    clip = {name[cut:]: shape for name, shape in known.items() if name.startswith(CLIP_PREFIX)}
    return {n: shape for n, shape in known.items() if not n.startswith(CLIP_PREFIX)}, clip


def recorded_shapes(manifest: str) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} as recorded of the original."""
    path = GOLDENS / "manifest" / f"{manifest}.json"
    tensors = json.loads(path.read_text(encoding="utf-8"))["tensors"]
    return {name: tuple(shape) for name, (shape, _) in tensors.items()}


def digests(folders: Sequence[Path]) -> dict[str, str]:
    """dtype, shape and hash of every tensor of some folders."""
    out = {}
    for folder in folders:
        source = SafetensorsSource(folder)
        for name, info in tqdm(source.infos.items(), desc=folder.name, disable=None):
            digest = hashlib.blake2b(source.read(name).tobytes(), digest_size=16).hexdigest()
            out[name] = f"{info.dtype} {list(info.shape)} {digest}"
    return out


def write_digests(work: Path) -> None:
    """Hash the originals."""
    found = digests([work / "original", work / "clip"])
    (work / "digests.json").write_text(json.dumps(found), encoding="utf-8")
    print(f"{len(found)} tensors")


def copy_originals(work: Path) -> None:
    """Copy the files, to the disk."""
    for name in ("original", "clip"):
        shutil.copytree(work / name, work / "copy" / name)
    os.sync()


def compare_digests(work: Path) -> None:
    """The exported tensors against the originals' hashes.

    Raises: SystemExit naming what differs.
    """
    wanted = json.loads((work / "digests.json").read_text(encoding="utf-8"))
    found = digests([work / "back", work / "clip-back"])
    wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if wrong:
        raise SystemExit(f"{len(wrong)} tensors differ: {', '.join(wrong[:5])} ...")
    print(f"{len(found)} tensors are byte-identical")


STEPS = {"digest": write_digests, "copy": copy_originals, "compare": compare_digests}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.full_size",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("out/full-size"), help="where to work")
    parser.add_argument("--keep", action="store_true", help="keep the model folder and the answer")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: does it run at all?")
    parser.add_argument("--step", choices=("write", *STEPS), help="one alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "full_size.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step, or all of them; print and write the figures."""
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
        print(f"{work}: {DISK_BYTES / 1e9:.0f} GB of disk are needed, {free / 1e9:.1f} GB are free")
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
    print(f"\nconversion at {ratio:.2f} of the speed of copying the files")
    write(
        options.out,
        {"machine": machine(), "steps": [asdict(s) for s in steps], "copy_over_convert": ratio},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
