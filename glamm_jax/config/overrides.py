"""Override configuration fields by name: `with_overrides(config, ["optim.peak_lr=1e-4"])`.

The text after the equals sign is parsed as the type of the field: numbers, true and false, one of
the field's choices, `none` where it is allowed, tuples separated by commas (`0.9,0.95`). Elements
of a tuple of configurations are addressed by index:
`data.mixture.0.dataset=shards/glamm_grand/1.0.0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from glamm_jax.errors import ConfigError

Config = TypeVar("Config")

OWN_DATA = "data.mixture.0.dataset"
# Names that other trainers have for a field: last part of the name, without underscores -> field.
SYNONYMS = {
    other: field
    for field, others in {
        "optim.peak_lr": "lr learningrate maxlr baselr",
        "optim.total_steps": "steps maxsteps numsteps trainsteps iterations epochs numtrainepochs",
        "optim.warmup_steps": "warmup numwarmupsteps warmupratio",
        "optim.weight_decay": "wd",
        "optim.clip_norm": "maxgradnorm gradclip gradientclip gradientclipping gradclipnorm",
        "optim.accumulation_steps": "gradaccum gradientaccumulationsteps gradaccumulationsteps",
        "optim.betas": "beta beta1 beta2 adambeta1 adambeta2",
        "optim.eps": "epsilon adamepsilon",
        "optim.schedule": "scheduler lrscheduler lrschedulertype lrschedule",
        "data.batch_shape.rows": "batchsize batch perdevicetrainbatchsize",
        "data.batch_shape.tokens": "maxlength maxseqlen maxseqlength modelmaxlength seqlen",
        "data.workers": "numworkers dataloadernumworkers",
        OWN_DATA: "dataset datadir datapath traindata mixture",
        "model.lora.rank": "r lorar lorarank",
        "model.lora.alpha": "loraalpha",
        "model.lora.dropout": "loradropout",
        "model.compute_dtype": "dtype precision bf16 fp16",
        "checkpoint.every": "savesteps saveevery",
        "validation.every": "evalsteps evalevery",
        "init.model": "modelpath modelnameorpath pretrained weights",
        "losses.ce": "celossweight cew",
        "losses.dice": "dicelossweight",
        "losses.bce": "bcelossweight",
    }.items()
    for other in others.split()
}


def with_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """Return the configuration with every `name=value` applied, then validated once.

    Raises:
        ConfigError: a name is unknown (the error suggests the nearest one), a value is not of the
            field's type, or the changed configuration is invalid.
    """
    changes: dict[str, Any] = {}
    types = dict(_value_fields(config))
    for text in overrides:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"override {text!r}: write name=value")
        if name not in types:
            raise ConfigError(_unknown_field(name, list(types)))
        changes[name] = _parse(value, types[name], name)
    return _replace_fields(config, changes)


def _value_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, type) of every field whose value is not a configuration itself."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _value_fields(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
            for index, item in enumerate(value):
                yield from _value_fields(item, f"{prefix}{field.name}.{index}.")
        else:
            yield prefix + field.name, hints[field.name]


def _unknown_field(name: str, names: list[str]) -> str:
    """Return an error message that suggests the nearest name, or the nearest last part of one."""
    members = [other for other in names if other.startswith(f"{name}.")]
    if members and not members[0].startswith("data.mixture"):
        return f"no configuration field {name!r}; set one of its fields: {', '.join(members)}"
    last = _last_part(name)
    by_last_part = {_last_part(other): other for other in reversed(names)}
    nearest = [SYNONYMS[last]] if SYNONYMS.get(last) in names else []
    nearest += [by_last_part[last]] if last in by_last_part else []
    nearest += get_close_matches(name, names, n=1)
    # Those of a training run; another configuration has none of their fields.
    synonyms = SYNONYMS if any(field in names for field in SYNONYMS.values()) else {}
    for part in get_close_matches(last, [*by_last_part, *synonyms], n=1):
        nearest.append(by_last_part.get(part) or synonyms[part])
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    if nearest[:1] == [OWN_DATA]:
        hint += " --data FOLDER replaces all datasets at once"
    return f"no configuration field {name!r}{hint}"


def _last_part(name: str) -> str:
    """Return the part of a dotted name behind its last dot, without underscores."""
    return name.rpartition(".")[2].lower().replace("-", "").replace("_", "")


def _parse(text: str, kind: Any, name: str) -> Any:
    """Parse a text as a value of this type."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if text.lower() == "none" and NoneType in options:
            return None
        (kind,) = (option for option in options if option is not NoneType)
        return _parse(text, kind, name)
    if origin is Literal:
        if text not in options:
            raise ConfigError(f"{name}={text}: choose from {options}")
        return text
    if origin is tuple:
        return _parse_tuple(text, options, name)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    hint = "; it cannot be set" if is_dataclass(kind) else ""
    raise ConfigError(f"{name}={text}: not {getattr(kind, '__name__', kind)}{hint}")


def _parse_tuple(text: str, options: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """Parse comma-separated values; `options` are their types, or a type and `...`."""
    parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
    if options[-1] is Ellipsis:
        options = (options[0],) * len(parts)
    if len(parts) != len(options):
        raise ConfigError(f"{name}={text}: {len(options)} values separated by commas are needed")
    return tuple(_parse(part, kind, name) for part, kind in zip(parts, options, strict=True))


def _replace_fields(config: Any, changes: dict[str, Any]) -> Any:
    """Rebuild a configuration, or a tuple of them, from its innermost changed fields outwards."""
    nested: dict[str, dict[str, Any]] = {}
    direct: dict[str, Any] = {}
    for name, value in changes.items():
        owner, dot, rest = name.partition(".")
        if dot:
            nested.setdefault(owner, {})[rest] = value
        else:
            direct[name] = value
    if isinstance(config, tuple):
        return tuple(
            _replace_fields(item, nested.get(str(index), {})) for index, item in enumerate(config)
        )
    for owner, inner in nested.items():
        direct[owner] = _replace_fields(getattr(config, owner), inner)
    return replace(config, **direct)
