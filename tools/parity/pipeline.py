"""The part `pipeline`: fixture files -> records -> batches -> losses and gradients.

What the original sampled at random (which regions, in which order, which question) is taken from
the recording: a record is reduced to the sampled annotations, and the recorded question replaces
the paraphrases of this library. Everything else is computed: images, masks, boxes, conversations,
ids, labels, batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data.collate import build_batch, collate
from glamm_jax.data.conversation_sampler import sample_conversations
from glamm_jax.data.encode import Sample, encode_examples
from glamm_jax.data.record import Record
from glamm_jax.data.sources.registry import find_dataset
from glamm_jax.models.glamm import GLaMM
from glamm_jax.nn.pixel_normalization import normalize_pixels
from glamm_jax.text.chat_template import RELEASED_TEMPLATE
from glamm_jax.text.questions import PREAMBLE, name_regions, with_preamble
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer
from glamm_jax.training.losses import losses
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.types import Batch, BatchShape, Losses
from glamm_jax.weights.glamm import glamm_table
from tools.parity.dataset_items import ANSWER, QUESTION, SourceWithImagePaths
from tools.parity.e2e_train import PYRAMID, compare_losses, torch_tensors
from tools.parity.golden_model import glamm_config, golden_glamm
from tools.parity.recorded_folder import entry_errors, part_folder, report_unknown_files
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile, read_json
from tools.parity.tokenizer import open_tokenizer

PART, FILE = "pipeline", "info.json"
# Recorded batch -> (dataset of the fixtures, task of its conversations)
BATCHES: dict[str, tuple[str, ConversationTask]] = {
    "gcg": ("grandf_ha", "gcg"),
    "region": ("refcocog_regions", "region"),
    "vg": ("visual_genome", "region"),
    "refseg": ("refcocog", "referring"),
    "semseg": ("ade20k", "semantic"),
}
# Larger than every recorded sample, so nothing is truncated.
LARGE_SHAPE = BatchShape(tokens=2048, targets=2048, mask_height=4096, mask_width=4096)


class _BuiltBatch(NamedTuple):
    """One recorded batch, built from the fixture files.

    Attributes:
        samples: one for each image.
        turns: the conversation of each image.
        names: for each image the texts of the annotations that its conversation is about.
    """

    samples: list[Sample]
    turns: list[tuple[str, ...]]
    names: list[list[str]]


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare everything recorded in `folder/pipeline` with results from `folder/fixtures/data`.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: a file is absent or cannot be read.
    """
    part = part_folder(folder, PART)
    data = part_folder(part_folder(folder, "fixtures"), "data")
    tokenizer = open_tokenizer(folder)
    described = read_json(part / FILE)
    files = {FILE}
    with entry_errors(part / FILE), RecordedFile.open(report, PART, part / FILE) as info:
        info.exclude_prefix("config.", "describes the model")
        info.exclude("template_index", "which paraphrase was sampled; the conversations contain it")
        config = glamm_config(described["config"])
        info.compare("clip_preprocess_size", config.clip.image_size, "exact")
        names = [name for name in described["batches"] if name in BATCHES]
        batches = {name: _build_batch(info, name, data, config, tokenizer) for name in names}
        samples = [batch.samples for batch in batches.values()]
        run = _Runner(config, described["config"]["salt"], samples)
        for name, batch in batches.items():
            files.add(f"{name}.npz")
            _compare_texts(info, name, batch, tokenizer)
            _compare_sizes(info, name, batch)
            parts, gradients = run(batch.samples)
            compare_losses(info, parts, "loss", f"batches.{name}.losses.")
            _compare_norms(info, f"batches.{name}.grad_norms.", gradients)
            with RecordedFile.open(report, PART, part / f"{name}.npz") as arrays:
                _compare_arrays(arrays, batch.samples, config)
    report_unknown_files(report, PART, part, files)


# ---------------------------------------------------------------------------- fixtures to samples


def _build_batch(
    info: RecordedFile, name: str, data: Path, config: GLaMMConfig, tokenizer: Tokenizer
) -> _BuiltBatch:
    dataset, task = BATCHES[name]
    source = find_dataset(dataset)(data, "train")
    if not isinstance(source, SourceWithImagePaths):
        raise GoldenError(f"{dataset}: does not know where its pictures lie")
    prefix = f"batches.{name}"
    items = (
        info.get(f"{prefix}.{field}") for field in ("images", "sampled_classes", "conversations")
    )
    batch = _BuiltBatch([], [], [])
    for path, names, conversation in zip(*items, strict=True):
        record = _record_of(source, data / path)
        record = replace(record, annotations=_sampled_annotations(record, task, names))
        recorded_choices = _recorded_choices(task, names, conversation)
        (example,) = sample_conversations(record, (task,), recorded_choices).examples
        sample, notes = encode_examples([example], tokenizer, config, LARGE_SHAPE)
        if sample is None or notes:
            raise GoldenError(f"{name}: {path}: {', '.join(notes)}")
        batch.samples.append(sample)
        batch.turns.append(example.turns)
        batch.names.append(_names(record, task))
    info.exclude(f"{prefix}.images", "input: records are found by their images")
    return batch


def _record_of(source: SourceWithImagePaths, path: Path) -> Record:
    for key in source.keys:
        if source.image_path(key) == path:
            record = source.read(key).record
            if record is not None:
                return record
    raise GoldenError(f"{source.name} has no record of {path}")


def _sampled_annotations(
    record: Record, task: ConversationTask, names: Sequence[str]
) -> tuple[Any, ...]:
    """Return the annotations with the recorded names, in that order; for GCG all annotations."""
    remaining = [annotation for annotation in record.annotations if annotation.task == task]
    if task == "gcg":
        return tuple(remaining)
    sampled = []
    for name in names:
        matches = [a for a in remaining if a.text.lower() == name.strip().lower()]
        if not matches:
            raise GoldenError(f"{record.source} {record.image_id}: no annotation is named {name!r}")
        sampled.append(remaining.pop(remaining.index(matches[0])))
    return tuple(sampled)


def _names(record: Record, task: ConversationTask) -> list[str]:
    if task != "gcg":
        return [annotation.text for annotation in record.annotations]
    (caption,) = record.annotations
    spans = sorted({(link.start, link.end) for link in caption.links})
    return [caption.text[start:end] for start, end in spans]


def _recorded_choices(
    task: ConversationTask, names: Sequence[str], conversation: str
) -> ConversationConfig:
    """Return the configuration under which sampling gives the recorded conversation."""
    questions, answers = QUESTION.findall(conversation), ANSWER.findall(conversation)
    first = questions[0].removeprefix(f"{PREAMBLE}\n")
    if task == "region":
        first = first.replace(name_regions(1), "{regions}")
    elif task != "gcg":
        first = re.sub(re.escape(names[0].strip().lower()), "{name}", first, count=1)
    return ConversationConfig(
        max_turns=len(names),
        max_regions=len(names),
        shuffle=False,
        questions=(first,),
        answers=tuple(answers[:1]) if task in ("referring", "semantic") else (),
    )


# ---------------------------------------------------------------------------- the model


class _Runner:
    """One model and one compiled program for all recorded batches."""

    def __init__(self, config: GLaMMConfig, salt: str, batches: Sequence[list[Sample]]):
        shapes = [build_batch(samples, config).required_shape for samples in batches]
        self._batch_shape = reduce(BatchShape.union, shapes, BatchShape())
        self._config, self._table = config, glamm_table(config)
        model = golden_glamm(config, salt)
        graph, self._trainable, self._frozen = nnx.split(
            model, trainable_filter("all_but_encoders"), ...
        )

        def loss(trainable: nnx.State, frozen: nnx.State, batch: Batch) -> tuple[Any, Losses]:
            model: GLaMM = nnx.merge(graph, trainable, frozen, copy=True)
            parts = losses(model, batch, model(batch), LossWeights())
            return parts.total, parts

        self._gradient = jax.jit(jax.grad(loss, has_aux=True))

    def __call__(self, samples: list[Sample]) -> tuple[Losses, dict[str, np.ndarray]]:
        """Return the losses, and the gradients by torch name."""
        batch = collate(samples, self._config, self._batch_shape)
        gradients, parts = self._gradient(self._trainable, self._frozen, batch)
        return jax.tree.map(np.asarray, parts), torch_tensors(self._table, gradients)


# ---------------------------------------------------------------------------- comparison


def _compare_texts(info: RecordedFile, name: str, batch: _BuiltBatch, tokenizer: Tokenizer) -> None:
    prefix = f"batches.{name}"
    rendered = [
        RELEASED_TEMPLATE.render([with_preamble(first), *rest]) for first, *rest in batch.turns
    ]
    info.compare(f"{prefix}.conversations", rendered, "exact")
    rows = [row for sample in batch.samples for row in sample.conversations]
    width = max(len(row.token_ids) for row in rows)
    ids = np.full((len(rows), width), tokenizer.pad, np.int32)
    labels = np.full((len(rows), width), IGNORE_ID, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row.token_ids)] = row.token_ids
        labels[i, : len(row.labels)] = row.labels
    info.compare(f"{prefix}.input_ids", ids, "exact")
    info.compare(f"{prefix}.labels", labels, "exact")
    info.compare(f"{prefix}.offset", list(range(len(rows) + 1)), "exact")
    recorded = [
        [text.strip().lower() for text in row] for row in info.get(f"{prefix}.sampled_classes")
    ]
    actual = [[text.lower() for text in row] for row in batch.names]
    error = 0.0 if recorded == actual else 1.0
    note = "compared without case, as the questions have them"
    info.record_error(f"{prefix}.sampled_classes", error, "exact", note)


def _compare_sizes(info: RecordedFile, name: str, batch: _BuiltBatch) -> None:
    prefix, samples = f"batches.{name}", batch.samples
    has_grounding = all(sample.grounding_image is not None for sample in samples)
    sizes = {"resize": "resized_size", "label_shapes": "original_size"}
    for field, size in sizes.items():
        actual = [list(getattr(sample, size)) for sample in samples] if has_grounding else None
        info.compare(f"{prefix}.{field}", actual, "exact")
    boxes = [sample.boxes_xyxy_unit for sample in samples if sample.boxes_xyxy_unit is not None]
    recorded = info.get(f"{prefix}.bboxes")
    if recorded is None or not boxes:
        info.compare(f"{prefix}.bboxes", boxes or None, "exact")
        return
    same_counts = [len(array) for array in boxes] == [len(rows) for rows in recorded]
    error = (
        np.abs(np.concatenate(boxes) - np.concatenate(recorded)).max() if same_counts else np.inf
    )
    info.record_error(f"{prefix}.bboxes", float(error), "box")


def _compare_norms(info: RecordedFile, prefix: str, gradients: dict[str, np.ndarray]) -> None:
    for name in info.names_under(prefix):
        gradient = gradients.get(name.removeprefix(prefix))
        if gradient is not None:  # otherwise the array stays unknown, which is a failure
            norm = float(np.linalg.norm(gradient.astype(np.float64)))
            if PYRAMID in name:
                recorded = float(info.get(name))
                error = abs(norm - recorded) / max(recorded, 1e-30)
                info.record_error(name, error, "pyramid_gradient")
            else:
                info.compare(name, norm, "gradient_norm")


def _compare_arrays(arrays: RecordedFile, samples: list[Sample], config: GLaMMConfig) -> None:
    """Compare the pixels of both encoders and every mask."""
    images = np.stack([sample.image for sample in samples if sample.image is not None])
    clip, sam = config.clip, config.sam
    pixels = normalize_pixels(jnp.asarray(images), clip.pixel_mean, clip.pixel_std)
    arrays.compare("clip_pixels", np.asarray(pixels).transpose(0, 3, 1, 2), "input")
    grounding = [s.grounding_image for s in samples if s.grounding_image is not None]
    if not grounding:
        return
    sizes = jnp.array([sample.resized_size for sample in samples])
    pixels = normalize_pixels(
        jnp.asarray(np.stack(grounding)), sam.pixel_mean, sam.pixel_std, sizes
    )
    arrays.compare("sam_pixels", np.asarray(pixels).transpose(0, 3, 1, 2), "input")
    for i, sample in enumerate(samples):
        arrays.compare(f"mask{i}", sample.masks, "exact")
