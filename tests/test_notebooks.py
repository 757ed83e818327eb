"""The notebooks of examples/notebooks: stored without outputs, installed on Colab; they run."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# The project has no address yet; `Colab` and `git clone` need one.
PLACEHOLDER = "github.com/OWNER/REPOSITORY"
COLAB = "https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/"
NEEDED = ("checkpoints", "configs", "docs", "examples", "tests")  # of a checkout
CORE_SECONDS = 240  # two minutes on two cores, as processor time: other programs run beside
CELL_SECONDS = 580


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook, which must be valid."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["annotate", "ask", "fine_tune"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert cells
    for cell in cells:
        assert (cell.outputs, cell.execution_count, cell.metadata) == ([], None, {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_is_valid(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            compile(TransformerManager().transform_cell(cell.source), path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_and_installs_there(path: Path) -> None:
    title, install, *_ = read(path).cells
    assert title.source.startswith("# ")
    assert f"({COLAB}{path.name})" in title.source
    assert install.source == read(NOTEBOOKS[0]).cells[1].source, "the same cell in all"
    assert f"!git clone --depth 1 https://{PLACEHOLDER} " in install.source
    assert "%pip install" in install.source
    addresses = re.findall(r"github(?:\.com)?/[\w-]+/[\w-]+", path.read_text("utf-8"))
    assert {address.split("/", 1)[1] for address in addresses} == {"OWNER/REPOSITORY"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs_within_two_minutes_on_two_cores(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    for name in NEEDED:
        (tmp_path / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")  # of the tests: eight devices, no optimizations
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # nothing compiled
    notebook = read(path)
    before = _core_seconds()
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    seconds = _core_seconds() - before
    print(f"{path.name}: {seconds:.0f} s of processor time")
    commands = [cell for cell in notebook.cells if cell.source.lstrip().startswith("!")]
    for cell in commands:  # a shell line that fails does not stop a notebook
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert not re.search(r"^(glamm-jax.*: error|Traceback)", text, re.MULTILINE), text
    assert seconds < CORE_SECONDS


def _core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
