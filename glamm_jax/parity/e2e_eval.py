"""Generation and teacher-forced inference of an e2e folder, masks included."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, TokenConfig
from glamm_jax.data.pack import Capacity, Sample, fit, pack
from glamm_jax.inference.generate import DecodeState, Generator
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parity.e2e_inputs import check_inputs, samples_of
from glamm_jax.parity.report import GoldenError, Ledger, Recorded
from glamm_jax.training.losses import masks_at_original_size
from glamm_jax.types import Batch


def check_inference_branch(
    folder: Path, ledger: Ledger, part: str, model: GLaMM, salt: str = ""
) -> None:
    """Teacher forcing: masks of every [SEG] of a known text. Boxes are ignored there (trap 6)."""
    path = folder / "inference_branch.npz"
    if not path.is_file():
        return
    with Recorded.open(ledger, part, path) as recorded:
        samples = samples_of(recorded, with_boxes=False)
        check_inputs(recorded, model.config, [path.stem], salt)
        recorded.exclude_prefix("in/bboxes", "the branch ignores boxes (trap 6)")
        batch = pack(samples, model.config)
        canvas = model.config.sam.image_size

        @nnx.jit
        def forward(model: GLaMM, batch: Batch) -> jax.Array:
            return masks_at_original_size(model(batch), batch, canvas)[0]

        masks = np.asarray(forward(model, batch))
        for i, sample in enumerate(samples):
            height, width = sample.original_size
            ours = masks[batch.mask_image == i][:, :height, :width]
            recorded.compare(f"out/pred_masks{i}", ours, "mask")


def check_evaluations(
    folder: Path, ledger: Ledger, info: Recorded, model: GLaMM, salt: str = ""
) -> None:
    """Every greedy generation, token for token, with the cache: one compiled program for all."""
    names = list(dict.fromkeys(n.split(".")[1] for n in info.names_under("eval.")))
    files = _match_files(folder, info, names)
    cases, capacity, room = [], Capacity(), 1
    # A variant of a case may use that case's pixels.
    drawn_as = [drawn for name in names for drawn in (f"eval_{name}", name)]
    for name in names:
        prefix = f"eval.{name}."
        recorded = Recorded.open(ledger, info.part, files[name])
        samples = [_for_generation(s, info, prefix) for s in samples_of(recorded)]
        config = replace(model.config, tokens=_tokens(info, prefix, model.config))
        capacity = capacity.union(fit(samples, config))
        room = max(room, int(info.input(f"{prefix}steps")))
        cases.append((recorded, prefix, samples, config))
    for recorded, prefix, samples, config in cases:
        with recorded:
            check_inputs(recorded, config, drawn_as, salt)
            _check_info(recorded, info, prefix, samples[0])
            generator = Generator(model, config.tokens)
            batch = pack(samples, config, capacity)
            decoding = generator.prefill(batch, room=room)
            decoding = generator.decode(decoding, int(info.get(f"{prefix}steps")) - 1)
            _compare_generation(recorded, info, prefix, samples[0], generator, batch, decoding)


def _tokens(info: Recorded, prefix: str, config: GLaMMConfig) -> TokenConfig:
    """Some cases make ordinary ids the [SEG] and the end token, so that they are generated."""
    eos = info.input(f"{prefix}eos_id") if f"{prefix}eos_id" in info else config.tokens.eos
    return replace(config.tokens, seg=info.input(f"{prefix}seg_id"), eos=eos)


def _match_files(folder: Path, info: Recorded, names: list[str]) -> dict[str, Path]:
    """`eval_NAME.npz`, or the unclaimed file with this prompt (one note names another file)."""
    files = {name: folder / f"eval_{name}.npz" for name in names}
    claimed = {path for path in files.values() if path.is_file()}
    for name, path in files.items():
        if path.is_file():
            continue
        prompt = info.get(f"eval.{name}.prompt")
        for other in sorted(set(folder.glob("eval_*.npz")) - claimed):
            try:
                with np.load(other) as archive:
                    same = archive["in/input_ids"].tolist() == [prompt]
            except Exception as error:
                raise GoldenError(f"{other}: cannot be read: {error}") from error
            if same:
                files[name] = other
                claimed.add(other)
                break
        else:
            raise GoldenError(f"{folder}: no eval_*.npz holds the prompt of info.json's {name}")
    return files


def _compare_generation(
    recorded: Recorded,
    info: Recorded,
    prefix: str,
    sample: Sample,
    generator: Generator,
    batch: Batch,
    decoding: DecodeState,
) -> None:
    model = nnx.merge(generator.graph, generator.state)
    prompt = sample.rows[0].token_ids.tolist()
    answer = generator.answers(decoding)[0]
    recorded.compare("out/generated_ids", [[*prompt, *answer]], "exact")
    info.compare(f"{prefix}generated", [*prompt, *answer], "exact")
    _compare_states(recorded, info, prefix, model, decoding, len(answer))
    masks = generator.finish(batch, decoding)
    height, width = sample.original_size
    recorded.compare("out/pred_masks0", np.asarray(masks.logits)[:, :height, :width], "mask")
    info.compare(f"{prefix}n_masks", [len(masks.rows)], "exact")
    if "mid/region_features0" in recorded:
        regions = _regions(generator.graph, generator.state, batch)
        count = len(sample.boxes_xyxy_unit)
        recorded.compare("mid/region_features0", np.asarray(regions)[:count], "tiny_encoder")


@partial(jax.jit, static_argnames="graph")
def _regions(graph: nnx.GraphDef, state: nnx.State, batch: Batch) -> jax.Array:
    model = nnx.merge(graph, state)
    return model.encode_regions(model.encode_images(batch.images), batch)


def _for_generation(sample: Sample, info: Recorded, prefix: str) -> Sample:
    """No truth; boxes in the type the original passed them in (trap 13)."""
    name = f"{prefix}box_dtype"
    boxes = sample.boxes_xyxy_unit
    if name in info and boxes is not None:
        if info.input(name) != "bfloat16":
            raise GoldenError(f"{info.file}: {name} = {info.get(name)!r} is not known here")
        boxes = boxes.astype(np.float16).astype(ml_dtypes.bfloat16)
    return replace(sample, masks=None, boxes_xyxy_unit=boxes)


def _check_info(recorded: Recorded, info: Recorded, prefix: str, sample: Sample) -> None:
    """`info.json` repeats the inputs."""
    info.compare(f"{prefix}prompt", recorded.get("in/input_ids")[0], "exact")
    info.compare(f"{prefix}size", list(sample.original_size), "exact")
    info.compare(f"{prefix}resize", list(sample.resized_size), "exact")
    boxes = recorded.get("in/bboxes0") if "in/bboxes0" in recorded else None
    name = f"{prefix}boxes"
    if boxes is None:
        info.compare(name, None, "exact")
    else:
        info.compare(name, boxes, "box")
    info.exclude(f"{prefix}note", "prose")


def _compare_states(
    recorded: Recorded,
    info: Recorded,
    prefix: str,
    model: GLaMM,
    decoding: DecodeState,
    length: int,
) -> None:
    """Logits that chose each token, and the whole sequence's hidden states in the last step."""
    emitting = decoding.emitting[0, :length]
    logits = np.asarray(model.llama.logits(emitting))
    recorded.compare("out/step_logits", logits, "tiny")
    top = np.sort(logits, axis=-1)
    gap = float((top[:, -1] - top[:, -2]).min())
    info.compare(f"{prefix}min_top2_gap", gap, "gap")
    prompt = decoding.prompt_hidden[0, : int(decoding.lengths[0])]
    hidden = np.concatenate([np.asarray(prompt), np.asarray(emitting[1:])])
    recorded.compare("out/last_step_hidden", hidden[None], "tiny")
