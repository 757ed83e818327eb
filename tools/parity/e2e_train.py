"""Training cases of an e2e folder: losses, intermediates, masks and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.data.collate import BatchShape, Sample, build_batch, collate
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.losses import losses, masks_at_original_size
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.types import Batch, Losses, Output
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.glamm import glamm_table
from glamm_jax.weights.rules import WeightTable
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import default_stored_dtypes, export_tensors
from tools.parity.e2e_inputs import nchw
from tools.parity.report import RecordedFile
from tools.parity.ties import count_differences, first_agreeing_run, with_shifted_bias
from tools.parity.tolerances import TOLERANCES

# Parameters whose gradients pass the ReLUs of the region encoder; see tolerances.py.
PYRAMID = "region_encoder.mlvl_fuse."
TRAINABLE = trainable_filter("all_but_encoders")
LOSS_FIELDS = {
    "loss": "total",
    "ce_loss": "ce",
    "mask_bce_loss": "bce",
    "mask_dice_loss": "dice",
}
# Total -> the losses that it is the sum of.
LOSS_SUMS = {"loss": ("ce_loss", "mask_loss"), "mask_loss": ("mask_bce_loss", "mask_dice_loss")}


class Intermediates(NamedTuple):
    """Intermediate results that were recorded from the original, in this library's layouts.

    Those that a comparison does not need are None: computing them takes half of the compilation.
    """

    states: Any = None  # [k, i, n, c], hidden states of CLIP
    projected: Any = None  # [i, p, d]
    fused: Any = None  # list of [q, h, w, c]
    regions: Any = None  # [r, d]
    embeddings: Any = None  # [b, t, d]
    logits: Any = None  # [b, t, v]
    text_projected: Any = None  # [b, t, c]
    grounding: Any = None  # [g, s, s, c]
    masks: Any = None  # [m, h, w]


class TrainResult(NamedTuple):
    """Result of one training case, on the host.

    Attributes:
        batch: the packed samples.
        losses: the losses.
        output: of the model.
        intermediates: intermediate results.
        gradients: by torch name; empty if none were computed.
    """

    batch: Batch
    losses: Losses
    output: Output
    intermediates: Intermediates
    gradients: dict[str, np.ndarray]


class TrainRunner:
    """One model with one compiled program for all cases: their batches have a common shape.

    Args:
        model: the model.
        weights: of the losses.
        capacity: shape of every batch.
        fields: the intermediate results to compute.

    Attributes:
        model: the model.
        config: its configuration.
        batch_shape: shape of every batch.
        table: its weight table.
        frozen: its parameters that have no gradient.
    """

    def __init__(
        self,
        model: GLaMM,
        weights: LossWeights,
        capacity: BatchShape,
        fields: Sequence[str] = Intermediates._fields,
    ):
        self.model, self.config = model, model.config
        self.batch_shape = capacity
        self.table = glamm_table(model.config)
        graph, _, self.frozen = nnx.split(model, TRAINABLE, ...)
        forward = partial(_forward, graph, weights, fields)
        self._forward = jax.jit(forward)
        self._step = jax.jit(jax.value_and_grad(forward, has_aux=True))

    def run(self, samples: list[Sample], shift: float = 0.0) -> TrainResult:
        """Compute losses, intermediates and gradients of one batch.

        Args:
            samples: of the batch.
            shift: see `with_shifted_bias`.
        """
        batch = collate(samples, self.config, self.batch_shape)
        trainable = nnx.state(with_shifted_bias(self.model, shift), TRAINABLE)
        (_, aux), gradients = self._step(trainable, self.frozen, batch)
        parts, output, intermediates = jax.tree.map(np.asarray, aux)
        tensors = torch_tensors(self.table, gradients)
        return TrainResult(batch, parts, output, intermediates, tensors)

    def run_agreeing(self, recorded: RecordedFile, samples: list[Sample]) -> TrainResult:
        """`run`, with the shift at which the gradients agree with the recorded ones."""
        return first_agreeing_run(
            lambda shift: self.run(samples, shift),
            lambda run: count_differences(recorded, lambda r: compare_gradients(r, run.gradients)),
        )

    def run_forward(self, samples: list[Sample]) -> TrainResult:
        """Compute losses and intermediates without gradients, which compiles much faster."""
        batch = collate(samples, self.config, self.batch_shape)
        _, aux = self._forward(nnx.state(self.model, TRAINABLE), self.frozen, batch)
        parts, output, intermediates = jax.tree.map(np.asarray, aux)
        return TrainResult(batch, parts, output, intermediates, {})


def torch_tensors(table: WeightTable, state: nnx.State) -> dict[str, np.ndarray]:
    """Convert the leaves of a state, or of a part of it, to tensors by torch name."""
    leaves = MemorySource({path: np.asarray(x) for path, x in flatten_state(state).items()})
    rules = tuple(
        rule
        for rule in table.rules
        if all(mapping.leaf in leaves.infos for mapping in rule.mappings())
    )
    table, writer = WeightTable(rules), MemoryWriter()
    export_tensors(table, default_stored_dtypes(table, leaves), leaves, writer)
    return writer.arrays


def _forward(
    graph: nnx.GraphDef,
    weights: LossWeights,
    fields: Sequence[str],
    trainable: nnx.State,
    frozen: nnx.State,
    batch: Batch,
) -> tuple:
    """Return (loss, (losses, output, intermediates))."""
    model = nnx.merge(graph, trainable, frozen, copy=True)
    output = model(batch)
    parts = losses(model, batch, output, weights)
    compute = _intermediates(model, batch, output)
    intermediates = Intermediates(**{field: compute[field]() for field in fields})
    return parts.total, (parts, output, intermediates)


def _intermediates(model: GLaMM, batch: Batch, output: Output) -> dict[str, Callable[[], Any]]:
    """Return a function for each field of `Intermediates`."""
    states = model.encode_images(batch.images)
    encoder, cast = model.region_encoder, model.config.region.compute_dtype or states.dtype

    def fused() -> list[jax.Array]:
        slots = jax.numpy.maximum(batch.region_images, 0)
        levels = [model.clip.patch_features(states, n) for n in model.config.clip.region_layers]
        return encoder.fuse(encoder.build_pyramid([level[slots].astype(cast) for level in levels]))

    return {
        "states": lambda: states,
        "projected": lambda: model.projector(
            model.clip.patch_features(states, model.config.clip.projector_layer)
        ),
        "fused": fused,
        "regions": lambda: model.encode_regions(states, batch),
        "embeddings": lambda: model.embed(batch),
        "logits": lambda: model.llama.logits(output.hidden),
        "text_projected": lambda: model.text_projection(output.hidden),
        "grounding": lambda: model.encode_grounding_images(batch),
        "masks": lambda: masks_at_original_size(output, batch, model.config.sam.image_size)[0],
    }


# ---------------------------------------------------------------------------- comparison


def compare_losses(recorded: RecordedFile, actual: Losses, kind: str, prefix: str) -> None:
    """Compare the recorded losses.

    With the wide tolerance of "bf16_loss" the recorded losses must also add up, so that a changed
    one is detected.

    Args:
        recorded: the file with the losses.
        actual: the computed losses.
        kind: key of `TOLERANCES`.
        prefix: of the recorded names.
    """
    by_name = {name: float(getattr(actual, field)) for name, field in LOSS_FIELDS.items()}
    by_name["mask_loss"] = float(actual.bce + actual.dice)
    suspects = _contradictory_losses(recorded, prefix) if kind == "bf16_loss" else set()
    for name, value in by_name.items():
        if name in suspects:
            note = "the recorded losses do not add up"
            recorded.record_error(prefix + name, float("inf"), kind, note)
        else:
            recorded.compare(prefix + name, value, kind)


def _contradictory_losses(recorded: RecordedFile, prefix: str) -> set[str]:
    """Return the losses that are in a wrong sum and in no correct one; else all in a wrong sum."""
    suspects, correct = set(), set()
    for total, parts in LOSS_SUMS.items():
        values = [float(recorded.get(prefix + name)) for name in (total, *parts)]
        adds_up = abs(values[0] - sum(values[1:])) <= 1e-6 * max(1.0, abs(values[0]))
        (correct if adds_up else suspects).update((total, *parts))
    return suspects - correct if suspects - correct else suspects


def compare_case(
    recorded: RecordedFile, samples: list[Sample], result: TrainResult, config: GLaMMConfig
) -> None:
    """Compare everything but the inputs of one `train_*.npz`.

    Args:
        recorded: the file.
        samples: of the batch.
        result: losses, intermediates and gradients of the batch.
        config: configuration of the model.
    """
    compare_losses(recorded, result.losses, "loss", "out/")
    _compare_text(recorded, samples, result, config)
    _compare_clip(recorded, samples, result.intermediates, config)
    _compare_regions(recorded, samples, result)
    _compare_masks(recorded, samples, result)
    compare_gradients(recorded, result.gradients)


def compare_gradients(recorded: RecordedFile, gradients: dict[str, np.ndarray]) -> None:
    """Compare recorded gradients. One with an unknown name stays unknown, which is a failure."""
    for name in recorded.names_under("grad/"):
        tensor = name.removeprefix("grad/")
        if tensor in gradients:
            kind = "pyramid_gradient" if PYRAMID in tensor else "gradient"
            recorded.compare(name, gradients[tensor], kind)


def _compare_text(
    recorded: RecordedFile, samples: list[Sample], result: TrainResult, config: GLaMMConfig
) -> None:
    rows = sum(len(sample.conversations) for sample in samples)
    tokens = build_batch(samples, config).required_shape.tokens
    padded = {
        "mid/inputs_embeds": result.intermediates.embeddings,
        "mid/llm_attention_mask": result.batch.token_valid,
        "mid/last_hidden_state": result.output.hidden,
        "mid/logits": result.intermediates.logits,
        "mid/text_hidden_fcs_all_positions": result.intermediates.text_projected,
    }
    for name, actual in padded.items():
        if name in recorded:
            kind = "exact" if name.endswith("mask") else "tiny"
            recorded.compare(name, np.asarray(actual)[:rows, :tokens].astype(actual.dtype), kind)


def _compare_clip(
    recorded: RecordedFile,
    samples: list[Sample],
    intermediates: Intermediates,
    config: GLaMMConfig,
) -> None:
    """Compare CLIP's hidden states; `mid/clip_hidden_-k` is hidden_states[-k], with the CLS token.

    In the recordings images are repeated for every conversation.
    """
    image_of_row = np.repeat(np.arange(len(samples)), [len(s.conversations) for s in samples])
    if "mid/mm_projector" in recorded:
        projected = np.asarray(intermediates.projected)[image_of_row]
        recorded.compare("mid/mm_projector", projected, "tiny")
    for name in recorded.names_under("mid/clip_hidden_"):
        state = config.clip.hidden_state_index(int(name.removeprefix("mid/clip_hidden_")))
        if state in config.clip.output_states:
            actual = np.asarray(intermediates.states)[config.clip.output_states.index(state)]
            recorded.compare(name, actual[image_of_row], "tiny_encoder")


def _compare_regions(recorded: RecordedFile, samples: list[Sample], result: TrainResult) -> None:
    boxes = [0 if s.boxes_xyxy_unit is None else len(s.boxes_xyxy_unit) for s in samples]
    ends = np.cumsum(boxes)
    for i, (count, end) in enumerate(zip(boxes, ends, strict=True)):
        if f"mid/region_features{i}" in recorded:
            features = np.asarray(result.intermediates.regions)[end - count : end]
            recorded.compare(f"mid/region_features{i}", features, "tiny_encoder")
    for level, maps in enumerate(result.intermediates.fused):
        if f"mid/region_fused_level{level}" in recorded:
            # The common batch shape may have more images than this case.
            maps = nchw(maps)[: len(samples)]
            recorded.compare(f"mid/region_fused_level{level}", maps, "tiny_encoder")


def _compare_masks(recorded: RecordedFile, samples: list[Sample], result: TrainResult) -> None:
    batch, intermediates = result.batch, result.intermediates
    valid = np.flatnonzero(batch.mask_valid)
    positions = np.stack([batch.mask_rows, batch.mask_positions], -1)[valid]
    if "out/seg_token_mask_positions" in recorded:
        recorded.compare("out/seg_token_mask_positions", positions, "exact")
    if "mid/sam_image_embeddings" in recorded:
        grounding = nchw(intermediates.grounding)[: len(samples)]
        recorded.compare("mid/sam_image_embeddings", grounding, "tiny_encoder")
    for i, sample in enumerate(samples):
        own = valid[batch.mask_image[valid] == i]
        height, width = sample.original_size
        embeddings = intermediates.text_projected[batch.mask_rows[own], batch.mask_positions[own]]
        actual = {
            f"mid/low_res_masks{i}": (result.output.mask_logits[own][:, None], "tiny"),
            f"mid/iou_pred{i}": (result.output.iou[own][:, None], "tiny"),
            f"out/seg_embeddings{i}": (embeddings, "tiny"),
            f"out/pred_masks{i}": (intermediates.masks[own][:, :height, :width], "mask"),
        }
        for name, (array, kind) in actual.items():
            if name in recorded:
                recorded.compare(name, array, kind)


def compare_gradient_norms(
    info: RecordedFile, prefix: str, gradients: dict[str, np.ndarray]
) -> None:
    """Compare [norm, sum, largest absolute entry] of the gradient of every parameter.

    Where torch computed no gradient, the recorded entry is None and the computed gradient is zero.

    Args:
        info: the file with the recorded summaries.
        prefix: of the recorded names.
        gradients: by torch name.
    """
    for name in info.names_under(prefix):
        gradient = gradients.get(name.removeprefix(prefix))
        if gradient is None:
            continue  # stays unknown, which is a failure
        summary, x = info.get(name), gradient.astype(np.float64)
        if summary is None:
            info.record_error(name, float(np.abs(x).max(initial=0)), "exact", "no gradient")
        elif float(summary[0]) < 1e-6:
            # Zero in theory (softmax ignores the bias of a key), so every entry must be tiny.
            if np.abs(summary).max() < 1e-5 and np.abs(x).max(initial=0) < 1e-5:
                info.exclude(name, "norm below 1e-6: zero in theory")
            else:
                info.record_error(name, float("inf"), "exact", "norm below 1e-6, but not all of it")
        else:
            kind = "pyramid_gradient" if PYRAMID in name else "gradient_norm"
            norm, total, largest = map(float, summary)
            entry_error = abs(float(np.abs(x).max()) - largest)
            errors = [
                abs(float(np.linalg.norm(x)) - norm) / norm,
                # A sum may cancel out; its rounding error is relative to the norm.
                abs(float(x.sum()) - total) / max(abs(total), norm),
            ]
            entry_limit = TOLERANCES[kind].entry
            # The largest entry is a single one; norm / sqrt(size) is the root mean square.
            if kind == "gradient_norm" or entry_limit is None:
                errors.append(entry_error / largest)
            elif entry_error > entry_limit * norm / x.size**0.5:
                errors.append(float("inf"))
            info.record_error(name, max(errors), kind)
