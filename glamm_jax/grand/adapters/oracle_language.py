"""An oracle of the language model: it answers from the text of its request only.

The last user message decides what is asked for:

- it ends with a scene graph ("Group 0: star/a large red star, ..." under the names of layers, then
  perhaps "Short Captions:", "Relationships:" and "Landmarks:"): a dense caption;
- it ends with a list ("Objects:", one `label/attribute` a line, then perhaps "Landmarks:"):
  additional context;
- it ends with phrases or relations ("Phrases:" or "Relations:", one "- ..." a line, then perhaps
  "Captions:"): a caption of GranD_f that contains them; an invention loses the last word of one;
- anything else: the phrases of the caption behind the last "Caption:", or of the last paragraph,
  one a line. If the message says what to write for no phrase, such as "OBJECT: none" in quotation
  marks, the lines begin in the same way.

Examples and feedback may stand before; of several graphs the last one counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from glamm_jax.grand.adapters.noise import seeded_random
from glamm_jax.grand.adapters.oracle import OracleRole, invented_kind
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, Results
from glamm_jax.miniworld.captions import number_word, with_article
from glamm_jax.miniworld.mentions import find_mentions, head_mention
from glamm_jax.miniworld.stuff import STUFF

# Layer of depth -> beginning of the sentence about it; nearest first.
LAYER_SENTENCES = {
    "Immediate Foreground": "Very near, there",
    "Foreground": "Nearby, there",
    "Midground": "Farther back, there",
    "Background": "Far away, there",
}
MAX_SENTENCES = 4  # of a dense caption
MAX_CONTEXT_LABELS = 3
REFUSAL = "I am sorry, but I cannot help with this request."
NOTHING = "none"  # answer about a caption without phrases
_FIRST_GROUP = re.compile(r"^Group 0:", re.MULTILINE)
_OBJECTS = re.compile(r"^Objects:[ \t]*$", re.MULTILINE)
_GROUP = re.compile(r"Group \d+:\s*(.*)")
_STATEMENTS = re.compile(r"^(?:Phrases|Relations):[ \t]*\n", re.MULTILINE)
_LINE_START = re.compile(rf'"([^"\n]+ ){NOTHING}"')
_BLOCKS = ("Short Captions:", "Relationships:", "Landmarks:")


class GraphItem(NamedTuple):
    """An object of a scene graph: its label and its attribute, "" without one."""

    label: str
    attribute: str

    @property
    def phrase(self) -> str:
        """Its attribute, or its label with an article."""
        if self.attribute or not self.label:
            return self.attribute
        return f"the {self.label}" if self.label in STUFF else with_article(self.label)


class ParsedGraph(NamedTuple):
    """Content of a scene graph as text.

    Attributes:
        layers: name -> items; "" for a list without layers.
        landmark: category and fine category, as the text has them.
    """

    layers: dict[str, list[GraphItem]]
    landmark: str


class OracleLLM(OracleRole):
    """Writes captions of scene graphs, lists the phrases of captions, adds context."""

    def __call__(self, requests: Sequence[LLMRequest]) -> Results[LLMAnswer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: LLMRequest) -> LLMAnswer:
        noise = self.noise
        rng = seeded_random(request.image_id, self.name, request.seed)
        refuses, cuts, invents, share = (rng.random() for _ in range(4))
        if refuses < noise.llm_refusals:
            return LLMAnswer(REFUSAL, "stop")
        text = next(
            (message.text for message in reversed(request.messages) if message.role == "user"), ""
        )
        graph, statements = parse_graph(text), parse_statements(text)
        if statements:
            answer = join_statements(statements, rng if invents < noise.llm_inventions else None)
        elif graph is None:
            answer = list_phrases(text)
        elif "" in graph.layers:
            answer = write_context(graph)
        else:
            invented = _invent(text, rng) if invents < noise.llm_inventions else ""
            answer = write_caption(graph, invented, share)
        if cuts < noise.llm_truncations:
            return LLMAnswer(answer[: int(len(answer) * (0.3 + 0.5 * share))], "length")
        return LLMAnswer(answer, "stop")


def parse_statements(text: str) -> list[str]:
    """Return the phrases or relations at the end of a request; empty if it has none."""
    start = max((match.end() for match in _STATEMENTS.finditer(text)), default=-1)
    lines = text[start:].split("\n\n")[0].splitlines() if start >= 0 else []
    return [line[2:].strip() for line in lines if line.startswith("- ")]


def join_statements(statements: Sequence[str], rng: random.Random | None) -> str:
    """Return a caption that contains phrases, or says what relations say.

    Args:
        statements: phrases, or relations as "SUBJECT, PREDICATE, OBJECT".
        rng: chooses the statement that loses its last word; None: none does.
    """
    lines = list(statements)
    if rng is not None:
        i = rng.randrange(len(lines))
        lines[i] = lines[i].rpartition(" ")[0] or lines[i]
    sentences = []
    for line in lines:
        parts = line.split(", ")
        if len(parts) == 3:
            sentences.append(f"{parts[0]} is {parts[1]} {parts[2]}.")
        else:
            sentences.append(f"There is {line}.")
    return " ".join(sentences)


def parse_graph(text: str) -> ParsedGraph | None:
    """Return the scene graph or list of objects at the end of a text; None if it ends otherwise."""
    group = max((match.start() for match in _FIRST_GROUP.finditer(text)), default=-1)
    objects = max((match.start() for match in _OBJECTS.finditer(text)), default=-1)
    if max(group, objects) < 0:
        return None
    if objects > group:
        layers, landmark, ends = _parse_objects(text[objects:].splitlines()[1:])
        return ParsedGraph({"": layers}, landmark) if ends else None
    header = text[:group].rstrip().rpartition("\n")[2].strip()
    return _parse_layers([header, *text[group:].splitlines()])


def _parse_objects(lines: list[str]) -> tuple[list[GraphItem], str, bool]:
    """Return items and landmark of a list, and whether nothing else follows."""
    items: list[GraphItem] = []
    for i, line in enumerate(lines):
        if line.strip() == "Landmarks:":
            rest = [line.strip() for line in lines[i + 1 :] if line.strip()]
            return items, rest[0] if rest else "", len(rest) < 2
        if line.strip():
            items.append(_item(line))
    return items, "", True


def _parse_layers(lines: list[str]) -> ParsedGraph | None:
    layers: dict[str, list[GraphItem]] = {}
    layer, block, landmark = "Foreground", "", []
    for line in map(str.strip, lines):
        match = _GROUP.match(line)
        if line.removesuffix(":") in LAYER_SENTENCES:
            layer = line.removesuffix(":")
        elif line in _BLOCKS:
            block = line
        elif match and not block:
            items = [_item(text) for text in match[1].split(", ") if text.strip()]
            layers.setdefault(layer, []).extend(items)
        elif block == "Landmarks:" and line:
            landmark.append(line)
    return ParsedGraph(layers, landmark[0] if landmark else "") if len(landmark) < 2 else None


def _item(text: str) -> GraphItem:
    label, _, attribute = text.strip().partition("/")
    return GraphItem(label.strip(), attribute.strip())


def write_caption(graph: ParsedGraph, invented: str = "", share: float = 0.0) -> str:
    """Return a caption of two to four sentences that names every object of a scene graph.

    Args:
        graph: with layers.
        invented: a phrase to add to one of the layers.
        share: which of the layers, in [0, 1).
    """
    names = [name for name in LAYER_SENTENCES if graph.layers.get(name)]
    place = graph.landmark.rpartition(", ")[2].strip().lower()
    if not names:
        return f"This is {with_article(place)}." if place else "Nothing can be seen here."
    sentences = []
    for k, name in enumerate(names):
        phrases = _phrases(graph.layers[name])
        if invented and k == int(share * len(names)):
            phrases.append(invented)
        is_plural = len(phrases) > 1 or not phrases[0].lower().startswith(("a ", "an ", "the "))
        verb = "are" if is_plural else "is"
        sentences.append(f"{LAYER_SENTENCES[name]} {verb} {_enumerate(phrases)}.")
    if place and len(sentences) < MAX_SENTENCES:
        sentences.append(f"This is {with_article(place)}.")
    return " ".join(sentences)


def _phrases(items: Sequence[GraphItem]) -> list[str]:
    """Return one phrase for all items that are named alike, such as "two red stars"."""
    counts: dict[str, int] = {}
    for item in items:
        if item.phrase:
            counts[item.phrase] = counts.get(item.phrase, 0) + 1
    result = []
    for phrase, count in counts.items():
        mention = head_mention(phrase)
        if count == 1:
            result.append(phrase)
        elif mention is not None and mention.number == 1 and mention.end == len(phrase):
            ending = "es" if mention.shape == "cross" else "s"
            result.append(f"{number_word(count)} {phrase[mention.content :]}{ending}")
        else:
            result += [phrase] * count
    return result or ["nothing"]


def _enumerate(phrases: Sequence[str]) -> str:
    """Join phrases by commas, also before "and": each is a phrase of its own for every parser."""
    return ", and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _invent(text: str, rng: random.Random) -> str:
    """Return a phrase for an object that neither the graph nor the feedback of a request has."""
    present = {(mention.colour, mention.shape) for mention in find_mentions(text)}
    return with_article(" ".join(invented_kind(rng, present)))


def list_phrases(text: str) -> str:
    """Return the phrases of the caption at the end of a text, one a line."""
    _, marker, caption = text.rpartition("Caption:")
    caption = caption if marker else text.strip().rpartition("\n\n")[2]
    start = _LINE_START.search(text)
    before = start[1] if start else ""
    phrases = [caption[mention.start : mention.end] for mention in find_mentions(caption)]
    return "\n".join(before + phrase for phrase in dict.fromkeys(phrases) or (NOTHING,))


def write_context(graph: ParsedGraph) -> str:
    """Return a paragraph of six sentences about the uses of a place and what is in it."""
    place = graph.landmark.rpartition(", ")[2].strip().lower() or "place"
    labels = list(dict.fromkeys(item.label for item in graph.layers[""] if item.label))
    named = labels[:MAX_CONTEXT_LABELS] or ["shape"]
    names = ", and ".join(f"the {label}" for label in named)
    verb = "is" if len(named) == 1 else "are"
    return (
        f"People visit {with_article(place)} like this to play, to learn or to rest. "
        f"Here {names} {verb} probably part of a game about colours and forms. "
        "Children often learn the names of such forms before they can read. "
        "Forms of this kind have been used as signs and ornaments for a very long time. "
        "Edges and corners can hurt somebody who falls against them. "
        "Next, somebody may come to sort everything by colour or by size."
    )
