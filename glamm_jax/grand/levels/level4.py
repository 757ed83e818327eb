"""Level 4: additional context; and the complete annotations of an image.

scene_graph -> context
masks, context -> annotations
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from glamm_jax.grand.graph_facts import GraphText
from glamm_jax.grand.levels.level3 import read_graph
from glamm_jax.grand.levels.sections import read_record, record_section
from glamm_jax.grand.prompts import PromptTexts
from glamm_jax.grand.roles import TextLLM
from glamm_jax.grand.scene_graph import add_context
from glamm_jax.grand.stages import Stage, StageImage
from glamm_jax.grand.verification import ContextResult, VerificationOptions, write_contexts

ANNOTATIONS = "annotations"


def context_stage(llm: TextLLM, prompts: PromptTexts, options: VerificationOptions) -> Stage:
    """Return the stage that writes the additional context.

    Args:
        llm: writes it.
        prompts: of all requests.
        options: number of retries.
    """
    return Stage(
        name="context",
        inputs=("scene_graph",),
        settings={"verification": options, "prompts": prompts.fingerprint},
        roles=(llm,),
        process=partial(_write, llm=llm, prompts=prompts, options=options),
    )


def annotation_stage(has_context: bool) -> Stage:
    """Return the stage that writes the complete annotations."""
    optional = ("context",) if has_context else ()
    return Stage(name=ANNOTATIONS, inputs=("masks",), optional_inputs=optional, process=_complete)


def _write(
    images: Sequence[StageImage], llm: TextLLM, prompts: PromptTexts, options: VerificationOptions
) -> list[Any]:
    graphs = [_context_graph(image) for image in images]
    usable = [graph for graph in graphs if graph is not None]
    written = iter(write_contexts(usable, llm, options, prompts))
    sections: list[Any] = []
    for graph in graphs:
        result = ContextResult(None) if graph is None else next(written)
        if result.text is None and result.error is not None:
            sections.append(result.error)
        else:
            sections.append({"text": result.text, "attempts": len(result.attempts)})
    return sections


def _context_graph(image: StageImage) -> GraphText | None:
    section = image.sections["scene_graph"]
    assert section is not None
    if section["text"] is None or section["context"] is None:
        return None
    return replace(read_graph(image.image_id, section), text=section["context"])


def _complete(images: Sequence[StageImage]) -> list[Any]:
    sections = []
    for image in images:
        record = image.parse("masks", read_record)
        context = image.sections.get("context")
        assert record is not None
        if context is not None and context["text"] is not None:
            record = add_context(record, context["text"])
        sections.append(record_section(record))
    return sections
