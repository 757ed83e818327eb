"""A caption made of the scene graph alone, for images that the language model has none for."""

from __future__ import annotations

from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.lexicon import lexicon, number_word, with_article
from glamm_jax.grand.phrase_matching import matching_tables, plain_text
from glamm_jax.grand.roles import ParsedText, TextParser
from glamm_jax.grand.text_parser import RuleParser, noun_chunks

MAX_KINDS = 12  # kinds of objects that are named
MAX_ADJECTIVES = 3  # in front of a name
_KEPT_TAGS = frozenset(["ADJ", "NOUN"])


def template_caption(graph: GraphText, parser: TextParser | None = None) -> str:
    """Return a caption that counts the objects of a graph.

        "The image shows a red car, two dogs and some grass. The setting is an urban landscape."

    An object is named by its label and the adjectives that its first suitable description has.

    Args:
        graph: the scene graph.
        parser: of the descriptions; None: `RuleParser`.

    Returns:
        The caption; "" for a graph without objects and landmark.
    """
    parser = RuleParser() if parser is None else parser
    counts: dict[str, int] = {}
    for entry in graph.entries:
        name = _object_name(entry, parser)
        if name:
            counts[name] = counts.get(name, 0) + 1
    named = [_counted(name, count) for name, count in counts.items()][:MAX_KINDS]
    sentences = []
    if named:
        sentences.append(f"The image shows {_enumeration(named)}.")
    setting = plain_text(graph.landmark[-1]) if graph.landmark else ""
    if setting:
        sentences.append(f"The setting is {_setting(setting)}.")
    return " ".join(sentences)


def _object_name(entry: ObjectFacts, parser: TextParser) -> str:
    """Return adjectives and label of an object: "small red car"."""
    label = next((text for text in map(plain_text, entry.labels) if text), "")
    texts = [plain_text(text) for text in (*entry.attributes, *entry.phrases)]
    parses = parser(texts) if texts else []
    same = matching_tables().name
    head = lexicon().noun_lemma(label.rpartition(" ")[2])
    for text, parsed in zip(texts, parses, strict=True):
        if not isinstance(parsed, ParsedText):
            continue
        for phrase in noun_chunks(text, parsed)[:1]:
            noun = parsed.lemmas[phrase.head]
            words = [
                word
                for word, tag in zip(
                    parsed.texts[phrase.first : phrase.head],
                    parsed.pos[phrase.first : phrase.head],
                    strict=True,
                )
                if tag in _KEPT_TAGS
            ]
            if label and noun != head and same(noun) != same(head):
                continue
            if len(words) <= MAX_ADJECTIVES:
                # "woman" says more than the label "person".
                before = [word for word in words if not label or word not in label.split()]
                if not before and noun == head:
                    continue
                return " ".join([*before, label if label and noun == head else noun])
    return label


def _counted(name: str, count: int) -> str:
    """Return a name with its number: "a dog", "two dogs", "some grass", "trees"."""
    lexical = lexicon()
    last = name.rpartition(" ")[2]
    if lexical.is_mass(last) or lexical.is_plural(last):
        return f"some {name}"
    return with_article(name) if count == 1 else f"{number_word(count)} {lexical.plural(name)}"


def _setting(name: str) -> str:
    """Return a landmark in a sentence: "outdoor scene" -> "an outdoor scene"."""
    return name if lexicon().is_plural(name.rpartition(" ")[2]) else with_article(name)


def _enumeration(items: list[str]) -> str:
    """Join items as in "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
