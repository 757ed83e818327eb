"""What a training run places on each device, as a table: by `--plan`, and when a run starts.

    mesh: data 1 x fsdp 8 x tensor 1 = 8 devices
    a step: 160 rows, 160 images; on each device 5 batches of 4 rows, 4 images
    memory of each device in GiB
    part                  frozen   trained optimizer gradients  sharded over
    CLIP                    0.07      0.00      0.00      0.00  fsdp
    ...
    all parts               1.73      0.28      0.56      0.28

The plan counts shapes. A run counts the arrays that it has placed, and reads from the compiled step
what the step needs besides them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.input_fill import InputFill
from glamm_jax.parallel import (
    GIB,
    MESH_AXES,
    MIB,
    MeshAxes,
    MeshSizes,
    bytes_on_device,
    memory_limit,
)
from glamm_jax.training.parameter_groups import part_titles, title_of
from glamm_jax.training.state import ModelSplit
from glamm_jax.weights.flat_state import flatten_state

COUNTERS = "counters"  # title of the scalars: the step, and those of the optimizer
_WIDTH = 18  # of the titles


class DeviceMemory(NamedTuple):
    """Bytes on each device.

    Attributes:
        frozen: parameters that are not trained.
        trainable: parameters that are trained.
        optimizer: its state.
        gradients: only during a step.
    """

    frozen: int = 0
    trainable: int = 0
    optimizer: int = 0
    gradients: int = 0

    @property
    def kept(self) -> int:
        """What is there between two steps as well."""
        return self.frozen + self.trainable + self.optimizer


class PartPlacement(NamedTuple):
    """Where a part of the model is.

    Attributes:
        memory: of each device.
        axes: {axes of the mesh: bytes of all parameters that are divided over these axes}.
    """

    memory: DeviceMemory
    axes: dict[MeshAxes, int]

    def axes_text(self) -> str:
        """Say over which axes the parameters are divided; with shares, if not all over the same."""
        total = sum(self.axes.values())
        ordered = sorted(self.axes.items(), key=lambda item: -item[1])
        shares = {" x ".join(axes) or "replicated": 100 * size / total for axes, size in ordered}
        if len(shares) < 2:
            return "".join(shares)
        named = {name: share for name, share in shares.items() if share >= 1}
        text = ", ".join(f"{name} {share:.3g} %" for name, share in named.items())
        others = sum(shares.values()) - sum(named.values())
        return text + (f", others {others:.2g} %" if len(named) < len(shares) else "")


PartPlacements = dict[str, PartPlacement]


def place_parts(split: ModelSplit) -> PartPlacements:
    """Return where every part of a model is, by its title; parts without arrays are left out.

    Args:
        split: placed on a mesh; arrays, or shapes with their shardings.
    """
    frozen, trained = (_by_title(flatten_state(x)) for x in (split.frozen, split.state.trainable))
    optimizer = _optimizer_by_title(split.state.opt_state)
    optimizer[COUNTERS].append(split.state.step)
    parts: PartPlacements = {}
    for title in (*part_titles(), COUNTERS):
        leaves = [*frozen[title], *trained[title]]
        if leaves or optimizer[title]:
            of_trained = bytes_on_device(trained[title])
            memory = DeviceMemory(
                bytes_on_device(frozen[title]),
                of_trained,
                bytes_on_device(optimizer[title]),
                gradients=of_trained,
            )
            parts[title] = PartPlacement(memory, _axes_of(leaves))
    return parts


def total_memory(parts: PartPlacements) -> DeviceMemory:
    """Return the memory of all parts together."""
    columns = zip(*(part.memory for part in parts.values()), strict=True)
    return DeviceMemory(*map(sum, columns))


def _by_title(leaves: Mapping[str, Any]) -> dict[str, list[Any]]:
    by_title: dict[str, list[Any]] = defaultdict(list)
    for leaf, value in leaves.items():
        by_title[title_of(leaf)].append(value)
    return by_title


def _optimizer_by_title(opt_state: Any) -> dict[str, list[Any]]:
    """Group the arrays of the optimizer by their parameters: their last key is its leaf path."""
    by_title: dict[str, list[Any]] = defaultdict(list)
    for path, value in jax.tree_util.tree_leaves_with_path(opt_state):
        is_of_parameter = value.ndim and isinstance(path[-1], jax.tree_util.DictKey)
        by_title[title_of(path[-1].key) if is_of_parameter else COUNTERS].append(value)
    return by_title


def _axes_of(leaves: Sequence[Any]) -> dict[MeshAxes, int]:
    """Return the bytes of arrays by the axes, of more than one device, that divide them."""
    sizes: Counter[MeshAxes] = Counter()
    for leaf in leaves:
        used: set[str] = set()
        for entry in leaf.sharding.spec:
            used |= {entry} if isinstance(entry, str) else set(entry or ())
        shape = leaf.sharding.mesh.shape
        axes = tuple(name for name in MESH_AXES if name in used and shape[name] > 1)
        sizes[axes] += leaf.size * leaf.dtype.itemsize
    return dict(sizes)


# ------------------------------------------------------------------------ the text


class StepSize(NamedTuple):
    """Rows and images of a step.

    Attributes:
        rows: of all devices.
        images: of all devices.
        batches: that a step consists of.
        rows_of_device: in each batch.
        images_of_device: in each batch.
        devices: that work on the same rows.
    """

    rows: int
    images: int
    batches: int
    rows_of_device: int
    images_of_device: int
    devices: int

    def text(self) -> str:
        """Say all of it in one line."""
        several = f"each group of {self.devices} devices (tensor)"
        return (
            f"a step: {self.rows} rows, {self.images} images; on "
            f"{'each device' if self.devices == 1 else several} "
            f"{self.batches} batch{'es' * (self.batches > 1)} of "
            f"{self.rows_of_device} rows, {self.images_of_device} images"
        )


def step_size(config: ExperimentConfig, mesh: MeshSizes) -> StepSize:
    """Return the size of a step on a mesh, among whose devices its batch slices are divided."""
    shape, batches = config.data.batch_shape, config.optim.accumulation_steps
    total = batches * config.data.batch_slices
    own = config.data.batch_slices // (mesh.data * mesh.fsdp)
    return StepSize(
        *(total * shape.rows, total * shape.images, batches),
        *(own * shape.rows, own * shape.images, mesh.tensor),
    )


def unit_of(nbytes: int) -> tuple[int, str]:
    """Return the unit in which a table shows sizes up to this one."""
    return (GIB, "GiB") if nbytes >= GIB else (MIB, "MiB")


def parts_table(parts: PartPlacements, unit: int) -> list[str]:
    """Return the lines of the parts of a model, and the line of all of them."""
    header = ("frozen", "trained", "optimizer", "gradients")
    lines = [f"{'part':{_WIDTH}}" + "".join(f"{name:>10}" for name in header) + "  sharded over"]
    for title, (memory, part) in {
        **{title: (part.memory, part) for title, part in parts.items()},
        "all parts": (total_memory(parts), None),
    }.items():
        sizes = "".join(f"{size / unit:10.2f}" for size in memory)
        lines.append(f"{title:{_WIDTH}}{sizes}  {part.axes_text() if part else ''}".rstrip())
    return lines


def size_line(title: str, nbytes: int, unit: int, note: str = "") -> str:
    """Return the line of a size that belongs to no part of the model.

    Args:
        title: of the line.
        nbytes: the size.
        unit: of the table, as `unit_of` returns.
        note: what the size consists of.
    """
    return f"{title:{_WIDTH}}{nbytes / unit:10.2f}  {note}".rstrip()


# ------------------------------------------------------------------------ of a run


class Batches(NamedTuple):
    """Batches on a device.

    Attributes:
        size: bytes of the batch of a step on a device.
        count: that are there at once, at most.
        fill: of the first one, as far as this process has it.
    """

    size: int
    count: int
    fill: InputFill


@dataclass(frozen=True)
class RunPlacement:
    """What a run has placed when its first step starts.

    Attributes:
        config: of the run.
        mesh: of the run.
        parts: of the model.
        batches: of the steps.
        step: bytes that the compiled step needs besides its arguments; None: unknown.
        limit: bytes that a device has; None: unknown.
    """

    config: ExperimentConfig
    mesh: Mesh
    parts: PartPlacements
    batches: Batches
    step: int | None
    limit: int | None = field(default_factory=memory_limit)

    @property
    def sizes(self) -> MeshSizes:
        """Sizes of the mesh."""
        return MeshSizes(*self.mesh.devices.shape)

    @property
    def total(self) -> int:
        """Bytes on a device while a step runs."""
        placed = total_memory(self.parts).kept + self.batches.count * self.batches.size
        return placed + (self.step or 0)

    def text(self) -> str:
        """Return the table."""
        unit, unit_name = unit_of(self.total)
        kept, batches = total_memory(self.parts).kept, self.batches
        needed = [
            size_line("kept", kept, unit, "parameters and optimizer"),
            size_line(
                "batches",
                batches.count * batches.size,
                unit,
                f"up to {batches.count} of {batches.size / unit:.2f}: of the steps, and prepared",
            ),
        ]
        if self.step is None:
            needed.append("the compiler does not say what the step needs besides")
        else:
            note = "gradients, activations, gathered layers: temporaries of the compiled step"
            needed.append(size_line("step", self.step, unit, note))
        of_limit = f"of {self.limit / unit:.2f}" if self.limit else ""
        return "\n".join(
            [
                f"mesh: {self.sizes} = {self._devices_text()}",
                step_size(self.config, self.sizes).text(),
                f"memory of each device in {unit_name}",
                *parts_table(self.parts, unit),
                *needed,
                size_line("total", self.total, unit, of_limit),
                fill_text(batches.fill),
            ]
        )

    def _devices_text(self) -> str:
        used, available = self.mesh.size, jax.device_count()
        kind, processes = self.mesh.devices.flat[0].device_kind, jax.process_count()
        text = f"{used} device{'s' * (used > 1)} ({kind})"
        text += f", {available - used} idle" if used < available else ""
        return text + (f"; {processes} processes" if processes > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the table; sizes are bytes on each device."""
        step = step_size(self.config, self.sizes)
        return {
            "mesh": dict(self.mesh.shape),
            "devices": self.mesh.size,
            "idle_devices": jax.device_count() - self.mesh.size,
            "processes": jax.process_count(),
            "rows_of_device": step.rows_of_device,
            "images_of_device": step.images_of_device,
            "accumulation_steps": step.batches,
            "parts": {
                title: {**part.memory._asdict(), "sharded_over": part.axes_text()}
                for title, part in self.parts.items()
            },
            "batch_bytes": self.batches.size,
            "max_batches": self.batches.count,
            "step_bytes": self.step,
            "total_bytes": self.total,
            "limit_bytes": self.limit,
            "fill": fill_shares(self.batches.fill),
        }


def fill_text(fill: InputFill) -> str:
    """Say how much of each quota of a batch is filled."""
    own = " (of this process)" if jax.process_count() > 1 else ""
    quotas = [f"{name} {q.share:.0%} of {q.available}" for name, q in fill.items()]
    return f"filled in the first batch{own}: {', '.join(quotas)}"


def fill_shares(fill: InputFill) -> dict[str, float]:
    """Return the share of each quota that is filled."""
    return {name: round(quota.share, 4) for name, quota in fill.items()}


def step_memory(program: Any) -> int | None:
    """Return the bytes that a compiled step needs on a device besides its arguments.

    Args:
        program: as `jax.stages.Compiled`.

    Returns:
        Its temporaries, its code and the results that do not take the place of an argument; None
        if the compiler does not say.
    """
    memory = program.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + max(results, 0) + memory.generated_code_size_in_bytes
