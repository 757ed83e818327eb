"""The steps of the Dockerfiles, run without containers: each in a new environment and folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
BASE = re.compile(r"python:(\d+\.\d+)\.\d+-slim-bookworm@sha256:[0-9a-f]{64}")
# What a command in the finished image prints; the accelerators are not here.
WORKS = "import glamm_jax, jax; assert jax.devices('cpu'); print(glamm_jax.__version__)"


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Yield (name, arguments) of the instructions, with joined lines and without comments."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_bases_are_pinned_and_requirements_have_hashes(file: Path) -> None:
    steps = [*instructions(file.read_text())]
    assert {name for name, _ in steps} == {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "CMD"}
    [base] = [arguments for name, arguments in steps if name == "FROM"]
    assert BASE.fullmatch(base), f"{base}: name the version and the digest"
    installs = [arguments for name, arguments in steps if name == "RUN"]
    assert installs[0].startswith(f"pip install --require-hashes -r locks/{file.suffix[1:]}.txt")
    assert installs[-1] == "pip install --no-deps ."


@pytest.mark.slow
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_the_steps_run_in_a_new_environment(file: Path, tmp_path: Path) -> None:
    """COPY into a folder, RUN with the programs of a new environment, CMD at the end.

    An index of its own (of torch's CPU builds) is replaced by the index of this machine.
    """
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    variables = {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "XLA_FLAGS")
        },
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    for name, arguments in instructions(file.read_text()):
        if name == "FROM":
            base = BASE.fullmatch(arguments)
            assert base
            if base[1] != f"{sys.version_info[0]}.{sys.version_info[1]}":
                pytest.skip(f"the image has Python {base[1]}")
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        elif name == "ENV":
            variables |= dict(pair.split("=", 1) for pair in arguments.split())
        elif name == "COPY":
            _copy(arguments.split(), work)
        elif name == "RUN":
            command = re.sub(r" --index-url \S+", "", arguments)
            print(f"{file.name}: {command}", flush=True)
            subprocess.run(["bash", "-ec", command], cwd=work, env=variables, check=True)
        elif name == "CMD":
            subprocess.run(["glamm-jax", "--help"], cwd=work, env=variables, check=True)
    python = [str(environment / "bin" / "python"), "-I"]
    subprocess.run([*python, "-m", "pip", "check"], check=True)
    # Elsewhere than in the folder with the sources.
    subprocess.run([*python, "-c", WORKS], cwd=tmp_path, env=variables, check=True)
    shutil.rmtree(tmp_path)


def _copy(names: list[str], work: Path) -> None:
    """COPY: several files into a folder, or one file or folder to a path."""
    *sources, target = names
    for source in sources:
        into = work / target / Path(source).name if target.endswith("/") else work / target
        into.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, into, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, into)
