"""The usage example in the docstring of a module."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from types import ModuleType

COMMAND = re.compile(r"(glamm-jax|python|pip|make) ")


def example_of(docstring: str) -> str:
    """Return the first indented block that is Python code with a call; "" if there is none."""
    lines = inspect.cleandoc(docstring).splitlines()
    blocks = re.findall(r"(?:^|\n)((?:    .*\n?)+)", "\n".join(lines))
    for block in blocks:
        code = textwrap.dedent(block)
        if COMMAND.match(code):
            continue
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            return code
    return ""


def example_of_module(module: ModuleType) -> str:
    """Return the example of a module."""
    return example_of(module.__doc__ or "")


def unknown_names(code: str, known: set[str]) -> set[str]:
    """Return the names that the code uses, neither assigns nor has in `known`."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} - assigned - known
