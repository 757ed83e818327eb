"""Turns of conversations in LLaVA's form, and LLaVA's marker of the image.

    [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]

The model always sees the image before the first question, so the marker is removed from it. The
forms {"role": "user" | "assistant", "content": "..."} are read, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glamm_jax.data.sources.defects import BROKEN_ENTRY, DefectLog, quoted
from glamm_jax.data.sources.json_files import as_fields, as_text
from glamm_jax.text.special_tokens import IMAGE_PLACEHOLDER

EXTRA_IMAGE = "image token in a later turn"
SEVERAL_IMAGES = "question about several images"
NO_QUESTION = "answer without a question"
UNANSWERED = "question without an answer"
WRONG_SPEAKER = "wrong speaker"

SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}


def read_turns(items: Sequence[Any], log: DefectLog, where: str) -> list[str]:
    """Return the longest prefix of turns that alternate, from the user's first to an answer.

    Args:
        items: turns with their speakers, from a file.
        log: for defects.
        where: place of the conversation, for defects.
    """
    turns: list[str] = []
    for i, item in enumerate(items):
        place = f"{where}, turn {i}"
        fields = as_fields(item, log, place)
        name = fields.get("from", fields.get("role"))
        speaker = SPEAKERS.get(name) if isinstance(name, str) else None
        if i == 0 and speaker == 1:
            log.add(NO_QUESTION, place)
            continue
        if speaker != len(turns) % 2:
            problem = "human (user) and gpt (assistant) must alternate"
            if name == "system":
                problem = "there is no system prompt in training; remove this turn"
            log.add(WRONG_SPEAKER, f"{place}: {quoted(name)}; {problem}")
            break
        value = fields.get("value", fields.get("content"))
        text = read_turn(value, log, place, is_first=not turns)
        if not text:
            break
        turns.append(text)
    if len(turns) % 2:
        log.add(UNANSWERED, f"{where}: {quoted(turns.pop())}")
    return turns


def read_turn(value: Any, log: DefectLog, where: str, *, is_first: bool) -> str:
    """Return the text of a turn without LLaVA's marker; "" and a defect if it cannot be used.

    Args:
        value: the text, from a file.
        log: for defects.
        where: place of the turn, for defects.
        is_first: whether it is the first question, the only turn that may have the marker.
    """
    if isinstance(value, str) and IMAGE_PLACEHOLDER in value:
        count = value.count(IMAGE_PLACEHOLDER)
        if is_first and count > 1:
            problem = f"{count} times {IMAGE_PLACEHOLDER}; one image is supported"
            log.add(SEVERAL_IMAGES, f"{where}: {problem}")
            return ""
        value = value.replace(IMAGE_PLACEHOLDER, "").strip()
        if not is_first:
            log.add(EXTRA_IMAGE, where)
    return as_text(value, log, where)


def read_text_turns(items: Sequence[Any], log: DefectLog, where: str) -> list[str]:
    """Return the turns of a list of texts; none and a defect if one of them cannot be used.

    Args:
        items: texts, the user's first, the assistant's last; from a file.
        log: for defects.
        where: place of the conversation, for defects.
    """
    if not items or len(items) % 2:
        problem = f"{len(items)} turns; the first must be the user's, the last the assistant's"
        log.add(BROKEN_ENTRY, f"{where}: {problem}")
        return []
    turns = [read_turn(item, log, f"{where}[{i}]", is_first=i == 0) for i, item in enumerate(items)]
    return turns if all(turns) else []
