"""The code blocks of the documentation: each is valid in its language, and marked ones are run.

Commands of `glamm-jax` are parsed by tests/programs/test_help_examples.py, shell lines of
docs/cloud checked by tests/test_cloud_docs.py.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.test_docs import DOCUMENTS, ROOT
from tools.readme_lines import readme_lines
from tools.site.code_blocks import CodeBlock, code_blocks

MADE = "make ([a-z][a-z-]*)"
EXTRAS = re.compile(r"pip3? install [^\n`]*?\[([a-z0-9,]+)\]")
DOCKERFILE = re.compile(r"docker build --file (\S+)")


def blocks(document: str) -> list[CodeBlock]:
    """Return the fenced blocks of a document of the repository."""
    return [*code_blocks((ROOT / document).read_text(encoding="utf-8"))]


def check_shell(text: str) -> None:
    """Raise if the shell does not accept the syntax of a script."""
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def check_output(text: str) -> None:
    """Raise if a block without a language has a command; `!` is a line of a notebook's cell."""
    assert not re.search(r"^(glamm-jax|make|pip|python3?) ", text, re.MULTILINE), text


def check_nginx(text: str) -> None:
    """Raise unless each line is a directive, a comment, or the beginning or end of a block."""
    depth = 0
    for line in text.splitlines():
        directive = line.partition(" #")[0].strip()
        assert not directive or directive.startswith("#") or directive[-1] in ";{}", line
        depth += directive.endswith("{") - directive.endswith("}")
        assert depth >= 0, line
    assert depth == 0, text


def check_dockerfile(text: str) -> None:
    """Raise unless each instruction is known; tests/test_cloud_docs.py lints the blocks."""
    for line in text.replace("\\\n", " ").splitlines():
        instruction = line.partition(" ")[0]
        assert instruction in ("FROM", "COPY", "RUN", "ENV", "WORKDIR", "ENTRYPOINT"), line


# Language of a block -> how it is checked. Without one: output, a diagram, a notebook's cell.
CHECKS: dict[str, Callable[[str], object]] = {
    "": check_output,
    "dockerfile": check_dockerfile,
    "json": json.loads,
    "nginx": check_nginx,
    "python": ast.parse,
    "sh": check_shell,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_blocks_are_valid(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = blocks(document)
    assert len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)) / 2, "a block is not closed"
    for block in found:
        assert block.language in CHECKS, f"```{block.language}: one of {[*CHECKS]}"
        CHECKS[block.language](block.text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_targets_extras_and_dockerfiles_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    shell = "".join(block.text for block in blocks(document) if block.language == "sh")
    targets = re.findall(rf"^{MADE}", shell, re.MULTILINE) + re.findall(rf"`{MADE}", text)
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not {*targets} - {*rules}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {extra for group in EXTRAS.findall(text) for extra in group.split(",")}
    # jax[k8s] and mkdocstrings[python] are not ours.
    assert not named - {*project["optional-dependencies"]} - {"k8s", "python"}
    assert all((ROOT / file).is_file() for file in DOCKERFILE.findall(text))


def run_blocks() -> list[tuple[str, str]]:
    """Return (document, code) of the blocks that are marked to be run."""
    return [(name, block.text) for name in DOCUMENTS for block in blocks(name) if block.is_run]


def test_some_blocks_are_run() -> None:
    assert {name for name, _ in run_blocks()} >= {"README.md", "docs/get-started.md"}


@pytest.mark.parametrize(("document", "code"), run_blocks(), ids=lambda value: value[:20])
def test_a_marked_block_runs(
    document: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("checkpoints", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {})
    if document == "README.md":
        answer = json.loads(Path("answer.json").read_text())
        assert [x["phrase"] for x in answer["groundings"]] == [
            "an orange square",
            "a purple square",
        ]
        assert Path("answer.png").stat().st_size > 1000


def test_the_readme_has_few_lines_from_image_to_masks() -> None:
    assert len([line for line in readme_lines().splitlines() if line.strip()]) <= 12


def test_faults_are_found() -> None:
    with pytest.raises(AssertionError):
        check_shell("if true; then\n")
    with pytest.raises(AssertionError):
        check_output("image\nmake test\n")
    with pytest.raises(json.JSONDecodeError):
        CHECKS["json"]("{")
