"""The limits of design.md, section 6, held by counting."""

from __future__ import annotations

import ast
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from glamm_jax.nn.norm import rms_norm

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("train", "eval", "convert", "annotate", "demo", "bench", "configs")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_POSITIONAL = 400, 50, 6
SHORT_METHOD_LINES = 8  # a shorter method's name and types may say it all

# "path" or "path:function" -> why it may be longer.
EXCEPTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


LIBRARY = _sources("glamm_jax")
EVERYTHING = _sources("glamm_jax", "tests", *PROGRAMS)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def _allowed(key: str) -> bool:
    return key in EXCEPTIONS


def test_files_are_at_most_400_lines() -> None:
    lengths = {_name(path): len(path.read_text("utf-8").splitlines()) for path in EVERYTHING}
    assert not {
        name: length
        for name, length in lengths.items()
        if length > MAX_FILE_LINES and not _allowed(name)
    }


def test_functions_are_at_most_50_lines() -> None:
    lengths = {
        f"{_name(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in EVERYTHING
        for function in _functions(path)
    }
    assert not {
        name: length
        for name, length in lengths.items()
        if length > MAX_FUNCTION_LINES and not _allowed(name)
    }


def test_functions_take_at_most_6_positional_arguments() -> None:
    counts = {}
    for path in EVERYTHING:
        for function in _functions(path):
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
            own = [name for name in names if name not in ("self", "cls")]
            counts[f"{_name(path)}:{function.name}"] = len(own)
    assert not {
        name: count
        for name, count in counts.items()
        if count > MAX_POSITIONAL and not _allowed(name)
    }


def test_exceptions_exist_and_have_a_reason() -> None:
    for key, reason in EXCEPTIONS.items():
        path, _, function = key.partition(":")
        assert (ROOT / path).is_file(), key
        assert not function or function in {f.name for f in _functions(ROOT / path)}, key
        assert reason


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert not [_name(path) for path in EVERYTHING if path.stem in drawers]
    assert not [_name(path) for path in EVERYTHING if path.stem.rpartition("_v")[2].isdigit()]


def _undocumented(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and longer methods without a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body and not ast.get_docstring(tree):
        yield _name(path)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner in (tree, *classes):
        for node in owner.body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            length = (node.end_lineno or 0) - node.lineno
            if owner is not tree and length < SHORT_METHOD_LINES:
                continue
            if not ast.get_docstring(node):
                yield f"{_name(path)}:{node.name}"


def test_everything_public_says_what_it_is() -> None:
    assert not [name for path in LIBRARY for name in _undocumented(path)]


def test_no_code_is_copied_by_import_from_torch_in_the_library() -> None:
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"torch", "torchvision"}, path


def test_every_program_is_under_the_import_contracts() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    programs = {name for name in PROGRAMS if (ROOT / name / "__init__.py").is_file()}
    assert programs <= set(config["root_packages"])
    independent = next(c for c in config["contracts"] if c["type"] == "independence")
    assert programs - {"configs"} == set(independent["modules"])


def test_the_wheel_holds_the_library_alone() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert config["tool"]["setuptools"]["packages"]["find"]["include"] == ["glamm_jax*"]


# ---------------------------------------------------------------- the hostile test process


def test_rank_promotion_raises() -> None:
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_shapes_in_signatures_are_checked() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        rms_norm(jnp.ones((2, 3)), jnp.ones(4), 1e-6)


def test_warnings_are_errors() -> None:
    with pytest.raises(UserWarning, match="careful"):
        warnings.warn("careful", stacklevel=1)


def test_there_are_eight_devices_and_exact_matrix_products() -> None:
    assert jax.device_count() == 8
    assert jax.config.jax_default_matmul_precision == "highest"
