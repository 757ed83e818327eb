"""Random inputs that an `info.json` describes by a recipe, generated again and compared.

"blocky('clip_l_336',(1,3,336,336),14,salt)"
"normal('input:text_embeds{n}',(n,1,256)), l=0..3"        n, l: values that the check supplies
"input:lora_x"                                            `normal`, with the recorded shape
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from glamm_jax.testing import golden_weights
from tools.parity.report import GoldenError, RecordedFile

# A call with parentheses one level deep inside it; the prose around it is ignored.
_CALL = re.compile(r"\b(?:normal|blocky)\((?:[^()]|\([^()]*\))*\)")
_NAME = re.compile(r"input:[\w{}]+")


def generate_inputs(
    recipe: str, salt: str = "", default_salt: str = "", **values: Any
) -> list[np.ndarray]:
    """Generate every input that a recipe's calls describe, in order. Nothing is evaluated as code.

    Args:
        recipe: text that contains the calls.
        salt: value of the name `salt` in a call.
        default_salt: salt of a call that has no salt argument.
        values: values of further names, also in {braces}. `shape`, if present, replaces a shape
            with names that have no value.

    Raises:
        ValueError: there is no call, or one that cannot be parsed.
    """
    named = _NAME.fullmatch(recipe)
    calls = [f"normal({recipe!r}, shape)"] if named else _CALL.findall(recipe)
    if not calls:
        raise ValueError(f"the recipe {recipe!r} has no call of normal or blocky")
    try:
        return [_generate(call, {"salt": salt, **values}, default_salt) for call in calls]
    except (SyntaxError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"cannot read the recipe {recipe!r}: {error}") from error


def _generate(call: str, names: dict[str, Any], default_salt: str) -> np.ndarray:
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    name, shape, *rest = tree.args
    arguments = [_value(name, names), _shape(shape, names), *(_value(x, names) for x in rest)]
    function, num_arguments = (
        (golden_weights.blocky, 4) if tree.func.id == "blocky" else (golden_weights.normal, 3)
    )
    return function(*[*arguments, default_salt][:num_arguments])


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
    """Generate the inputs of a recipe and compare each with the recorded array of its name.

    A recipe does not always name the salt. Then the given salt is tried, and no salt if the result
    does not match the recording; if neither matches, the comparison reports it.

    Args:
        recorded: the file with the recorded inputs.
        names: names of the recorded inputs, in the order of the recipe's calls.
        recipe: text of `info.json` that describes them.
        salt: the salt of the file.
        values: values of names in the recipe.

    Returns:
        The generated arrays.

    Raises:
        GoldenError: the recipe cannot be parsed, or describes another number of arrays.
    """
    arrays: list[np.ndarray] = []
    shape = recorded.shape(names[0])
    for default_salt in (salt, ""):
        try:
            arrays = generate_inputs(recipe, salt, default_salt, shape=shape, **values)
        except ValueError as error:
            raise GoldenError(f"{recorded.file}: {error}") from error
        if len(arrays) != len(names):
            raise GoldenError(
                f"{recorded.file}: {recipe!r} describes {len(arrays)} arrays, not {len(names)}"
            )
        pairs = zip(names, arrays, strict=True)
        if all(matches_recorded(recorded, name, array) for name, array in pairs):
            break
    for name, array in zip(names, arrays, strict=True):
        if name not in recorded.handled:
            recorded.compare(name, array, "input")
    return arrays


def matches_recorded(
    recorded: RecordedFile, name: str, array: np.ndarray, limit: float = 1e-5
) -> bool:
    """Return whether more than nine tenths of an array equal the stored part of the recorded one.

    Args:
        recorded: the recorded file.
        name: of the recorded array; it may be sampled.
        array: the computed array.
        limit: largest difference, over the standard deviation of the recorded values.
    """
    if array.shape != recorded.shape(name):
        return False
    expected, actual = recorded.values.get(name), array
    if expected is None:
        index = recorded.get(f"{name}__idx")
        expected, actual = recorded.get(f"{name}__val"), array.reshape(-1).take(index, mode="clip")
    return float(np.mean(np.abs(actual - expected) <= limit * np.std(expected))) > 0.9
