"""What a training run would need: parameters, memory, FLOPs and time, without allocating arrays.

    print(plan(config, MeshSizes(fsdp=8)).text())

Everything is counted, in seconds and without an accelerator. Activations and gathered layers are
not: `glamm_jax.aot.compile_step` compiles the step and reads them from the program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jax.sharding import AbstractMesh

from glamm_jax.aot import flops
from glamm_jax.aot.chips import CHIPS, Chip
from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.parallel import GIB, MESH_AXES, ONE_DEVICE, MeshSizes, use_mesh
from glamm_jax.training.parameter_groups import ADAPTERS, part_titles, title_of
from glamm_jax.training.placement import abstract_split, check_batch_slices
from glamm_jax.training.placement_table import (
    DeviceMemory,
    PartPlacements,
    parts_table,
    place_parts,
    size_line,
    step_size,
    total_memory,
    unit_of,
)
from glamm_jax.training.state import ModelSplit
from glamm_jax.types import BatchShape
from glamm_jax.weights.flat_state import flatten_state

SHARE_OF_PEAK = 0.5  # that an efficient program reaches


class PartCost(NamedTuple):
    """Parameters of a part of the model, and FLOPs of a step.

    Attributes:
        parameters: number of all.
        trained: number of those that are trained.
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass, without activation checkpointing.
        recomputed: FLOPs of the forward pass that activation checkpointing repeats.
    """

    parameters: int = 0
    trained: int = 0
    forward: int = 0
    backward: int = 0
    recomputed: int = 0


# Names of quotas of a batch, by which the FLOPs of an operation grow. Attention to the tokens of a
# row is quadratic: they are named twice.
Quotas = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a training run would need.

    Attributes:
        config: of the run.
        parts: {title: cost} of the parts of the model.
        placements: {title: where it is} of the parts of the model.
        mesh: sizes of its axes.
        quota_flops: {quotas: FLOPs of a step} of the operations that grow with them.
    """

    config: ExperimentConfig
    parts: dict[str, PartCost]
    placements: PartPlacements
    mesh: MeshSizes
    quota_flops: dict[Quotas, int]

    @property
    def memory(self) -> DeviceMemory:
        """What each device needs for parameters, optimizer and gradients."""
        return total_memory(self.placements)

    @property
    def images(self) -> int:
        """Images of a step."""
        return step_size(self.config, self.mesh).images

    @property
    def step_flops(self) -> int:
        """FLOPs of a step, without those of activation checkpointing."""
        return sum(part.forward + part.backward for part in self.parts.values())

    def filled_flops(self, fill: Mapping[str, float]) -> float:
        """Return the FLOPs of a step without padding.

        Args:
            fill: the share of each quota of the batch that is filled, as in `metrics.jsonl`.
        """
        return sum(
            count * math.prod(fill.get(name, 1.0) for name in quotas)
            for quotas, count in self.quota_flops.items()
        )

    def step_seconds(self, chip: Chip) -> float:
        """Return the time of a step on as many chips as the mesh has, at half of their peak."""
        return self.step_flops / (SHARE_OF_PEAK * chip.peak_flops * math.prod(self.mesh))

    def text(self) -> str:
        """Return the plan as tables."""
        return "\n\n".join((self._parts_table(), self._memory_table(), self._time_table()))

    def _parts_table(self) -> str:
        lines = [
            f"{'part':18} {'parameters':>12} {'trained':>8} {'forward':>9} {'backward':>9}  TFLOP"
        ]
        total = PartCost(*(sum(column) for column in zip(*self.parts.values(), strict=True)))
        for title, part in {**self.parts, "all": total}.items():
            trained = 100 * part.trained / part.parameters if part.parameters else 0.0
            lines.append(
                f"{title:18} {part.parameters / 1e6:10.1f} M {trained:6.1f} % "
                f"{part.forward / 1e12:9.2f} {part.backward / 1e12:9.2f}"
            )
        lines.append(
            f"a step: {self.step_flops / 1e12:.1f} TFLOP, and {total.recomputed / 1e12:.1f} TFLOP "
            "for activation checkpointing"
        )
        return "\n".join(lines)

    def _memory_table(self) -> str:
        total = sum(self.memory)
        unit, unit_name = unit_of(total)
        return "\n".join(
            [
                f"mesh: {self.mesh} = {math.prod(self.mesh)} devices",
                step_size(self.config, self.mesh).text(),
                f"memory of each device in {unit_name}",
                *parts_table(self.placements, unit),
                size_line("total", total, unit, "without batches, activations, gathered layers"),
            ]
        )

    def _time_table(self) -> str:
        count = math.prod(self.mesh)
        lines = [
            f"{count} chips at 50 % of their bfloat16 peak: seconds per step, images per second"
        ]
        for name, chip in CHIPS.items():
            seconds = self.step_seconds(chip)
            line = f"{name:18} {seconds:9.3f} {self.images / seconds:9.1f}"
            if sum(self.memory) > chip.memory_gib * GIB:
                line += f"   does not fit its {chip.memory_gib:.0f} GiB: a larger fsdp or tensor"
            lines.append(line)
        return "\n".join(lines)


def configured_mesh(config: ExperimentConfig) -> MeshSizes:
    """Return the mesh of a configuration; where it takes all that is left, one device."""
    return MeshSizes(max(config.mesh.data, 1), config.mesh.fsdp, config.mesh.tensor)


def plan(config: ExperimentConfig, mesh: MeshSizes = ONE_DEVICE) -> Plan:
    """Count what a run of this configuration would need.

    Args:
        config: of the run. A step has `optim.accumulation_steps` times `data.batch_slices` batches
            of `data.batch_shape`, and their padding counts.
        mesh: sizes of its axes.

    Raises:
        PlacementError: the devices cannot divide the batch slices.
    """
    with use_mesh(AbstractMesh(tuple(mesh), MESH_AXES)):
        check_batch_slices(config.data.batch_slices)
        split = abstract_split(config)
        placements = place_parts(split)
    shape = config.data.batch_shape
    num_slices = config.data.batch_slices * config.optim.accumulation_steps
    parts = _count_parameters(split)
    operations = _operations(config.model, shape, parts)
    quota_flops: Counter[Quotas] = Counter()
    for matmuls in operations:
        quota_flops[matmuls.quotas] += num_slices * (matmuls.forward + matmuls.backward)
    parts = _add_flops(parts, operations, num_slices)
    return Plan(config, parts, placements, mesh, dict(quota_flops))


def _count_parameters(split: ModelSplit) -> dict[str, PartCost]:
    """Return {title: cost} with the numbers of parameters, in the order of the table."""
    parts = {title: PartCost() for title in part_titles()}
    for state, is_trained in ((split.frozen, False), (split.state.trainable, True)):
        for leaf, value in flatten_state(state).items():
            title, size = title_of(leaf), math.prod(value.shape)
            old = parts[title]
            parts[title] = old._replace(
                parameters=old.parameters + size, trained=old.trained + size * is_trained
            )
    return parts


class _Matmuls(NamedTuple):
    """Matrix products of a part.

    Attributes:
        title: of the part.
        forward: FLOPs of the forward pass.
        trains_kernel: the backward pass forms the gradient of the kernel.
        trains_input: the backward pass forms the gradient of the input.
        quotas: of the batch, by which they grow.
        is_recomputed: activation checkpointing repeats the forward pass.
    """

    title: str
    forward: int
    trains_kernel: bool
    trains_input: bool
    quotas: Quotas
    is_recomputed: bool = False

    @property
    def backward(self) -> int:
        """FLOPs of the backward pass: each gradient takes as many as the product itself."""
        return self.forward * (self.trains_kernel + self.trains_input)


def _operations(
    config: GLaMMConfig, shape: BatchShape, parts: Mapping[str, PartCost]
) -> tuple[_Matmuls, ...]:
    """List the matrix products of a batch of a shape."""
    trained = {title: part.trained > 0 for title, part in parts.items()}
    return (
        *_vision_matmuls(config, shape, trained),
        *_language_matmuls(config, shape, trained),
    )


def _add_flops(
    parts: dict[str, PartCost], operations: Sequence[_Matmuls], num_slices: int
) -> dict[str, PartCost]:
    """Add the FLOPs of a step, which is so many batches, to the costs of the parts."""
    parts = dict(parts)
    for matmuls in operations:
        old, forward = parts[matmuls.title], num_slices * matmuls.forward
        parts[matmuls.title] = old._replace(
            forward=old.forward + forward,
            backward=old.backward + num_slices * matmuls.backward,
            recomputed=old.recomputed + forward * matmuls.is_recomputed,
        )
    return parts


def _vision_matmuls(
    config: GLaMMConfig, shape: BatchShape, trained: dict[str, bool]
) -> tuple[_Matmuls, ...]:
    """List those of both image encoders, the region encoder and the V-L projector."""
    clip, sam, projector, region = "CLIP", "SAM encoder", "V-L projector", "region encoder"
    shared = shape.regions if config.region.output == "shared" else 0
    first, second = flops.projector(config, shape.images * config.clip.num_patches + shared)
    levels = flops.region_input(config, shape.region_images)
    fusion = flops.region_fusion(config, shape.region_images)
    boxes = flops.region_boxes(config, shape.regions)
    sam_flops = shape.grounding_images * flops.sam_encoder(config.sam)
    # A gradient reaches an input only if something before it is trained.
    to_projector = trained[projector] or trained[clip]
    to_region = trained[region] or trained[clip]
    images, with_regions = ("images",), ("region_images",)
    return (
        _Matmuls(
            *(clip, shape.images * flops.clip(config.clip), trained[clip], trained[clip]),
            images,
        ),
        _Matmuls(sam, sam_flops, trained[sam], trained[sam], ("grounding_images",)),
        _Matmuls(projector, first, trained[projector], trained[clip], images),
        _Matmuls(projector, second, trained[projector], to_projector, images),
        _Matmuls(region, levels, trained[region], trained[clip], with_regions),
        _Matmuls(
            *(region, fusion, trained[region], to_region, with_regions),
            config.region.remat == "full",
        ),
        _Matmuls(region, boxes, trained[region], to_region, ("regions",)),
    )


def _language_matmuls(
    config: GLaMMConfig, shape: BatchShape, trained: dict[str, bool]
) -> tuple[_Matmuls, ...]:
    """List those of the language model, the L-P projector and the pixel decoder.

    Something before them is trained in every set, so gradients of their inputs are always formed.
    """
    llama, rows, masks = config.llama, shape.rows, shape.masks
    llama_title, l_p, decoder = "LLaMA", "L-P projector", "prompts and masks"
    full = llama.remat == "full"
    matrices, resizing = flops.mask_resizing(config.sam, masks, shape.mask_height, shape.mask_width)
    linears = rows * flops.llama_linears(llama, shape.tokens)
    attention = rows * flops.llama_attention(llama, shape.tokens)
    adapters = flops.lora(config, rows * shape.tokens)
    logits = flops.llama_head(llama, rows * shape.targets)
    tokens, of_masks = ("tokens",), ("masks",)
    head = "embeddings" if llama.tie_embeddings else "lm_head"
    return (
        _Matmuls(llama_title, linears, trained[llama_title], True, tokens, full),
        # Of attention, the gradients of both operands.
        _Matmuls(llama_title, attention, True, True, 2 * tokens, llama.remat != "none"),
        _Matmuls(ADAPTERS, adapters, True, True, tokens, full),
        _Matmuls(head, logits, trained[head], True, ("targets",)),
        _Matmuls(l_p, flops.text_projection(config, masks), trained[l_p], True, of_masks),
        _Matmuls(decoder, flops.mask_decoder(config.sam, masks), trained[decoder], True, of_masks),
        _Matmuls(decoder, matrices, False, False, of_masks),
        _Matmuls(decoder, resizing, False, True, of_masks),
    )
