"""Run README's lines, from an image to masks, with the interpreter of another environment.

  python -m tools.readme_lines .venv-wheel/bin/python

The lines run in a folder of their own that has the model and the image of the repository and
nothing else of it, so that the installed package is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.site.code_blocks import code_blocks

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("checkpoints/miniworld-tiny", "docs/scene.png")
WHERE = "import glamm_jax; print(glamm_jax.__file__)"


def readme_lines() -> str:
    """Return the block of README.md that is marked to be run."""
    document = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines] = [block.text for block in code_blocks(document) if block.is_run]
    return lines


def run_lines(python: Path, folder: Path) -> list[str]:
    """Run the lines in an empty folder; returns the phrases of the answer.

    Args:
        python: interpreter of the environment.
        folder: where the lines run, and leave their files.

    Raises:
        subprocess.CalledProcessError: the lines failed.
        RuntimeError: the package of this checkout was imported, not an installed one.
    """
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    command = [str(python.absolute()), "-I", "-c"]
    done = subprocess.run([*command, WHERE], cwd=folder, check=True, capture_output=True, text=True)
    if Path(done.stdout.strip()).is_relative_to(ROOT / "glamm_jax"):
        raise RuntimeError(f"{python} imports {done.stdout.strip()}, which is not installed")
    subprocess.run([*command, readme_lines()], cwd=folder, check=True)
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return [grounding["phrase"] for grounding in answer["groundings"]]


def main() -> int:
    """Run the lines with the interpreter of the command line; returns the exit status."""
    if len(sys.argv) != 2:
        print("usage: python -m tools.readme_lines PYTHON", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        phrases = run_lines(Path(sys.argv[1]), Path(folder))
    print(f"README's lines run with {sys.argv[1]}: a mask for each of {phrases}")
    return 0 if phrases else 1


if __name__ == "__main__":
    sys.exit(main())
