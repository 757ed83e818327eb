"""The requests to the language model: dense caption, feedback, checklist, additional context.

    prompts = default_prompts()
    messages = prompts.caption("Foreground:\\nGroup 0: dog")
    messages[-1].text.endswith("Group 0: dog")
    parse_request(messages, prompts)    # ParsedRequest("caption", "Foreground:...", ...)

The texts are in `data/prompts.toml`, in our own words; the paper and the released code have others.
A conversation is the instruction, the examples as questions and answers, and the request, which
ends with what it is about: a graph, or a caption.

Source: glamm-paper.txt, sections 4.3 and 4.4.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.lexicon import read_data
from glamm_jax.grand.roles import ChatMessage

Messages = tuple[ChatMessage, ...]
RequestKind = Literal["caption", "feedback", "checklist", "context"]
MAX_BYTES = 1 << 20  # of a file of prompts
_MISSING_LINE = "- "


class PromptTextError(GLaMMError):
    """A file of prompts cannot be used."""


class ParsedRequest(NamedTuple):
    """A request as `parse_request` understands it.

    Attributes:
        kind: what is asked for.
        subject: the text of the graph; for a checklist the caption.
        missing: in feedback, what the caption named and the graph lacks.
    """

    kind: RequestKind
    subject: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptTexts:
    """The texts of all requests.

    Attributes:
        version: of the texts, as their file says.
        fingerprint: of version and texts.
        marker: what the lines of a checklist begin with.
        caption_examples: messages before a request for a caption.
        caption_request: first part of a request for a caption.
        feedback_request: the same with a place for what is missing.
        checklist_examples: messages before a request for a checklist.
        checklist_request: first part of a request for a checklist.
        context_examples: messages before a request for additional context.
        context_request: first part of a request for additional context.
    """

    version: str
    fingerprint: str
    marker: str
    caption_examples: Messages
    caption_request: str
    feedback_request: str
    checklist_examples: Messages
    checklist_request: str
    context_examples: Messages
    context_request: str

    def caption(self, graph: str) -> Messages:
        """Return the request for the dense caption of a graph."""
        return (*self.caption_examples, ChatMessage("user", self.caption_request + graph))

    def feedback(self, graph: str, caption: str, missing: tuple[str, ...]) -> Messages:
        """Return the request for another caption.

        Args:
            graph: text of the scene graph.
            caption: the last answer.
            missing: what it names and the graph lacks.
        """
        lines = "\n".join(_MISSING_LINE + phrase for phrase in missing)
        request = self.feedback_request.replace("{missing}", lines, 1)
        return (
            *self.caption(graph),
            ChatMessage("assistant", caption),
            ChatMessage("user", request + graph),
        )

    def checklist(self, caption: str) -> Messages:
        """Return the request for the objects that a caption implies."""
        return (*self.checklist_examples, ChatMessage("user", self.checklist_request + caption))

    def context(self, graph: str) -> Messages:
        """Return the request for additional context about the objects of a graph."""
        return (*self.context_examples, ChatMessage("user", self.context_request + graph))


def read_prompts(path: Path) -> PromptTexts:
    """Read the texts of a file in the form of `data/prompts.toml`.

    Raises:
        PromptTextError: it cannot be read, or lacks a text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PromptTextError(f"{path}: more than {MAX_BYTES} bytes")
        data = path.read_bytes()
        values = tomllib.loads(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PromptTextError(f"{path}: {error}") from error
    return _prompt_texts(values, hashlib.sha256(data).hexdigest()[:16], str(path))


@cache
def default_prompts() -> PromptTexts:
    """Return the texts of this library."""
    values, digest = read_data("prompts.toml")
    return _prompt_texts(values, digest, "prompts.toml")


def parse_request(messages: Messages, prompts: PromptTexts) -> ParsedRequest:
    """Find out what a conversation asks for; for models that do not read the instructions.

    Raises:
        PromptTextError: it is no request of these prompts.
    """
    text = messages[-1].text if messages else ""
    before, after = prompts.feedback_request.split("{missing}", 1)
    if text.startswith(before):
        # Neither a missing phrase nor a graph contains the text between them.
        lines, separator, graph = text[len(before) :].partition(after)
        if separator:
            missing = [line.removeprefix(_MISSING_LINE) for line in lines.split("\n")]
            return ParsedRequest("feedback", graph, tuple(missing))
    requests: tuple[tuple[RequestKind, str], ...] = (
        ("caption", prompts.caption_request),
        ("checklist", prompts.checklist_request),
        ("context", prompts.context_request),
    )
    for kind, request in requests:
        if text.startswith(request):
            return ParsedRequest(kind, text[len(request) :])
    raise PromptTextError(f"not a request of these prompts: {text[:80]!r}")


def _prompt_texts(values: dict[str, Any], digest: str, where: str) -> PromptTexts:
    version = _text(values, where, "version")
    marker = _text(values, where, "checklist", "marker")
    feedback = _request(values, where, "caption", "feedback")
    checklist = _request(values, where, "checklist", "request")
    if feedback.count("{missing}") != 1:
        raise PromptTextError(f"{where}: caption.feedback needs the placeholder {{missing}} once")
    if "{marker}" not in checklist:
        raise PromptTextError(f"{where}: checklist.request needs the placeholder {{marker}}")
    caption = _request(values, where, "caption", "request")
    checklist = checklist.replace("{marker}", marker)
    context = _request(values, where, "context", "request")
    return PromptTexts(
        version=version,
        fingerprint=f"prompts-{version}-{digest}",
        marker=marker,
        caption_examples=_examples(values, where, "caption", ("graph", "caption"), caption),
        caption_request=caption,
        feedback_request=feedback,
        checklist_examples=_examples(
            values, where, "checklist", ("caption", "answer"), checklist, marker
        ),
        checklist_request=checklist,
        context_examples=_examples(values, where, "context", ("graph", "caption"), context),
        context_request=context,
    )


def _text(values: dict[str, Any], where: str, *path: str) -> str:
    value: Any = values
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise PromptTextError(f"{where}: {'.'.join(path)} is not a text")
    return value


def _request(values: dict[str, Any], where: str, *path: str) -> str:
    """Return a text whose lines are joined where they are broken for the file alone."""
    return _unwrapped(_text(values, where, *path))


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph; a line after one that ends with a colon stays a line.

    A numbered line, a placeholder alone and what follows it stay lines as well.
    """
    result = ""
    for line in text.split("\n"):
        last = result.rpartition("\n")[2]
        is_joined = (
            bool(last.strip())
            and bool(line.strip())
            and not last.endswith(":")
            and last != "{missing}"
            and not line[0].isdigit()
            and line != "{missing}"
        )
        result += (" " if is_joined else "\n" if result else "") + line
    return result


def _examples(
    values: dict[str, Any],
    where: str,
    section: str,
    names: tuple[str, str],
    request: str,
    marker: str | None = None,
) -> Messages:
    """Return the instruction and the examples; with a marker, lines that begin with it stay."""
    messages = [ChatMessage("system", _request(values, where, section, "system").strip())]
    examples = values[section].get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(x, dict) for x in examples):
        raise PromptTextError(f"{where}: {section}.examples is not a list of tables")
    for k, example in enumerate(examples):
        question, answer = (
            _text(example, f"{where}: {section}.examples[{k}]", name).strip() for name in names
        )
        if marker is None:
            answer = answer.replace("\n", " ")
        else:
            question = question.replace("\n", " ")
            thought, line_marker, lines = answer.partition(f"\n{marker}")
            answer = thought.replace("\n", " ") + line_marker + lines
        messages += [ChatMessage("user", request + question), ChatMessage("assistant", answer)]
    return tuple(messages)
