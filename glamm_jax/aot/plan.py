"""What a run would take, before anything is made: parameters, memory, operations, time.

    print(plan(config, mesh=(1, 8, 1)).text())

All of it is counted, in seconds and without an accelerator. What a step keeps and forms besides
(activations, gathered layers) is not: `make tpu` compiles the step and reads it off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from glamm_jax.aot import flops
from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.parallel import MESH_AXES, use_mesh
from glamm_jax.training.placement import abstract_split
from glamm_jax.training.state import ModelSplit
from glamm_jax.types import BatchShape
from glamm_jax.weights.flat_state import flatten_state

GIB = 2**30
SHARE_OF_PEAK = 0.5  # what a good program reaches

# Start of a leaf's path -> the part that it is counted to; the first that fits counts.
PARTS = {
    "clip.": "CLIP",
    "projector.": "V-L projector",
    "region_encoder.": "region encoder",
    "llama.embed_tokens.": "embeddings",
    "llama.lm_head.": "lm_head",
    "llama.": "LLaMA",
    "text_projection.": "L-P projector",
    "sam.encoder.": "SAM encoder",
    "sam.": "prompts and masks",
}
ADAPTERS = "adapters"


class Chip(NamedTuple):
    """An accelerator: bfloat16 operations a second by its data sheet, and its memory."""

    peak_flops: float
    memory_gib: float


CHIPS = {
    "v5e": Chip(197e12, 16),
    "v5p": Chip(459e12, 95),
    "v6e": Chip(918e12, 32),
    "H100": Chip(989e12, 80e9 / GIB),
    "H200": Chip(989e12, 141e9 / GIB),
}


# What jax calls them; the first that a device's kind contains counts.
_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "H100": "H100",
    "H200": "H200",
}


class PartCost(NamedTuple):
    """A part of the model: its parameters, and the operations of one step."""

    parameters: int = 0
    trained: int = 0
    forward: int = 0
    backward: int = 0
    recomputed: int = 0  # of the forward pass, computed once more instead of kept


class DeviceMemory(NamedTuple):
    """Bytes that each device holds all the time; and gradients, formed in every step."""

    frozen: int
    trainable: int
    optimizer: int
    gradients: int


@dataclass(frozen=True)
class Plan:
    """What `plan` found. `mesh` is (data, fsdp, tensor)."""

    parts: dict[str, PartCost]
    memory: DeviceMemory
    mesh: tuple[int, int, int]
    rows: int  # of a step's batch
    images: int

    @property
    def step_flops(self) -> int:
        """Operations of a step that nothing is computed twice in: what a limit is counted by."""
        return sum(part.forward + part.backward for part in self.parts.values())

    def step_seconds(self, chip: Chip) -> float:
        """Of a step on so many chips as the mesh has, at half of their peak."""
        return self.step_flops / (SHARE_OF_PEAK * chip.peak_flops * math.prod(self.mesh))

    def text(self) -> str:
        """All of it as tables."""
        return "\n\n".join((self._parts_table(), self._memory_table(), self._time_table()))

    def _parts_table(self) -> str:
        again = sum(part.recomputed for part in self.parts.values())
        lines = [
            f"{'part':18} {'parameters':>12} {'trained':>8} {'forward':>9} {'backward':>9}  TFLOP"
        ]
        total = PartCost(*(sum(column) for column in zip(*self.parts.values(), strict=True)))
        for name, part in {**self.parts, "all": total}.items():
            share = 100 * part.trained / part.parameters if part.parameters else 0.0
            lines.append(
                f"{name:18} {part.parameters / 1e6:10.1f} M {share:6.1f} % "
                f"{part.forward / 1e12:9.2f} {part.backward / 1e12:9.2f}"
            )
        lines.append(
            f"a step: {self.rows} rows, {self.images} pictures, {self.step_flops / 1e12:.1f} TFLOP"
            f" and {again / 1e12:.1f} for what is computed twice to save memory"
        )
        return "\n".join(lines)

    def _memory_table(self) -> str:
        data, fsdp, tensor = self.mesh
        lines = [f"GiB on each device of data {data} x fsdp {fsdp} x tensor {tensor}"]
        rows = {**self.memory._asdict(), "all of these": sum(self.memory)}
        lines += [f"{name:18} {size / GIB:9.2f}" for name, size in rows.items()]
        return "\n".join([*lines, "activations and gathered layers come on top"])

    def _time_table(self) -> str:
        count = math.prod(self.mesh)
        lines = [f"{count} chips at 50 % of their bfloat16 peak: seconds a step, pictures a second"]
        for name, chip in CHIPS.items():
            seconds = self.step_seconds(chip)
            line = f"{name:18} {seconds:9.3f} {self.images / seconds:9.1f}"
            if sum(self.memory) > chip.memory_gib * GIB:
                line += f"   does not fit its {chip.memory_gib:.0f} GiB: a larger fsdp or tensor"
            lines.append(line)
        return "\n".join(lines)


def plan(config: ExperimentConfig, mesh: tuple[int, int, int] = (1, 1, 1)) -> Plan:
    """What a run of this configuration takes on a mesh of (data, fsdp, tensor) devices.

    A step counts whole: `optim.accumulation_steps` times `data.batch_slices` times `data.batch_shape`, whatever of it
    is filled.
    """
    with use_mesh(AbstractMesh(mesh, MESH_AXES)):
        split = abstract_split(config)
        state = split.state
        trainable = _bytes(state.trainable)
        memory = DeviceMemory(_bytes(split.frozen), trainable, _bytes(state.opt_state), trainable)
    quotas, times = (
        config.data.batch_shape,
        config.data.batch_slices * config.optim.accumulation_steps,
    )
    parts = _with_operations(_parameters(split), config.model, quotas, times)
    return Plan(parts, memory, mesh, times * quotas.rows, times * quotas.images)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so, if it is one of `CHIPS`."""
    return next((CHIPS[name] for kind, name in _KINDS.items() if kind in device_kind), None)


def _bytes(tree: Any) -> int:
    """What the leaves take on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _parameters(split: ModelSplit) -> dict[str, PartCost]:
    """The parts in their order, with parameters alone."""
    parts = {name: PartCost() for name in (*dict.fromkeys(PARTS.values()), ADAPTERS)}
    for state, learns in ((split.frozen, False), (split.state.trainable, True)):
        for leaf, value in flatten_state(state).items():
            name = next(part for start, part in PARTS.items() if leaf.startswith(start))
            name = ADAPTERS if ".lora." in leaf else name
            old, size = parts[name], math.prod(value.shape)
            parts[name] = old._replace(
                parameters=old.parameters + size, trained=old.trained + size * learns
            )
    return parts


class _Work(NamedTuple):
    """Products of one part, forward; whether their kernels learn, and what they read does."""

    part: str
    forward: int
    kernel: bool
    source: bool
    again: bool = False

    @property
    def backward(self) -> int:
        """The gradient of the kernel, and that of the input, each as much as the product itself."""
        return self.forward * (self.kernel + self.source)


def _with_operations(
    parts: dict[str, PartCost], config: GLaMMConfig, quotas: BatchShape, times: int
) -> dict[str, PartCost]:
    """The parts with the operations of a step, which is so many batches of these quotas."""
    learns = {name: part.trained > 0 for name, part in parts.items()}
    parts = dict(parts)
    for work in (*_seeing(config, quotas, learns), *_writing(config, quotas, learns)):
        old, forward = parts[work.part], times * work.forward
        parts[work.part] = old._replace(
            forward=old.forward + forward,
            backward=old.backward + times * work.backward,
            again=old.recomputed + forward * work.again,
        )
    return parts


def _seeing(config: GLaMMConfig, quotas: BatchShape, learns: dict[str, bool]) -> tuple[_Work, ...]:
    """Both image encoders, the region encoder, the projector V-L."""
    clip, sam, projector = "CLIP", "SAM encoder", "V-L projector"
    seen, kernel, region = learns[clip], learns[projector], "region encoder"
    shared = quotas.regions if config.region.output == "shared" else 0
    first, second = flops.projector(config, quotas.images * config.clip.num_patches + shared)
    levels = flops.region_input(config, quotas.region_images)
    fusion = flops.region_fusion(config, quotas.region_images)
    boxes = flops.region_boxes(config, quotas.regions)
    own = learns[region]
    return (
        _Work(clip, quotas.images * flops.clip(config.clip), seen, seen),
        _Work(sam, quotas.grounding_images * flops.sam_encoder(config.sam), *(learns[sam],) * 2),
        _Work(projector, first, kernel, seen),
        _Work(projector, second, kernel, kernel or seen),
        _Work(region, levels, own, seen),
        _Work(region, fusion, own, own or seen, config.region.remat == "full"),
        _Work(region, boxes, own, own or seen),
    )


def _writing(config: GLaMMConfig, quotas: BatchShape, learns: dict[str, bool]) -> tuple[_Work, ...]:
    """The language model, L-P and the pixel decoder: something always learns in front of them."""
    llama, rows, masks = config.llama, quotas.rows, quotas.masks
    full, decoder = llama.remat == "full", "prompts and masks"
    height, width = quotas.mask_height, quotas.mask_width
    matrices, applied = flops.mask_resizing(config.sam, masks, height, width)
    linears = rows * flops.llama_linears(llama, quotas.tokens)
    heads = rows * flops.llama_attention(llama, quotas.tokens)
    adapters = flops.lora(config, rows * quotas.tokens)
    logits = flops.llama_head(llama, rows * quotas.targets)
    return (
        _Work("LLaMA", linears, learns["LLaMA"], True, full),
        _Work("LLaMA", heads, True, True, llama.remat != "none"),  # queries, and keys
        _Work(ADAPTERS, adapters, True, True, full),
        _Work("lm_head", logits, learns["lm_head"], True),
        _Work("L-P projector", flops.text_projection(config, masks), learns["L-P projector"], True),
        _Work(decoder, flops.mask_decoder(config.sam, masks), learns[decoder], True),
        _Work(decoder, matrices, False, False),
        _Work(decoder, applied, False, True),
    )
