"""Level 4: additional context; and the complete annotations of an image.

    scene_graph -> context
    masks, context -> annotations
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from glamm_jax.grand.levels.sections import read_record, record_section
from glamm_jax.grand.prompts import PromptTexts
from glamm_jax.grand.roles import RoleError, TextLLM
from glamm_jax.grand.scene_graph import add_context
from glamm_jax.grand.stages import Stage, StageImage
from glamm_jax.grand.verification import VerificationOptions, write_contexts

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
    return Stage(
        name=ANNOTATIONS, inputs=("masks",), optional_inputs=optional, process=_complete
    )


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
