"""The structure of the tree: layers, unique names, import cycles, documentation, vocabulary."""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from glamm_jax.nn.norm import rms_norm

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = (
    *("train", "eval", "annotate", "convert"),
    *("demo", "bench", "configs", "examples", "tools"),
)
SHORT_METHOD_LINES = 8  # the name and the types of a shorter method may say it all
# Everyday words that mean nothing in particular as a part of a name.
NARRATIVE = frozenset(
    [
        "told",
        "tell",
        "tells",
        "said",
        "say",
        "says",
        "asked",
        "asks",
        "asking",
        "asker",
        "found",
        "finds",
        "each",
        "held",
        "holds",
        "keeps",
        "kept",
        "look",
        "looks",
        "looked",
        "lots",
        "lot",
        "talk",
        "talks",
        "drawn",
        "made",
        "making",
        "heard",
        "hear",
        "seen",
        "sees",
        "thing",
        "things",
        "ones",
        "whole",
        "whom",
        "whose",
        "who",
        "way",
        "ways",
        "about",
        "mine",
        "ours",
        "theirs",
        "takes",
        "taken",
        "given",
        "gives",
        "comes",
        "goes",
        "gone",
        "stands",
        "stood",
        "lies",
        "wanted",
        "wants",
        "knows",
        "known",
    ]
)
MAX_NARRATIVE_SHARE = 0.005  # of all names that are bound

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


LIBRARY = _sources("glamm_jax")
EVERYTHING = _sources("glamm_jax", "tests", *PROGRAMS)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in EVERYTHING}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_class_names_are_unique_in_the_library() -> None:
    counts = Counter(
        node.name
        for path in LIBRARY
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ClassDef)
    )
    assert not {name: count for name, count in counts.items() if count > 1}


def _imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Modules of the library that a module imports when it is imported."""
    todo: list[ast.AST] = [*TREES[path].body]
    while todo:
        node = todo.pop()
        if isinstance(node, Function) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module
        todo.extend(ast.iter_child_nodes(node))


def test_imports_have_no_cycles() -> None:
    paths = {_module(path): path for path in LIBRARY}
    graph = {
        name: {other for other in _imported(path, set(paths)) if other in paths and other != name}
        for name, path in paths.items()
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in finished:
            for other in graph[name]:
                visit(other, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert not [_name(path) for path in EVERYTHING if path.stem in drawers]
    assert not [_name(path) for path in EVERYTHING if path.stem.rpartition("_v")[2].isdigit()]


def _undocumented(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and longer methods without a docstring."""
    tree = TREES[path]
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


def test_everything_public_has_a_docstring() -> None:
    assert not [name for path in LIBRARY for name in _undocumented(path)]


def test_functions_with_more_than_two_parameters_document_them() -> None:
    missing = []
    for path in LIBRARY:
        for node in TREES[path].body:
            if not isinstance(node, Function) or node.name.startswith("_"):
                continue
            arguments = node.args
            names = [
                a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            ]
            docstring = ast.get_docstring(node) or ""
            if len(names) > 2 and "Args:" not in docstring:
                missing.append(f"{_name(path)}:{node.name}")
    assert not missing


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_names_are_technical_terms() -> None:
    total, narrative = 0, []
    for path in _sources("glamm_jax", *PROGRAMS):
        for name in _bound_names(TREES[path]):
            total += 1
            words = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
            if words & NARRATIVE:
                narrative.append(f"{_name(path)}: {name}")
    assert len(narrative) < MAX_NARRATIVE_SHARE * total, narrative


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
