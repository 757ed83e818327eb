"""Training cases of an e2e folder: losses, intermediates, masks and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.data.collate import BatchShape, Sample, fit, pack
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.losses import losses, masks_at_original_size
from glamm_jax.training.optimizer import trainable_filter
from glamm_jax.types import Batch, Losses, Output
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.glamm import glamm_table
from glamm_jax.weights.rules import WeightTable, dump
from tools.parity.e2e_inputs import nchw
from tools.parity.report import RecordedFile
from tools.parity.ties import count_differences, first_agreeing_run, with_shifted_bias

# Parameters whose gradients pass the region encoder's ReLUs; see parity/tolerances.py.
PYRAMID = "region_encoder.mlvl_fuse."
TRAINABLE = trainable_filter("all_but_encoders")
LOSS_FIELDS = {
    "loss": "total",
    "ce_loss": "ce",
    "mask_bce_loss": "bce",
    "mask_dice_loss": "dice",
}


class Intermediates(NamedTuple):
    """What the original was recorded to compute on its way, in our layouts."""

    states: Any  # [k, i, n, c] CLIP
    projected: Any  # [i, p, d]
    fused: Any  # list of [q, h, w, c]
    regions: Any  # [r, d]
    embeddings: Any  # [b, t, d]
    logits: Any  # [b, t, v]
    text_projected: Any  # [b, t, c]
    grounding: Any  # [g, s, s, c]
    masks: Any  # [m, h, w]


class TrainResult(NamedTuple):
    """One case run: everything on the host. Without gradients there are none."""

    batch: Batch
    losses: Losses
    output: Output
    mid: Intermediates
    gradients: dict[str, np.ndarray]  # by torch name


LOSS_SUMS = {"loss": ("ce_loss", "mask_loss"), "mask_loss": ("mask_bce_loss", "mask_dice_loss")}


class TrainRunner:
    """One model, one compiled program for every case: batches are packed to a common capacity."""

    def __init__(self, model: GLaMM, weights: LossWeights, capacity: BatchShape):
        self.model, self.config = model, model.config
        self.capacity = capacity
        self.table = glamm_table(model.config)
        graph, _, self.frozen = nnx.split(model, TRAINABLE, ...)
        self._forward = jax.jit(partial(_forward, graph, weights))
        self._step = jax.jit(jax.value_and_grad(partial(_forward, graph, weights), has_aux=True))

    def run(self, samples: list[Sample], shift: float = 0.0) -> TrainResult:
        """Losses, intermediates and gradients of one batch; see `shifted`."""
        batch = pack(samples, self.config, self.capacity)
        trained = nnx.state(with_shifted_bias(self.model, shift), TRAINABLE)
        (_, aux), gradients = self._step(trained, self.frozen, batch)
        parts, output, mid = jax.tree.map(np.asarray, aux)
        return TrainResult(batch, parts, output, mid, torch_tensors(self.table, gradients))

    def run_agreeing(self, recorded: RecordedFile, samples: list[Sample]) -> TrainResult:
        """`run` on that side of a tie on which the recorded gradients are."""
        return first_agreeing_run(
            lambda shift: self.run(samples, shift),
            lambda run: count_differences(recorded, lambda r: compare_gradients(r, run.gradients)),
        )

    def run_forward(self, samples: list[Sample]) -> TrainResult:
        """Losses and intermediates alone: much less to compile."""
        batch = pack(samples, self.config, self.capacity)
        _, aux = self._forward(nnx.state(self.model, TRAINABLE), self.frozen, batch)
        parts, output, mid = jax.tree.map(np.asarray, aux)
        return TrainResult(batch, parts, output, mid, {})


def torch_tensors(table: WeightTable, state: nnx.State) -> dict[str, np.ndarray]:
    """The tensors of the original that some of the model's leaves hold, by torch name."""
    leaves = {path: np.asarray(x) for path, x in flatten_state(state).items()}
    held = [r for r in table.rules if all(entry.leaf in leaves for entry in r.mappings())]
    return dump(WeightTable(tuple(held)), leaves)


def _forward(
    graph: nnx.GraphDef, weights: LossWeights, trained: nnx.State, frozen: nnx.State, batch: Batch
) -> tuple:
    """(loss, (losses, output, intermediates))."""
    model = nnx.merge(graph, trained, frozen, copy=True)
    output = model(batch)
    parts = losses(model, batch, output, weights)
    return parts.total, (parts, output, _intermediates(model, batch, output))


def _intermediates(model: GLaMM, batch: Batch, output: Output) -> Intermediates:
    states = model.encode_images(batch.images)
    levels = [model.clip.state(states, n) for n in model.config.clip.region_layers]
    slots = jax.numpy.maximum(batch.region_images, 0)
    cast = model.config.region.compute_dtype or states.dtype
    encoder = model.region_encoder
    fused = encoder.fuse(encoder.pyramid([level[slots].astype(cast) for level in levels]))
    canvas = model.config.sam.image_size
    return Intermediates(
        states=states,
        projected=model.projector(model.clip.state(states, model.config.clip.projector_layer)),
        fused=fused,
        regions=model.encode_regions(states, batch),
        embeddings=model.embed(batch),
        logits=model.llama.logits(output.hidden),
        text_projected=model.text_projection(output.hidden),
        grounding=model.encode_grounding(batch),
        masks=masks_at_original_size(output, batch, canvas)[0],
    )


# ---------------------------------------------------------------------------- comparison


def compare_losses(recorded: RecordedFile, ours: Losses, kind: str, prefix: str) -> None:
    """The recorded losses; where the tolerance is wide, also as the sums that they are."""
    by_name = {name: float(getattr(ours, field)) for name, field in LOSS_FIELDS.items()}
    by_name["mask_loss"] = float(ours.bce + ours.dice)
    suspects = _contradicting(recorded, prefix) if kind == "bf16_loss" else set()
    for name, value in by_name.items():
        if name in suspects:
            note = "the recorded losses do not add up"
            recorded.record_error(prefix + name, float("inf"), kind, note)
        else:
            recorded.compare(prefix + name, value, kind)


def _contradicting(recorded: RecordedFile, prefix: str) -> set[str]:
    """Losses in a recorded sum that is none, but in no sum that is one."""
    suspects, sound = set(), set()
    for total, parts in LOSS_SUMS.items():
        values = [float(recorded.get(prefix + name)) for name in (total, *parts)]
        holds = abs(values[0] - sum(values[1:])) <= 1e-6 * max(1.0, abs(values[0]))
        (sound if holds else suspects).update((total, *parts))
    return suspects - sound if suspects - sound else suspects


def compare_case(
    recorded: RecordedFile, samples: list[Sample], run: TrainResult, config: GLaMMConfig
) -> None:
    """Everything but inputs in one `train_*.npz`."""
    compare_losses(recorded, run.losses, "loss", "out/")
    _compare_text(recorded, samples, run, config)
    _compare_clip(recorded, samples, run.mid, config)
    _compare_regions(recorded, samples, run)
    _compare_masks(recorded, samples, run)
    compare_gradients(recorded, run.gradients)


def compare_gradients(recorded: RecordedFile, gradients: dict[str, np.ndarray]) -> None:
    """Recorded gradients; one whose name we do not have stays unknown, and fails."""
    for name in recorded.names_under("grad/"):
        tensor = name.removeprefix("grad/")
        if tensor in gradients:
            kind = "pyramid_gradient" if PYRAMID in tensor else "gradient"
            recorded.compare(name, gradients[tensor], kind)


def _compare_text(
    recorded: RecordedFile, samples: list[Sample], run: TrainResult, config: GLaMMConfig
) -> None:
    rows = sum(len(sample.rows) for sample in samples)
    tokens = fit(samples, config).tokens
    whole = {
        "mid/inputs_embeds": run.mid.embeddings,
        "mid/llm_attention_mask": run.batch.token_valid,
        "mid/last_hidden_state": run.output.hidden,
        "mid/logits": run.mid.logits,
        "mid/text_hidden_fcs_all_positions": run.mid.text_projected,
    }
    for name, ours in whole.items():
        if name in recorded:
            kind = "exact" if name.endswith("mask") else "tiny"
            recorded.compare(name, np.asarray(ours)[:rows, :tokens].astype(ours.dtype), kind)


def _compare_clip(
    recorded: RecordedFile, samples: list[Sample], mid: Intermediates, config: GLaMMConfig
) -> None:
    """`mid/clip_hidden_-k` is CLIP's hidden_states[-k], CLS included.

    Images are repeated for every conversation in the recordings.
    """
    image_of_row = np.repeat(np.arange(len(samples)), [len(s.rows) for s in samples])
    if "mid/mm_projector" in recorded:
        recorded.compare("mid/mm_projector", np.asarray(mid.projected)[image_of_row], "tiny")
    for name in recorded.names_under("mid/clip_hidden_"):
        state = config.clip.hidden_state(int(name.removeprefix("mid/clip_hidden_")))
        if state in config.clip.read_states:
            ours = np.asarray(mid.states)[config.clip.read_states.index(state)]
            recorded.compare(name, ours[image_of_row], "tiny_encoder")


def _compare_regions(recorded: RecordedFile, samples: list[Sample], run: TrainResult) -> None:
    boxes = [0 if s.boxes_xyxy_unit is None else len(s.boxes_xyxy_unit) for s in samples]
    ends = np.cumsum(boxes)
    for i, (count, end) in enumerate(zip(boxes, ends, strict=True)):
        if f"mid/region_features{i}" in recorded:
            features = np.asarray(run.mid.regions)[end - count : end]
            recorded.compare(f"mid/region_features{i}", features, "tiny_encoder")
    for level, maps in enumerate(run.mid.fused):
        if f"mid/region_fused_level{level}" in recorded:
            # The common capacity may hold more images than this case.
            maps = nchw(maps)[: len(samples)]
            recorded.compare(f"mid/region_fused_level{level}", maps, "tiny_encoder")


def _compare_masks(recorded: RecordedFile, samples: list[Sample], run: TrainResult) -> None:
    batch, mid = run.batch, run.mid
    valid = np.flatnonzero(batch.mask_valid)
    where = np.stack([batch.mask_rows, batch.mask_positions], -1)[valid]
    if "out/seg_token_mask_positions" in recorded:
        recorded.compare("out/seg_token_mask_positions", where, "exact")
    if "mid/sam_image_embeddings" in recorded:
        grounding = nchw(mid.grounding)[: len(samples)]
        recorded.compare("mid/sam_image_embeddings", grounding, "tiny_encoder")
    for i, sample in enumerate(samples):
        mine = valid[batch.mask_image[valid] == i]
        height, width = sample.original_size
        embedded = mid.text_projected[batch.mask_rows[mine], batch.mask_positions[mine]]
        ours = {
            f"mid/low_res_masks{i}": (run.output.mask_logits[mine][:, None], "tiny"),
            f"mid/iou_pred{i}": (run.output.iou[mine][:, None], "tiny"),
            f"out/seg_embeddings{i}": (embedded, "tiny"),
            f"out/pred_masks{i}": (mid.masks[mine][:, :height, :width], "mask"),
        }
        for name, (array, kind) in ours.items():
            if name in recorded:
                recorded.compare(name, array, kind)


def compare_gradient_norms(
    info: RecordedFile, prefix: str, gradients: dict[str, np.ndarray]
) -> None:
    """[norm, sum, absmax] of every parameter; None where torch made no gradient, ours zeros."""
    for name in info.names_under(prefix):
        ours = gradients.get(name.removeprefix(prefix))
        if ours is None:
            continue  # stays unknown, and fails
        theirs, x = info.get(name), ours.astype(np.float64)
        if theirs is None:
            info.record_error(name, float(np.abs(x).max(initial=0)), "exact", "no gradient")
        elif float(theirs[0]) < 1e-6:
            # Zero in theory (softmax ignores a key's bias); then all of it has to be tiny.
            if np.abs(theirs).max() < 1e-5 and np.abs(x).max(initial=0) < 1e-5:
                info.exclude(name, "norm below 1e-6: zero in theory")
            else:
                info.record_error(name, float("inf"), "exact", "norm below 1e-6, but not all of it")
        else:
            kind = "pyramid_gradient" if PYRAMID in name else "gradient_norm"
            info.record_error(name, _summary_error(x, *map(float, theirs)), kind)


def _summary_error(x: np.ndarray, norm: float, total: float, top: float) -> float:
    """Largest relative error of L2 norm, sum and largest entry; a sum is as good as the norm."""
    return max(
        abs(float(np.linalg.norm(x)) - norm) / norm,
        abs(float(x.sum()) - total) / max(abs(total), norm),
        abs(float(np.abs(x).max()) - top) / top,
    )
