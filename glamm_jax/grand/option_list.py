"""All options of an annotation by name, with their values in the presets and what they mean.

    rows = option_rows()
    rows[0].name, rows[0].values        # "image.min_side", {"paper": "16", "released": "16"}

The descriptions are those of the dataclasses, so that no list can become out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from glamm_jax.grand.options import GrandOptions
from glamm_jax.grand.pipeline import PIPELINES, PipelineOptions

STEPS = "steps"  # field of PipelineOptions; its name may be left out


@dataclass(frozen=True)
class OptionRow:
    """An option.

    Attributes:
        name: as for `--set`.
        values: by preset.
        description: in one line.
    """

    name: str
    values: Mapping[str, str]
    description: str

    @property
    def differs(self) -> bool:
        """Whether the presets have different values."""
        return len(set(self.values.values())) > 1


def option_rows() -> list[OptionRow]:
    """Return all options, in the order of the stages."""
    collected = {preset: dict(_values(options)) for preset, options in PIPELINES.items()}
    first = next(iter(PIPELINES))
    return [
        OptionRow(
            name.removeprefix(f"{STEPS}."),
            {preset: values[name][0] for preset, values in collected.items()},
            description,
        )
        for name, (_, description) in collected[first].items()
    ]


def full_name(override: str) -> str:
    """Return `name=value` with the name that `with_overrides` knows: "steps." may be left out."""
    first = override.partition("=")[0].partition(".")[0].strip()
    own = {field.name for field in fields(PipelineOptions)}
    steps = {field.name for field in fields(GrandOptions)}
    return f"{STEPS}.{override.strip()}" if first in steps - own else override


def markdown_table(rows: list[OptionRow]) -> str:
    """Return a table of options for a document."""
    lines = [
        "| option | " + " | ".join(f"`{preset}`" for preset in PIPELINES) + " | meaning |",
        "|---|" + "---|" * len(PIPELINES) + "---|",
    ]
    for row in rows:
        values = " | ".join(row.values[preset] for preset in PIPELINES)
        description = row.description.replace("|", "\\|")
        lines.append(f"| `{row.name}` | {values} | {description} |")
    return "\n".join(lines)


def _values(options: Any, prefix: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    descriptions = _descriptions(type(options))
    for field in fields(options):
        value, name = getattr(options, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _values(value, f"{name}.")
        elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
            for index, item in enumerate(value):
                yield from _values(item, f"{name}.{index}.")
        else:
            yield name, (_shown(value), descriptions.get(field.name, ""))


def _shown(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "()"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _descriptions(kind: type) -> dict[str, str]:
    """Return the descriptions of the fields, from the section `Attributes` of the docstring."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    collected: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r"    (\w+): (.*)", line)
        if match:
            name = match[1]
            collected[name] = match[2]
        elif line.startswith("        ") and name:
            collected[name] += " " + line.strip()
        elif line.strip():
            break
    return collected
