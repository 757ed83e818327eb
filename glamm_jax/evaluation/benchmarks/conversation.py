"""The benchmark `conversation`: answers that a language model judges, on LLaVA-Bench; table 8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from glamm_jax.data.record import Record
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Predictions,
    PromptTemplate,
    TextScorers,
    annotations_of_task,
)
from glamm_jax.evaluation.benchmarks.generated_text import CAPTION_MODE_DIFFERENCES, score_texts
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles, read_json_lines
from glamm_jax.evaluation.llm_judge import ReviewCase, score_reviews
from glamm_jax.evaluation.published import PaperTable
from glamm_jax.metrics.result import MetricResult, Mode

FILES = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
LAYOUT = f"LLaVA-Bench has {', '.join(FILES)} and images/"
DEFAULT_CATEGORY = "conversation"


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make an item of every question, after the reference answers to the questions before it.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: unused; the questions are those of the record.
    """
    for k, annotation in enumerate(annotations_of_task(record, "vqa")):
        pairs = [*zip(annotation.turns[::2], annotation.turns[1::2], strict=True)]
        for turn, (question, answer) in enumerate(pairs):
            yield Item(
                f"{record.image_id}/{k}/{turn}",
                record.image_id,
                index,
                question,
                history=tuple(pairs[:turn]),
                reference_texts=(answer,),
            )


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read LLaVA-Bench: questions, descriptions of the images for the judge, answers of GPT-4.

    Args:
        path: folder of questions.jsonl, context.jsonl and answers_gpt4.jsonl.
        split: unused; all questions are read.
        images: folder of the images; None: `path`/images.
        prompt: unused; the questions are those of the file.

    Raises:
        SourceError: a file is missing or has another layout.
    """
    questions, contexts, answers = ([*read_json_lines(path / name, LAYOUT)] for name in FILES)
    try:
        context_of = {entry["image"]: entry["caption"] for entry in contexts}
        answer_of = {str(entry["question_id"]): entry["text"] for entry in answers}
        names = list(dict.fromkeys(entry["image"] for entry in questions))
        result = AnnotatedImages(ImageFiles(images or path / "images", names, names))
        for entry in questions:
            item_id, name = str(entry["question_id"]), entry["image"]
            metadata = {"category": entry["category"], "context": context_of.get(name, "")}
            result.items.append(
                Item(
                    item_id,
                    name,
                    names.index(name),
                    entry["text"],
                    reference_texts=(answer_of[item_id],) if item_id in answer_of else (),
                    metadata=metadata,
                )
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: not in the layout of LLaVA-Bench: {error!r}") from error
    return result


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute the judge's scores of the answers relative to the references.

    Without a judge, compute the metrics of `score_texts`.

    Args:
        items: to be scored.
        predictions: by item id.
        mode: of counting.
        scorers: with the judge.
    """
    if scorers.review is None:
        return score_texts(items, predictions, mode, scorers)
    cases = [
        ReviewCase(
            item.id,
            item.metadata.get("category", DEFAULT_CATEGORY),
            item.prompt,
            item.metadata.get("context", ""),
            item.reference_texts[0] if item.reference_texts else "",
            predictions[item.id].text if item.id in predictions else "",
        )
        for item in items
    ]
    return score_reviews(cases, scorers.review(cases), mode)


# Appendix A.3: fine-tuned on LLaVA's instructions, which are not the benchmark's questions.
TABLE = PaperTable(
    8,
    ("",),  # all of LLaVA-Bench (in the wild), under any name
    ("relative score",),
    (
        ("GLaMM (Vicuna-7B)", "fine-tuned", "63.3"),
        ("LLaVA-1.5 (Vicuna-7B)", "unspecified", "63.4"),
        ("Qwen-VL-Chat (Qwen-7B)", "unspecified", "58.6"),
        ("Qwen-VL (Qwen-7B)", "unspecified", "63.4"),
        ("InstructBLIP (Vicuna-7B)", "unspecified", "60.9"),
        ("BLIP-2 (Vicuna-13B)", "unspecified", "38.1"),
    ),
)

CONVERSATION = Benchmark(
    name="conversation",
    description="questions whose answers a language model judges",
    splits=("val", "test"),
    original_prompt="",
    training_prompt="",
    items_from_record=items_from_record,
    items_from_annotations=items_from_annotations,
    score=score,
    uses_judge=True,
    published=TABLE.rows(),
    mode_differences={
        **CAPTION_MODE_DIFFERENCES,
        "relative score": "compat: a malformed review counts -1 for both; strict leaves it out",
    },
)
