"""Inputs that an `info.json` describes in words, drawn again and compared with what is recorded.

"blocky('clip_l_336',(1,3,336,336),14,salt)"
"normal('input:text_embeds{n}',(n,1,256)), l=0..3"        n, l: values the case supplies
"input:lora_x"                                            `normal`, as large as recorded
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from glamm_jax.testing import golden_weights
from tools.parity.report import GoldenError, RecordedFile

# A call, and parentheses one level deep inside it; the prose around is passed over.
_CALL = re.compile(r"\b(?:normal|blocky)\((?:[^()]|\([^()]*\))*\)")
_NAME = re.compile(r"input:[\w{}]+")


def generate_inputs(
    recipe: str, salt: str = "", default_salt: str = "", **values: Any
) -> list[np.ndarray]:
    """Every input that a recipe's calls describe, in order.

    Args:
        salt: what the name `salt` stands for; `values` are further names, also in {braces}.
        unsaid: the salt of a call that mentions none.
        values: `shape`, when given, takes the place of a shape with letters nobody knows.

    Raises: ValueError when there is no call, or one that cannot be read. Nothing is evaluated.
    """
    named = _NAME.fullmatch(recipe)
    calls = [f"normal({recipe!r}, shape)"] if named else _CALL.findall(recipe)
    if not calls:
        raise ValueError(f"the recipe {recipe!r} draws nothing")
    try:
        return [_drawn(call, {"salt": salt, **values}, default_salt) for call in calls]
    except (SyntaxError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"cannot read the recipe {recipe!r}: {error}") from error


def _drawn(call: str, names: dict[str, Any], unsaid: str) -> np.ndarray:
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    name, shape, *rest = tree.args
    arguments = [_value(name, names), _shape(shape, names), *(_value(x, names) for x in rest)]
    kind, length = (
        (golden_weights.blocky, 4) if tree.func.id == "blocky" else (golden_weights.normal, 3)
    )
    return kind(*[*arguments, unsaid][:length])


def _shape(node: ast.expr, names: dict[str, Any]) -> tuple[int, ...]:
    letters = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(names)
    return tuple(names["shape"]) if letters else tuple(_value(node, names))


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=str(text)):
            return text.format_map(names)
        case ast.Constant(value=number):
            return number
        case ast.Name(id=name):
            return names[name]
        case ast.Tuple(elts=items):
            return tuple(_value(item, names) for item in items)
    raise ValueError(f"cannot read {ast.unparse(node)!r} in a recipe")


def compared_inputs(
    recorded: RecordedFile, names: Sequence[str], recipe: str, salt: str, **values: Any
) -> list[np.ndarray]:
    """The recipe's inputs, one a recorded name, each compared with what is recorded.

    Recipes do not always mention the salt; then the one that gives what was recorded is taken, and
    the plain one when neither does, which the comparison tells.

    Raises: GoldenError when the recipe cannot be read or makes another number of arrays.
    """
    made: list[np.ndarray] = []
    for unsaid in (salt, ""):
        try:
            made = generate_inputs(recipe, salt, unsaid, shape=recorded.shape(names[0]), **values)
        except ValueError as error:
            raise GoldenError(f"{recorded.file}: {error}") from error
        if len(made) != len(names):
            raise GoldenError(f"{recorded.file}: {recipe!r} makes {len(made)}, not {len(names)}")
        if all(
            matches_recorded(recorded, name, array) for name, array in zip(names, made, strict=True)
        ):
            break
    for name, array in zip(names, made, strict=True):
        if name not in recorded.handled:
            recorded.compare(name, array, "input")
    return made


def matches_recorded(
    recorded: RecordedFile, name: str, array: np.ndarray, limit: float = 1e-5
) -> bool:
    """Whether nine tenths of an array are what is recorded, as far as it is stored.

    limit: over the standard deviation of what is recorded.
    """
    if array.shape != recorded.shape(name):
        return False
    theirs, ours = recorded.values.get(name), array
    if theirs is None:
        index = recorded.get(f"{name}__idx")
        theirs, ours = recorded.get(f"{name}__val"), array.reshape(-1).take(index, mode="clip")
    return float(np.mean(np.abs(ours - theirs) <= limit * np.std(theirs))) > 0.9
