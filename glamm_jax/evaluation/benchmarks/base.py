"""The types that all benchmarks share, and what several of them do with records.

    mask = {"size": [2, 3], "counts": "24"}
    item = Item("sa_1", "sa_1", 0, "Describe the image.", reference_texts=("A dog runs.",),
                reference_phrases=("A dog",), reference_masks=(mask,))
    prediction = Prediction("sa_1", "sa_1", "A dog runs.", "<p> A dog </p> [SEG] runs.",
                            phrases=("A dog",), masks=(mask,), phrase_of=(0,), scores=(0.93,))

Masks are COCO run lengths `{"size": [h, w], "counts": str}` at the size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.conversation_sampler import decode_union
from glamm_jax.data.record import Annotation, Link, Record, Task
from glamm_jax.data.sources.defects import DefectLog, SourceError
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles
from glamm_jax.evaluation.llm_judge import Review, ReviewCase
from glamm_jax.evaluation.published import PaperRow, rows_of_split
from glamm_jax.metrics.gcg import GroundedCaption
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.metrics.similarity import Similarity, WordSimilarity
from glamm_jax.storage import AnyPath
from glamm_jax.text import questions
from glamm_jax.text.special_tokens import REGION, SEG

RunLengths = Mapping[str, Any]
FAILED = "failed"  # `Prediction.finish` where the model could not be run


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one image, with its references.

    Attributes:
        id: unique among all items of a split.
        image_id: of the image; several items may share it.
        record: index of the image in the record source.
        prompt: the question, as in `glamm_jax.inference.chat.Question`.
        history: (question, answer) pairs before the prompt; the answers are reference answers
            (teacher forcing).
        regions: boxes x0 y0 x1 y1 that the prompt refers to, in pixels of the upright image.
        reference_texts: every correct text: captions, descriptions of a region, answers.
        reference_phrases: phrases of the reference, in the order of the text.
        reference_masks: the mask of each phrase. The mask of an expression that refers to several
            objects is their union.
        reference_overlaps: for each reference mask the pixels that its polygons cover twice, or
            None; the original counts them as background. Empty where no mask has any.
        ignored_masks: for each reference mask the pixels that count in no metric, or None. Empty
            where no mask has any.
        metadata: further input of the scores, by name: for a judge the "category" of a
            conversation and the "context" of its image.
        max_tokens: longest answer; None: as configured for the evaluation.
    """

    id: str
    image_id: str
    record: int
    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    regions: tuple[tuple[float, float, float, float], ...] = ()
    reference_texts: tuple[str, ...] = ()
    reference_phrases: tuple[str, ...] = ()
    reference_masks: tuple[RunLengths, ...] = ()
    reference_overlaps: tuple[RunLengths | None, ...] = ()
    ignored_masks: tuple[RunLengths | None, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int | None = None

    def reference_caption(self) -> GroundedCaption:
        """Return the first reference text with the phrases and masks, matched by their order."""
        caption = self.reference_texts[0] if self.reference_texts else ""
        num_phrases = len(self.reference_phrases)
        phrase_of = tuple(i if i < num_phrases else -1 for i in range(len(self.reference_masks)))
        return GroundedCaption(caption, self.reference_phrases, self.reference_masks, phrase_of)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model generated for an item.

    Attributes:
        id: of the item.
        image_id: of its image.
        text: the answer without markup.
        raw: the answer with <p>, </p> and [SEG]; empty where it is not available.
        phrases: the phrases between <p> and </p>, in order.
        masks: one per [SEG], in order, those of the history first.
        phrase_of: for each mask the index of its phrase, -1 for none.
        scores: for each mask `Grounding.score`, the confidence in it; may be empty.
        finish: as `Answer.finish`, or "failed" where the model could not be run.
        problems: what is malformed in the answer, or why the model could not be run.
        run: id of what produced it (`glamm_jax.evaluation.provenance`); "" where that is unknown.
    """

    id: str
    image_id: str
    text: str
    raw: str = ""
    phrases: tuple[str, ...] = ()
    masks: tuple[RunLengths, ...] = ()
    phrase_of: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    finish: str = "end"
    problems: tuple[str, ...] = ()
    run: str = ""

    def grounded_caption(self) -> GroundedCaption:
        """Return the prediction in the form that the metrics of masks take."""
        return GroundedCaption(self.text, self.phrases, self.masks, self.phrase_of, self.scores)


class PromptTemplateError(GLaMMError):
    """A prompt template that cannot be filled in."""


@dataclass(frozen=True)
class PromptTemplate:
    """The wording of a benchmark's questions.

    Attributes:
        text: `{name}` is replaced by an expression, or by a caption with its phrases marked;
            `{regions}` by the references to the boxes, for which `<bbox>` may be written instead.
        forced_answer: the answer to an expression under teacher forcing.
        seed: selects the expressions that are evaluated under teacher forcing.
    """

    text: str
    forced_answer: str = f"Sure, it is {SEG}."
    seed: int = 0

    def format(self, name: str = "", num_regions: int = 0) -> str:
        """Return the question about an expression or about regions.

        Raises:
            PromptTemplateError: the text has braces around anything else.
        """
        try:
            return questions.format_question([self.text], 0, name=name, num_regions=num_regions)
        except (KeyError, ValueError, IndexError) as error:
            raise PromptTemplateError(
                f"the prompt {self.text!r} has braces around something other than name or regions; "
                "write literal braces twice"
            ) from error


@dataclass(frozen=True)
class TextScorers:
    """Scorers of generated text.

    Attributes:
        similarity: of two phrases, for mask recall.
        captions: names of the caption metrics to compute; they need Java.
        review: LLM judge of conversation answers; None: no judge.
    """

    similarity: Similarity = field(default_factory=WordSimilarity)
    captions: Sequence[str] = ()
    review: Callable[[Sequence[ReviewCase]], list[Review]] | None = None


@dataclass
class AnnotatedImages:
    """Items read from annotation files in the layout of the original's evaluation.

    Attributes:
        records: the images, without annotations.
        name: of the data, as in the paper's tables; "" where the split alone identifies it.
        items: about the images.
        notes: kind of a defect -> where it is.
    """

    records: ImageFiles
    name: str = ""
    items: list[Item] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add_defects(self, log: DefectLog) -> None:
        """Add the defects of one image to the notes."""
        for kind, where in log.defects:
            self.notes.setdefault(kind, []).append(where)


# (record, its index, prompt) -> items
ItemsFromRecord = Callable[[Record, int, PromptTemplate], Iterator[Item]]
# (file or folder, split, folder of the images or None, prompt) -> items
ItemsFromAnnotations = Callable[[Path, str, Path | None, PromptTemplate], AnnotatedImages]
Predictions = Mapping[str, Prediction]
# (items, predictions by item id, mode, scorers) -> metrics
Score = Callable[[Sequence[Item], Predictions, Mode, TextScorers], MetricResult]
# (folder, predictions) -> image ids that have no file, as they cannot be its name
Export = Callable[[AnyPath, Sequence[Prediction]], list[str]]


@dataclass(frozen=True)
class Benchmark:
    """Everything that the evaluation has to know about one benchmark.

    Attributes:
        name: on the command line and in files.
        description: what the model has to do, and what the metrics are, in one line.
        splits: of the published data; other data may have other splits.
        original_prompt: template of the original's evaluation, for released checkpoints.
        training_prompt: template of this project's training data.
        items_from_record: makes the items of a record; `refuse_record` where a record has not
            what the benchmark needs.
        items_from_annotations: reads the annotation files of the benchmark's own repository, or
            those that the original's evaluation reads; None: there are none.
        score: computes all metrics in one mode. An item without a prediction is passed on to
            the metrics, which report it.
        export: writes predictions as the original's evaluation does; None: it writes none.
        num_regions: number of boxes that every prompt refers to.
        uses_similarity: whether `score` uses `TextScorers.similarity`.
        uses_captions: whether `score` uses `TextScorers.captions`.
        uses_judge: whether `score` uses `TextScorers.review`.
        in_validation: whether training evaluates it on held-out examples.
        published: rows of the paper's table.
        mode_differences: metric -> how compat and strict differ; for reports.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    original_prompt: str
    training_prompt: str
    items_from_record: ItemsFromRecord
    score: Score
    items_from_annotations: ItemsFromAnnotations | None = None
    export: Export | None = None
    num_regions: int = 0
    uses_similarity: bool = False
    uses_captions: bool = False
    uses_judge: bool = False
    in_validation: bool = False
    published: tuple[PaperRow, ...] = ()
    mode_differences: Mapping[str, str] = field(default_factory=dict)

    def prompt_template(self, prompt: str = "original", seed: int = 0) -> PromptTemplate:
        """Return the template of the benchmark's questions.

        Args:
            prompt: "original", "ours" (`training_prompt`), or the text of a template.
            seed: as in `PromptTemplate`.

        Raises:
            PromptTemplateError: the text has unknown braces, or does not refer to the benchmark's
                number of regions.
        """
        predefined = {"original": self.original_prompt, "ours": self.training_prompt}
        template = PromptTemplate(predefined.get(prompt, prompt), seed=seed)
        num_references = template.format("a name", self.num_regions).count(REGION)
        if num_references != self.num_regions:
            raise PromptTemplateError(
                f"the prompt {template.text!r} refers to {num_references} regions, but "
                f"{self.name} has {self.num_regions}: write {{regions}} or {REGION} once per region"
            )
        return template

    def published_rows(self, split: str) -> list[PaperRow]:
        """Return the paper's rows of a split, GLaMM's first; see `rows_of_split`."""
        return rows_of_split(self.published, split)


def refuse_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Refuse records: for `items_from_record` of a benchmark that is read from its own files only.

    Args:
        record: unused.
        index: unused.
        prompt: unused.

    Raises:
        SourceError: always.
    """
    raise SourceError(
        "this benchmark is read from its own files only; name their folder with --data, without "
        "--dataset"
    )


def annotations_of_task(record: Record, task: Task) -> list[Annotation]:
    """Return the record's annotations of one task."""
    return [annotation for annotation in record.annotations if annotation.task == task]


def union_mask(record: Record, links: Sequence[Link]) -> RunLengths:
    """Return the union of the masks of the linked regions."""
    masks = [record.regions[link.region].mask for link in links]
    if len(masks) == 1 and masks[0] is not None:
        return {"size": [record.height, record.width], "counts": masks[0].decode("ascii")}
    counts = np.zeros((record.height, record.width), np.uint8)
    decode_union(record, links, counts)
    return rle.encode(counts != 0)
