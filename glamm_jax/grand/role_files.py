"""Files that say which models play the roles of an annotation.

    [oracle]                    # arguments of all oracles
    noise = "easy"              # or a table: { misses = 0.1, box_jitter = 0.02 }

    [detectors.eva-02-01]       # roles of which there may be several have a name
    class = "oracle"
    masks = true

    [detectors.nanodet]         # an adapter of this library, see `glamm_jax.grand.adapters`
    class = "onnx"
    model = "nanodet.onnx"      # other keys are arguments of the class

    [detectors.mine]            # a class of your own: only with `trust`
    class = "my_package.models:Detector"
    weights = "weights.pt"

    [llm]
    class = "oracle"

The tables are the fields of `glamm_jax.grand.pipeline.RoleSet`. A field that has no table has no
model, and its stages are left out.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.files import read_regular_file
from glamm_jax.grand.adapters import NOISE, ORACLES, NoiseOptions
from glamm_jax.grand.adapters.registry import ADAPTERS, adapter_class, adapter_kinds
from glamm_jax.grand.pipeline import RoleSet
from glamm_jax.grand.roles import RolePlayer
from glamm_jax.grand.stages import one_line
from glamm_jax.grand.text_parser import RuleParser, SpacyParser
from glamm_jax.json_files import show

MAX_BYTES = 1 << 20  # of a file
COMMON = "oracle"  # table of the arguments of all oracles, and short name of their classes
# Field of RoleSet -> name of the role, as in ORACLES and ADAPTERS; several models, by name.
NAMED_ROLES = {
    "taggers": "tagger",
    "detectors": "detector",
    "open_detectors": "open_detector",
    "dense_captioners": "dense_captioner",
    "region_classifiers": "region_classifier",
    "captioners": "captioner",
}
# Field of RoleSet -> name of the role; one model.
SINGLE_ROLES = {
    "region_proposer": "region_proposer",
    "depth_estimator": "depth_estimator",
    "landmark_classifier": "landmark_classifier",
    "phrase_grounder": "phrase_grounder",
    "region_captioner": "region_captioner",
    "label_chooser": "label_chooser",
    "segmenter": "segmenter",
    "llm": "llm",
    "checker": "llm",
    "text_parser": "",
}
# Short names of the classes of `text_parser`.
PARSERS: dict[str, type[Any]] = {"rules": RuleParser, "spacy": SpacyParser}


class RoleFileError(GLaMMError):
    """A file of roles cannot be used. Names the file and the table, and says why."""


def read_roles(path: Path, *, photographs: Path | None = None, trust: bool = False) -> RoleSet:
    """Create the models that a file names; their weights are not loaded yet.

    Args:
        path: of the file.
        photographs: folder of the images; oracles without `folder` take their truth from the
            folder that it is in, as `write_scenes` writes it.
        trust: import the classes that the file names.

    Raises:
        RoleFileError: the file cannot be read, or a table of it cannot be used.
    """
    tables = _read_tables(path)
    reader = _RoleReader(path, _common(path, tables.pop(COMMON, {}), photographs), trust)
    roles: dict[str, Any] = {}
    for field, content in tables.items():
        where = f"{path}: [{field}]"
        if field in NAMED_ROLES:
            if not isinstance(content, dict) or not content or "class" in content:
                raise RoleFileError(
                    f"{where}: give each model a table with its name, such as [{field}.NAME]"
                )
            roles[field] = {
                name: reader.create(f"{field}.{name}", NAMED_ROLES[field], name, table)
                for name, table in content.items()
            }
        elif field in SINGLE_ROLES:
            roles[field] = reader.create(field, SINGLE_ROLES[field], field, content)
        else:
            names = [COMMON, *NAMED_ROLES, *SINGLE_ROLES]
            raise RoleFileError(f"{where}: no such role{_hint(field, names)}")
    return RoleSet(**roles)


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular_file(path, MAX_BYTES).decode())
    except FileNotFoundError as error:
        raise RoleFileError(f"{path}: no such file") from error
    except OSError as error:
        raise RoleFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise RoleFileError(f"{path}: not a TOML file: {one_line(error)}") from error


def _common(path: Path, table: Any, photographs: Path | None) -> dict[str, Any]:
    """Return the arguments of all oracles."""
    where = f"{path}: [{COMMON}]"
    if not isinstance(table, dict):
        raise RoleFileError(f"{where}: {show(table)} is not a table")
    for key in table:
        if key not in ("folder", "noise"):
            raise RoleFileError(f"{where}: no key {key!r}{_hint(key, ('folder', 'noise'))}")
    common: dict[str, Any] = {}
    if "folder" in table:
        if not isinstance(table["folder"], str):
            raise RoleFileError(f"{where}: folder = {show(table['folder'])} is not a text")
        common["folder"] = path.parent / table["folder"]
    elif photographs is not None:
        common["folder"] = photographs.parent
    if "noise" in table:
        common["noise"] = _noise(table["noise"], where)
    return common


def _noise(value: Any, where: str) -> NoiseOptions:
    if isinstance(value, str):
        if value not in NOISE:
            raise RoleFileError(
                f"{where}: noise = {value!r}: choose from {', '.join(NOISE)}, or give a table"
            )
        return NOISE[value]
    if not isinstance(value, dict):
        raise RoleFileError(f"{where}: noise = {show(value)} is neither a name nor a table")
    names = [field.name for field in fields(NoiseOptions)]
    for key, number in value.items():
        if key not in names:
            raise RoleFileError(f"{where}: noise has no key {key!r}{_hint(key, names)}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise RoleFileError(f"{where}: noise: {key} = {show(number)} is not a number")
    try:
        return NoiseOptions(**value)
    except GLaMMError as error:
        raise RoleFileError(f"{where}: {one_line(error)}") from error


class _RoleReader:
    """Creates the models of a file."""

    def __init__(self, path: Path, common: Mapping[str, Any], trust: bool):
        self._path, self._common, self._trust = path, common, trust

    def create(self, table_name: str, role: str, name: str, table: Any) -> RolePlayer:
        """Return the model of a table.

        Args:
            table_name: for messages.
            role: its name; "" for the parser of texts.
            name: of the model, unless the table has another.
            table: its content.
        """
        where = f"{self._path}: [{table_name}]"
        if not isinstance(table, dict):
            raise RoleFileError(f"{where}: {show(table)} is not a table")
        arguments = dict(table)
        kind = arguments.pop("class", None)
        names = [COMMON, *adapter_kinds(role)] if role else [*PARSERS]
        if not isinstance(kind, str):
            advice = " or ".join(f'"{item}"' for item in names)
            raise RoleFileError(
                f"{where}: the class is missing: class = {advice}, or a class of your own, "
                '"PACKAGE.MODULE:CLASS"'
            )
        if ":" in kind:
            return self._build(where, self._import(where, kind), arguments)
        if kind not in names:
            elsewhere = f", and {kind} has no {role}" if kind in ADAPTERS else ""
            raise RoleFileError(
                f"{where}: class = {kind!r} is neither {' nor '.join(names)} nor "
                f"PACKAGE.MODULE:CLASS{elsewhere}"
            )
        if not role:
            return self._build(where, PARSERS[kind], arguments)
        if kind == COMMON:
            return self._build(where, ORACLES[role], self._oracle_arguments(where, name, arguments))
        try:
            target = adapter_class(kind, role)
        except GLaMMError as error:
            raise RoleFileError(f"{where}: {one_line(error)}") from error
        return self._build(where, target, self._adapter_arguments(target, name, arguments))

    def _oracle_arguments(
        self, where: str, name: str, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        result = {**self._common, "name": name, **arguments}
        if "noise" in arguments:
            result["noise"] = _noise(arguments["noise"], where)
        if isinstance(arguments.get("folder"), str):
            result["folder"] = self._path.parent / arguments["folder"]
        if "folder" not in result:
            raise RoleFileError(f"{where}: the folder of the scenes is missing")
        return result

    def _adapter_arguments(
        self, target: type[Any], name: str, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Add the name; what exists beside the file of roles, or below, is a path."""
        result = {"name": name, **arguments}
        for key in target.path_arguments:
            value = result.get(key)
            if isinstance(value, str) and value and "://" not in value:
                path = self._path.parent / value
                if path.exists():
                    result[key] = str(path)
        return result

    def _import(self, where: str, kind: str) -> Callable[..., Any]:
        if not self._trust:
            raise RoleFileError(
                f"{where}: class = {kind!r} imports code that the file names; if you trust it, add "
                "--trust-roles"
            )
        module, _, name = kind.partition(":")
        try:
            target: Any = import_module(module)
            for part in name.split("."):
                target = getattr(target, part)
        except Exception as error:  # the code of a module may raise anything
            raise RoleFileError(
                f"{where}: class = {kind!r} cannot be imported: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
        if not callable(target):
            raise RoleFileError(f"{where}: class = {kind!r} is not a class")
        return target

    def _build(self, where: str, kind: Callable[..., Any], arguments: dict[str, Any]) -> RolePlayer:
        names, is_open = _parameters(kind)
        for key in arguments:
            if key not in names and not is_open:
                raise RoleFileError(f"{where}: no key {key!r}{_hint(key, names)}")
        try:
            role = kind(**arguments)
        except GLaMMError as error:
            raise RoleFileError(f"{where}: {one_line(error)}") from error
        except Exception as error:  # the code of a class may raise anything
            raise RoleFileError(f"{where}: {type(error).__name__}: {one_line(error)}") from error
        for attribute in ("name", "fingerprint", "needs_device", "setup"):
            if not hasattr(role, attribute):
                raise RoleFileError(
                    f"{where}: the model has no {attribute!r}, see docs/annotate.md"
                )
        if not callable(role):
            raise RoleFileError(f"{where}: the model cannot be called, see docs/annotate.md")
        return role


def _parameters(kind: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the names of the arguments of a class, and whether it takes any others.

    What an adapter passes on to the class that it is derived from are arguments of that class.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names: dict[str, None] = {}
    for owner in _owners(kind):
        try:
            parameters = list(inspect.signature(owner).parameters.values())
        except (TypeError, ValueError):  # a class in C
            return [*names], True
        names |= dict.fromkeys(item.name for item in parameters if item.kind in named)
        if all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in parameters):
            return [*names], False
    # The oracles' own `**options` are for their subclasses.
    return [*names], kind not in ORACLES.values()


def _owners(kind: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return a class and those it is derived from, if they have an own `__init__`."""
    if not inspect.isclass(kind):
        return [kind]
    owners = [x for x in kind.__mro__ if "__init__" in vars(x) and x is not object]
    return owners or [kind]


def _hint(name: str, names: Collection[str]) -> str:
    near = get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are: {', '.join(names)}" if names else ""
