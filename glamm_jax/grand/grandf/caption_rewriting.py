"""Captions by a language model that contain given texts word for word.

    tasks = [RewriteTask("7", "refcocog", ("a red car", "the tall man"), ("A street.",))]
    rewritten = rewrite_captions(tasks, llm)
    rewritten[0].caption, rewritten[0].missing      # "A red car stands ...", ()

An answer that cannot be used as a caption is requested again with another seed; one that lacks a
text, with the list of what it lacks. What is asked about one task depends on its own answers alone.

Source: glamm-paper.txt, figure 14. The paper does not say how answers were checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from glamm_jax.grand.answer_checks import TextLimits, clean_answer, find_problem
from glamm_jax.grand.lexicon import read_data
from glamm_jax.grand.prompts import Messages
from glamm_jax.grand.roles import ChatMessage, LLMRequest, RoleError, TextLLM
from glamm_jax.grand.verification import LLMOutputError, attempt_seed

RewriteKind = Literal["refcocog", "psg"]
LIMITS = TextLimits(min_words=2, max_words=250, max_sentences=30)
PROMPTS_FILE = "grandf_prompts.toml"
HEADINGS: dict[RewriteKind, str] = {"refcocog": "Phrases:", "psg": "Relations:"}
MAX_CAPTIONS = 5  # of a task that the model gets
# A numbered thing: "dog-1", "wall-other-merged-2".
ENTITY = re.compile(r"(?<![\w-])[A-Za-z][\w-]*-\d+(?![\w-])")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class RewriteTask:
    """What a caption is made of.

    Attributes:
        key: of the image; seeds are made of it.
        kind: which prompt is used.
        statements: phrases, or relations as "SUBJECT, PREDICATE, OBJECT".
        captions: that people wrote.
    """

    key: str
    kind: RewriteKind
    statements: tuple[str, ...]
    captions: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """What the caption must contain: the phrases, or the things of the relations."""
        if self.kind == "refcocog":
            return self.statements
        names = (name for x in self.statements for name in ENTITY.findall(x))
        return tuple(dict.fromkeys(names))

    @property
    def request(self) -> str:
        """The part of the request that differs between tasks."""
        lines = [HEADINGS[self.kind], *(f"- {text}" for text in self.statements)]
        captions = [_SPACES.sub(" ", text).strip() for text in self.captions[:MAX_CAPTIONS]]
        if captions:
            lines += ["", "Captions:", *(f"- {text}" for text in captions)]
        return "\n".join(lines)


@dataclass(frozen=True)
class RewriteOptions:
    """How often the model is asked.

    Attributes:
        max_rounds: answers that are compared with what they must contain.
        max_retries: more requests in a round after an answer that is no caption.
    """

    max_rounds: int = 4
    max_retries: int = 3


DEFAULTS = RewriteOptions()


@dataclass(frozen=True)
class RewrittenCaption:
    """The caption of a task.

    Attributes:
        caption: None if no answer could be used.
        missing: what it must contain and does not.
        num_requests: to the model.
        problem: why there is no caption.
        failed: whether the model failed, so that the task should be tried again.
    """

    caption: str | None
    missing: tuple[str, ...] = ()
    num_requests: int = 0
    problem: str | None = None
    failed: bool = False


@dataclass
class _State:
    task: RewriteTask
    messages: Messages
    best: str | None = None
    missing: tuple[str, ...] = ()
    num_requests: int = 0
    problem: str | None = None
    failed: bool = False
    is_open: bool = True
    unusable: int = field(default=0)  # answers in this round


def rewrite_captions(
    tasks: Sequence[RewriteTask], llm: TextLLM, options: RewriteOptions = DEFAULTS
) -> list[RewrittenCaption]:
    """Write a caption for each task.

    Args:
        tasks: of the captions.
        llm: the model.
        options: how often it is asked.

    Returns:
        One result for each task, in order. Of several answers that lack something, the first one
        that lacks least counts.

    Raises:
        LLMOutputError: the model returned too few or too many results.
    """
    states = [_State(task, _request(task)) for task in tasks]
    for _ in range(options.max_rounds):
        for state in states:
            state.unusable = 0
        waiting = [state for state in states if state.is_open]
        for _ in range(1 + options.max_retries):
            if not waiting:
                break
            waiting = _ask(waiting, llm)
        for state in waiting:
            state.is_open = False  # nothing but unusable answers
    return [
        RewrittenCaption(
            state.best,
            state.missing if state.best is not None else state.task.required,
            state.num_requests,
            None if state.best is not None else state.problem,
            state.failed and state.best is None,
        )
        for state in states
    ]


def _ask(states: Sequence[_State], llm: TextLLM) -> list[_State]:
    """Send a request for each; return those whose answer is no caption."""
    requests = [
        LLMRequest(
            state.task.key,
            state.messages,
            attempt_seed(state.task.key, f"grandf {state.task.kind}", state.num_requests),
        )
        for state in states
    ]
    answers = llm(requests)
    if len(answers) != len(requests):
        raise LLMOutputError(f"{len(requests)} requests, {len(answers)} answers of {llm.name}")
    unusable = []
    for state, answer in zip(states, answers, strict=True):
        state.num_requests += 1
        state.failed = isinstance(answer, RoleError)
        if isinstance(answer, RoleError):
            state.problem = answer.message
            unusable.append(state)
            continue
        text = _SPACES.sub(" ", clean_answer(answer.text)).strip()
        problem = find_problem(text, answer.finish_reason, LIMITS)
        if problem is not None:
            state.problem = problem
            unusable.append(state)
            continue
        missing = missing_texts(state.task, text)
        if state.best is None or len(missing) < len(state.missing):
            state.best, state.missing = text, missing
        state.is_open = bool(missing)
        if missing:
            state.messages = (*_request(state.task), *_feedback(state.task, text, missing))
    return unusable


def missing_texts(task: RewriteTask, caption: str) -> tuple[str, ...]:
    """Return what a caption must contain and does not, and numbered things that do not exist.

    Args:
        task: of the caption.
        caption: the text.
    """
    if task.kind == "refcocog":
        return tuple(text for text in task.required if not find_phrase(caption, text))
    present = {name.lower() for name in ENTITY.findall(caption)}
    absent = [name for name in task.required if name.lower() not in present]
    required = {name.lower() for name in task.required}
    return (*absent, *sorted(name for name in present if name not in required))


def find_phrase(caption: str, phrase: str) -> list[tuple[int, int]]:
    """Return the spans of a phrase in a caption, as complete words in any case.

    Args:
        caption: the text.
        phrase: to be found.
    """
    pattern = r"(?<!\w)" + re.escape(phrase) + r"(?!\w)"
    return [match.span() for match in re.finditer(pattern, caption, re.IGNORECASE)]


def request_digest(task: RewriteTask) -> str:
    """Return a hash of the request; it changes with the task and with the prompts."""
    text = "\0".join(f"{role}\0{text}" for role, text in _request(task))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _request(task: RewriteTask) -> Messages:
    start, request, _ = _prompt(task.kind)
    return (*start, ChatMessage("user", f"{request}\n\n{task.request}"))


def _feedback(task: RewriteTask, answer: str, missing: Sequence[str]) -> Messages:
    lines = "\n".join(f"- {text}" for text in missing)
    text = f"{_prompt(task.kind)[2].replace('{missing}', lines, 1)}\n\n{task.request}"
    return ChatMessage("assistant", answer), ChatMessage("user", text)


@cache
def _prompt(kind: RewriteKind) -> tuple[Messages, str, str]:
    """Return the messages before a request, the request, and the feedback."""
    values, _ = read_data(PROMPTS_FILE)
    section: dict[str, Any] = values[kind]
    request = _joined(section["request"])
    messages = [ChatMessage("system", _joined(section["system"]))]
    for example in section["examples"]:
        messages.append(ChatMessage("user", f"{request}\n\n{example['question'].strip()}"))
        messages.append(ChatMessage("assistant", _joined(example["answer"])))
    before, after = section["feedback"].split("{missing}")
    return tuple(messages), request, f"{_joined(before)}\n{{missing}}\n{_joined(after)}"


def _joined(text: str) -> str:
    """Join lines that are broken for the file alone."""
    return _SPACES.sub(" ", text).strip()
