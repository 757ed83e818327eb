"""Generation and teacher-forced inference of an e2e folder, with masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, TokenConfig
from glamm_jax.data.boxes import round_like_original
from glamm_jax.data.collate import BatchShape, Sample, build_batch, collate
from glamm_jax.inference.generate import DecodeState, Generator
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.losses import masks_at_original_size
from glamm_jax.types import Batch
from tools.parity.e2e_inputs import check_inputs, read_samples
from tools.parity.recorded_folder import integer_input
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile


def check_inference_branch(
    folder: Path, report: ComparisonReport, part: str, model: GLaMM, salt: str = ""
) -> None:
    """Compare teacher-forced inference: the masks of every [SEG] of a fixed text.

    Args:
        folder: the e2e folder.
        report: receives the results.
        part: name of the folder.
        model: the model.
        salt: of the random inputs.
    """
    path = folder / "inference_branch.npz"
    if not path.is_file():
        return
    with RecordedFile.open(report, part, path) as recorded:
        samples = read_samples(recorded, with_boxes=False)
        check_inputs(recorded, model.config, [path.stem], salt)
        recorded.exclude_prefix("in/bboxes", "the branch ignores boxes ")
        batch = collate(samples, model.config)
        canvas = model.config.sam.image_size

        @nnx.jit
        def forward(model: GLaMM, batch: Batch) -> jax.Array:
            return masks_at_original_size(model(batch), batch, canvas)[0]

        masks = np.asarray(forward(model, batch))
        for i, sample in enumerate(samples):
            height, width = sample.original_size
            image_masks = masks[batch.mask_image == i][:, :height, :width]
            recorded.compare(f"out/pred_masks{i}", image_masks, "mask")


def check_evaluations(
    folder: Path, report: ComparisonReport, info: RecordedFile, model: GLaMM, salt: str = ""
) -> None:
    """Compare every greedy generation token by token, with a KV cache and one compiled program.

    Args:
        folder: the e2e folder.
        report: receives the results.
        info: its `info.json`.
        model: the model.
        salt: of the random inputs.

    Raises:
        GoldenError: a file or entry is missing, or has an unknown value.
    """
    names = list(dict.fromkeys(n.split(".")[1] for n in info.names_under("eval.")))
    files = _match_files(folder, info, names)
    cases, batch_shape, max_steps = [], BatchShape(), 1
    for name in names:
        prefix = f"eval.{name}."
        recorded = RecordedFile.open(report, info.part, files[name])
        samples = [_for_generation(s, info, prefix) for s in read_samples(recorded)]
        config = replace(model.config, tokens=_tokens(info, prefix, model.config))
        batch_shape = batch_shape.union(build_batch(samples, config).required_shape)
        max_steps = max(max_steps, int(integer_input(info, f"{prefix}steps")))
        cases.append(_Evaluation(recorded, info, prefix, samples[0], config))
    # A variant of a case may use the pixels of that case.
    pixel_names = [pixel_name for name in names for pixel_name in (f"eval_{name}", name)]
    for case in cases:
        with case.recorded:
            check_inputs(case.recorded, case.config, pixel_names, salt)
            _compare_info(case)
            generator = Generator(model, case.config.tokens)
            batch = collate([case.sample], case.config, batch_shape)
            decoding = generator.prefill(batch, max_tokens=max_steps)
            decoding = generator.decode(decoding, int(info.get(f"{case.prefix}steps")) - 1)
            _compare_generation(case, generator, batch, decoding)


class _Evaluation(NamedTuple):
    """One recorded generation.

    Attributes:
        recorded: its file.
        info: the folder's `info.json`.
        prefix: of its entries in `info`.
        sample: prompt, image and boxes.
        config: configuration of the model with the special tokens of this generation.
    """

    recorded: RecordedFile
    info: RecordedFile
    prefix: str
    sample: Sample
    config: GLaMMConfig


def _tokens(info: RecordedFile, prefix: str, config: GLaMMConfig) -> TokenConfig:
    """Return the special tokens; some cases use ordinary ids as [SEG] and </s> to generate them."""
    eos = f"{prefix}eos_id"
    eos_id = int(integer_input(info, eos)) if eos in info else config.tokens.eos
    return replace(config.tokens, seg=int(integer_input(info, f"{prefix}seg_id")), eos=eos_id)


def _match_files(folder: Path, info: RecordedFile, names: list[str]) -> dict[str, Path]:
    """Return the file of each generation: `eval_NAME.npz`, else an unused file with its prompt."""
    files = {name: folder / f"eval_{name}.npz" for name in names}
    used = {path for path in files.values() if path.is_file()}
    for name, path in files.items():
        if path.is_file():
            continue
        prompt = info.get(f"eval.{name}.prompt")
        for other in sorted(set(folder.glob("eval_*.npz")) - used):
            try:
                with np.load(other) as archive:
                    same = archive["in/input_ids"].tolist() == [prompt]
            except Exception as error:
                raise GoldenError(f"{other}: cannot be read: {error}") from error
            if same:
                files[name] = other
                used.add(other)
                break
        else:
            raise GoldenError(f"{folder}: no eval_*.npz has the prompt of {name} in info.json")
    return files


def _compare_generation(
    case: _Evaluation, generator: Generator, batch: Batch, decoding: DecodeState
) -> None:
    recorded, info, prefix, sample, _ = case
    model = nnx.merge(generator.graph, generator.state)
    prompt = sample.conversations[0].token_ids.tolist()
    answer = generator.answer_token_ids(decoding)[0]
    recorded.compare("out/generated_ids", [[*prompt, *answer]], "exact")
    info.compare(f"{prefix}generated", [*prompt, *answer], "exact")
    _compare_states(case, model, decoding, len(answer))
    masks = generator.finish(batch, decoding, with_logits=True)
    height, width = sample.original_size
    recorded.compare("out/pred_masks0", np.asarray(masks.logits)[:, :height, :width], "mask")
    info.compare(f"{prefix}n_masks", [len(masks.rows)], "exact")
    if "mid/region_features0" in recorded and sample.boxes_xyxy_unit is not None:
        regions = np.asarray(_encode_regions(generator.graph, generator.state, batch))
        features = regions[: len(sample.boxes_xyxy_unit)]
        recorded.compare("mid/region_features0", features, "tiny_encoder")


@partial(jax.jit, static_argnames="graph")
def _encode_regions(graph: nnx.GraphDef, state: nnx.State, batch: Batch) -> jax.Array:
    model = nnx.merge(graph, state)
    return model.encode_regions(model.encode_images(batch.images), batch)


def _for_generation(sample: Sample, info: RecordedFile, prefix: str) -> Sample:
    """Remove the reference masks, and convert boxes to the type of the original's evaluation."""
    name = f"{prefix}box_dtype"
    boxes = sample.boxes_xyxy_unit
    if name in info and boxes is not None:
        if info.input(name) != "bfloat16":
            raise GoldenError(f"{info.file}: {name} = {info.get(name)!r} is not supported")
        # quirk 13: the original's evaluation converts boxes to float16, then to bfloat16.
        boxes = round_like_original(boxes)
    return replace(sample, masks=None, boxes_xyxy_unit=boxes)


def _compare_info(case: _Evaluation) -> None:
    """Compare the inputs that `info.json` repeats."""
    recorded, info, prefix, sample, _ = case
    info.compare(f"{prefix}prompt", recorded.get("in/input_ids")[0], "exact")
    info.compare(f"{prefix}size", list(sample.original_size), "exact")
    info.compare(f"{prefix}resize", list(sample.resized_size), "exact")
    if "in/bboxes0" in recorded:
        info.compare(f"{prefix}boxes", recorded.get("in/bboxes0"), "box")
    else:
        info.compare(f"{prefix}boxes", None, "exact")
    info.exclude(f"{prefix}note", "prose")


def _compare_states(case: _Evaluation, model: GLaMM, decoding: DecodeState, length: int) -> None:
    """Logits that chose each token, and the whole sequence's hidden states in the last step."""
    emitting = decoding.token_hidden[0, :length]
    logits = np.asarray(model.llama.logits(emitting))
    case.recorded.compare("out/step_logits", logits, "tiny")
    top = np.sort(logits, axis=-1)
    gap = float((top[:, -1] - top[:, -2]).min())
    case.info.compare(f"{case.prefix}min_top2_gap", gap, "gap")
    prompt = decoding.prompt_hidden[0, : int(decoding.prompt_lengths[0])]
    hidden = np.concatenate([np.asarray(prompt), np.asarray(emitting[1:])])
    case.recorded.compare("out/last_step_hidden", hidden[None], "tiny")
