"""Dense captions and additional context by a language model, checked and verified.

    results = write_dense_captions(graphs, llm, checker)
    results[0].caption, results[0].verified     # "Two dogs ...", True
    results[0].attempts                         # all answers, with what was wrong with them

In a round the model answers until an answer passes `answer_checks`; then the checker lists the
objects that the caption implies, and those that the scene graph lacks are the feedback for the next
round. All images of a batch go through the rounds together, but what is asked about one depends on
its own answers alone, and seeds are made of image, stage and attempt: a result does not depend on
the other images of the batch.

Source: glamm-paper.txt section 4.3, "Dense Captioning Verification"; the released code has only the
first request (`RELEASED`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.answer_checks import (
    CAPTION_LIMITS,
    CHECKS_VERSION,
    CONTEXT_LIMITS,
    TextLimits,
    clean_answer,
    find_problem,
    word_runs,
)
from glamm_jax.grand.graph_facts import GraphText
from glamm_jax.grand.phrase_matching import KnownObjects, matching_tables, named_objects
from glamm_jax.grand.prompts import Messages, PromptTexts, default_prompts
from glamm_jax.grand.record import CaptionAttempt
from glamm_jax.grand.roles import (
    LLMAnswer,
    LLMRequest,
    ParsedText,
    RoleError,
    TextLLM,
    TextParser,
)
from glamm_jax.grand.template_caption import template_caption
from glamm_jax.grand.text_parser import RuleParser, TextParserError

Checklist = tuple[str, ...]
VERIFICATION_VERSION = "2"  # changes with the rules of this file
DENSE_STAGE, CHECKLIST_STAGE, CONTEXT_STAGE = "dense_caption", "checklist", "context"
MAX_CHECKLIST = 100  # lines that are read
MAX_PHRASE = 200  # characters of a line that are read
_LIST_MARK = re.compile(r"\s*(?:[-*+\u2022]\s*|\d{1,3}[.)]\s*)?[*_`]*")
_TRIMMED = " \t\r\"'`*_.,;:\u201c\u201d\u2018\u2019"
_NOTHING = frozenset(["none", "nothing", "no objects", "no object", "n/a"])


class LLMOutputError(GLaMMError):
    """A language model returned another number of results than it was asked for."""


@dataclass(frozen=True)
class VerificationOptions:
    """How much is done to get captions and contexts that can be used, and are true to the graph.

    Attributes:
        enabled: False is the released code: the first answer counts if it is complete, there are
            no checks, no second request and no verification.
        max_retries: more requests in a round after an answer that cannot be used.
        max_rounds: answers that are verified; 0: none is.
        use_template: whether a caption is made of the graph if the model has none.
        add_rules: whether the objects that rules find in a caption are added to the checker's
            list; a small model's list has a part of them.
        match_colours: whether a red car is missing if all cars of the graph are blue.
        caption_limits: of the length of captions.
        context_limits: of the length of contexts.
    """

    enabled: bool = True
    max_retries: int = 3
    max_rounds: int = 3
    use_template: bool = True
    add_rules: bool = True
    match_colours: bool = True
    caption_limits: TextLimits = CAPTION_LIMITS
    context_limits: TextLimits = CONTEXT_LIMITS


PAPER = VerificationOptions()
RELEASED = VerificationOptions(enabled=False, use_template=False)


@dataclass(frozen=True)
class DenseCaptionResult:
    """The dense caption of one image.

    Attributes:
        caption: None if there is none.
        source: who wrote it.
        attempts: all answers, in order.
        accepted: index of the attempt that is the caption; None for a template and for none.
        verified: whether the caption names nothing that the graph lacks; None: not verified.
        error: of the model, if no answer could be used and the last one was an error.
    """

    caption: str | None
    source: Literal["llm", "template"] | None
    attempts: tuple[CaptionAttempt, ...] = ()
    accepted: int | None = None
    verified: bool | None = None
    error: RoleError | None = None


@dataclass(frozen=True)
class ContextResult:
    """The additional context of one image.

    Attributes:
        text: None if no answer could be used.
        attempts: all answers, the accepted one last.
        error: of the model, if no answer could be used and the last one was an error.
    """

    text: str | None
    attempts: tuple[CaptionAttempt, ...] = ()
    error: RoleError | None = None


@dataclass
class _Progress:
    """What has happened about one image.

    Attributes:
        image_id: of the image.
        messages: the next request.
        attempts: all answers so far.
        accepted: index of the best attempt that can be used.
        error: the last answer, if it was an error.
        is_open: whether there is more to be asked.
    """

    image_id: str
    messages: Messages
    attempts: list[CaptionAttempt] = field(default_factory=list)
    accepted: int | None = None
    error: RoleError | None = None
    is_open: bool = True


def verification_fingerprint(
    prompts: PromptTexts | None = None, parser: TextParser | None = None
) -> str:
    """Return what results depend on beside options and models: prompts, tables, rules."""
    prompts = default_prompts() if prompts is None else prompts
    parser = RuleParser() if parser is None else parser
    parts = (VERIFICATION_VERSION, CHECKS_VERSION, prompts.fingerprint, parser.fingerprint)
    return "|".join((*parts, matching_tables().fingerprint))


def attempt_seed(image_id: str, stage: str, attempt: int) -> int:
    """Return the seed of a request, in 31 bits.

    Args:
        image_id: of the image.
        stage: name of the stage.
        attempt: number of the request about this image in this stage.
    """
    key = f"{image_id}\0{stage}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1


def parse_checklist(text: str, marker: str) -> Checklist | None:
    """Return the phrases of a checklist.

    Args:
        text: the answer: some reasoning, then lines that begin with the marker.
        marker: what they begin with; list marks before it and its case are ignored.

    Returns:
        The phrases without the marker, each once; () if the checklist says that there are none;
        None if no line has the marker.
    """
    phrases: dict[str, None] = {}
    is_empty = True
    for line in text.split("\n"):
        mark = _LIST_MARK.match(line)
        rest = line[mark.end() if mark else 0 :]
        if rest[: len(marker)].lower() != marker.lower():
            continue
        is_empty = False
        phrase = " ".join(rest[len(marker) :][:MAX_PHRASE].split()).strip(_TRIMMED)
        if phrase and phrase.lower() not in _NOTHING and len(phrases) < MAX_CHECKLIST:
            phrases.setdefault(phrase)
    return None if is_empty else tuple(phrases)


def rule_checklists(captions: Sequence[str], parser: TextParser) -> list[Checklist]:
    """Return the objects that each caption names, by rules; for answers that are no checklist."""
    checklists: list[Checklist] = []
    for caption, parsed in zip(captions, parser(captions), strict=True):
        phrases: dict[str, None] = {}
        if isinstance(parsed, ParsedText):
            try:
                for item in named_objects(caption, parsed):
                    phrases.setdefault(caption[item.start : item.end])
            except TextParserError:
                phrases.clear()
        checklists.append(tuple(phrases))
    return checklists


def write_dense_captions(
    graphs: Sequence[GraphText],
    llm: TextLLM,
    checker: TextLLM | None = None,
    options: VerificationOptions = PAPER,
    prompts: PromptTexts | None = None,
    parser: TextParser | None = None,
) -> list[DenseCaptionResult]:
    """Write a dense caption for each graph. A graph without objects gets none.

    Args:
        graphs: of the images.
        llm: writes the captions.
        checker: writes the checklists, possibly the same model; None: they are made by rules.
        options: of checks and verification.
        prompts: None: those of this library.
        parser: of captions and of what the graphs say; None: `RuleParser`.

    Returns:
        One result for each graph, in order.

    Raises:
        LLMOutputError: a model returned too few or too many results.
    """
    prompts = default_prompts() if prompts is None else prompts
    parser = RuleParser() if parser is None else parser
    states = [_Progress(graph.image_id, prompts.caption(graph.text)) for graph in graphs]
    for state, graph in zip(states, graphs, strict=True):
        state.is_open = bool(graph.entries)
    ask = _Requests(
        llm, DENSE_STAGE, options, options.caption_limits, _fixed_runs(prompts, DENSE_STAGE)
    )
    ask(states)
    if options.enabled and options.max_rounds > 0:
        graph_objects: dict[int, KnownObjects] = {}
        for round_number in range(options.max_rounds):
            is_last = round_number + 1 == options.max_rounds
            _verify(states, graphs, graph_objects, checker, options, prompts, parser)
            if is_last or not any(state.is_open for state in states):
                break
            ask(states)
    return [
        _dense_result(state, graph, options, parser)
        for state, graph in zip(states, graphs, strict=True)
    ]


def write_contexts(
    graphs: Sequence[GraphText],
    llm: TextLLM,
    options: VerificationOptions = PAPER,
    prompts: PromptTexts | None = None,
) -> list[ContextResult]:
    """Write additional context for each graph; `text` of a graph is that of level 4.

    Args:
        graphs: of the images; one without objects gets no context.
        llm: writes the contexts.
        options: of the checks.
        prompts: None: those of this library.

    Returns:
        One result for each graph, in order.

    Raises:
        LLMOutputError: the model returned too few or too many results.
    """
    prompts = default_prompts() if prompts is None else prompts
    states = [_Progress(graph.image_id, prompts.context(graph.text)) for graph in graphs]
    for state, graph in zip(states, graphs, strict=True):
        state.is_open = bool(graph.entries)
    limits, fixed_runs = options.context_limits, _fixed_runs(prompts, CONTEXT_STAGE)
    _Requests(llm, CONTEXT_STAGE, options, limits, fixed_runs)(states)
    return [
        ContextResult(
            None if state.accepted is None else state.attempts[state.accepted].text,
            tuple(state.attempts),
            state.error if state.accepted is None else None,
        )
        for state in states
    ]


class _Requests:
    """Asks a model about all open images, and again where the answer cannot be used."""

    def __init__(
        self,
        llm: TextLLM,
        stage: str,
        options: VerificationOptions,
        limits: TextLimits,
        fixed_runs: frozenset[tuple[str, ...]],
    ) -> None:
        self._llm = llm
        self._stage = stage
        self._options = options
        self._limits = limits
        self._fixed_runs = fixed_runs

    def __call__(self, states: Sequence[_Progress]) -> None:
        """Add attempts until the last one of each open image can be used; close the others."""
        waiting = [state for state in states if state.is_open]
        for _ in range(1 + (self._options.max_retries if self._options.enabled else 0)):
            if not waiting:
                return
            requests = [
                LLMRequest(
                    state.image_id,
                    state.messages,
                    attempt_seed(state.image_id, self._stage, len(state.attempts)),
                )
                for state in waiting
            ]
            again = []
            for state, answer in zip(waiting, _answers(self._llm, requests), strict=True):
                if not self._add(state, answer):
                    again.append(state)
            waiting = again
        for state in waiting:
            state.is_open = False

    def _add(self, state: _Progress, answer: LLMAnswer | RoleError) -> bool:
        """Add an answer; whether it can be used."""
        if isinstance(answer, RoleError):
            state.error = answer
            problem = f"{answer.kind} error: {answer.message}"
            state.attempts.append(CaptionAttempt("", "error", problem))
            return False
        state.error = None
        if self._options.enabled:
            text = clean_answer(answer.text)
            problem = find_problem(text, answer.finish_reason, self._limits, self._fixed_runs)
        else:
            text = answer.text.strip()
            problem = None if answer.finish_reason == "stop" else "not finished"
        state.attempts.append(CaptionAttempt(text, answer.finish_reason, problem))
        if problem is None and state.accepted is None:
            state.accepted = len(state.attempts) - 1
        return problem is None


def _answers(llm: TextLLM, requests: list[LLMRequest]) -> list[LLMAnswer | RoleError]:
    answers = list(llm(requests))
    if len(answers) != len(requests):
        raise LLMOutputError(f"{llm.name}: {len(answers)} results for {len(requests)} requests")
    return [_checked(answer) for answer in answers]


def _checked(answer: object) -> LLMAnswer | RoleError:
    if isinstance(answer, LLMAnswer):
        if isinstance(answer.text, str) and isinstance(answer.finish_reason, str):
            return answer
    elif isinstance(answer, RoleError):
        return answer
    return RoleError("output", f"{type(answer).__name__} is not an answer")


@cache
def _fixed_runs(prompts: PromptTexts, stage: str) -> frozenset[tuple[str, ...]]:
    """Return the runs of words that all requests of a stage have in common."""
    is_context = stage == CONTEXT_STAGE
    messages = prompts.context("") if is_context else prompts.caption("")
    texts = [message.text for message in messages]
    if not is_context:
        texts.append(prompts.feedback_request)
    return frozenset[tuple[str, ...]]().union(*map(word_runs, texts))


def _verify(
    states: Sequence[_Progress],
    graphs: Sequence[GraphText],
    graph_objects: dict[int, KnownObjects],
    checker: TextLLM | None,
    options: VerificationOptions,
    prompts: PromptTexts,
    parser: TextParser,
) -> None:
    """Compare the last attempt of each open image with its graph, and prepare the next request."""
    indices = [k for k, state in enumerate(states) if state.is_open]
    captions = [states[k].attempts[-1].text for k in indices]
    checklists = _checklists(
        [states[k] for k in indices], captions, checker, options.add_rules, prompts, parser
    )
    for k, caption, checklist in zip(indices, captions, checklists, strict=True):
        state, graph = states[k], graphs[k]
        if k not in graph_objects:
            graph_objects[k] = KnownObjects(graph, parser, use_colours=options.match_colours)
        missing = graph_objects[k].missing(checklist)
        last = len(state.attempts) - 1
        state.attempts[last] = CaptionAttempt(
            caption, state.attempts[last].finish_reason, None, checklist, missing
        )
        best = last if state.accepted is None else state.accepted
        # Of attempts that name equally much that is missing, the last one is accepted.
        if len(missing) <= len(state.attempts[best].missing) or best == last:
            state.accepted = last
        state.is_open = bool(missing)
        if missing:
            state.messages = prompts.feedback(graph.text, caption, missing)


def _checklists(
    states: Sequence[_Progress],
    captions: Sequence[str],
    checker: TextLLM | None,
    add_rules: bool,
    prompts: PromptTexts,
    parser: TextParser,
) -> list[Checklist]:
    """Return the objects that each caption implies, by the checker and by rules.

    A checker that finds nothing is not believed: the rules have to find nothing either.
    """
    checklists: list[Checklist | None] = [None] * len(captions)
    if checker is not None and captions:
        requests = [
            LLMRequest(
                state.image_id,
                prompts.checklist(caption),
                attempt_seed(state.image_id, CHECKLIST_STAGE, len(state.attempts) - 1),
            )
            for state, caption in zip(states, captions, strict=True)
        ]
        for k, answer in enumerate(_answers(checker, requests)):
            if isinstance(answer, LLMAnswer) and answer.finish_reason == "stop":
                checklists[k] = parse_checklist(answer.text, prompts.marker)
    incomplete = [k for k, checklist in enumerate(checklists) if add_rules or not checklist]
    by_rules = rule_checklists([captions[k] for k in incomplete], parser) if incomplete else []
    for k, checklist in zip(incomplete, by_rules, strict=True):
        checklists[k] = _united(checklists[k] or (), checklist)
    return [checklist or () for checklist in checklists]


def _united(first: Checklist, second: Checklist) -> Checklist:
    """Return a checklist with the phrases of another that it does not have in any case.

    A phrase that has another one as a part may name something else: "a glass ceiling cat".
    """
    known = {phrase.lower() for phrase in first}
    return (*first, *(phrase for phrase in second if phrase.lower() not in known))


def _dense_result(
    state: _Progress, graph: GraphText, options: VerificationOptions, parser: TextParser
) -> DenseCaptionResult:
    attempts = tuple(state.attempts)
    if state.accepted is not None:
        attempt = attempts[state.accepted]
        is_verified = options.enabled and options.max_rounds > 0
        verified = not attempt.missing if is_verified else None
        return DenseCaptionResult(attempt.text, "llm", attempts, state.accepted, verified)
    text = template_caption(graph, parser) if options.use_template and graph.entries else ""
    if not text:
        return DenseCaptionResult(None, None, attempts, error=state.error)
    return DenseCaptionResult(text, "template", attempts, error=state.error)
