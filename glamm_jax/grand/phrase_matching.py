"""Whether the scene graph of an image has what a phrase names.

    graph = GraphText("7", "...", (ObjectFacts(0, ("sofa",), ("a red sofa",)),))
    known = KnownObjects(graph, RuleParser())
    known.missing(["the couch", "a green couch", "two cats"])    # ("a green couch", "two cats")

Nouns are compared, not texts: a phrase and an object match if their nouns are equal, synonyms, or a
more general word for each other, and no colour contradicts. The tables are in `data/synonyms.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, NamedTuple

from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.lexicon import lexicon, read_data
from glamm_jax.grand.part_of_speech import SENTENCE_END
from glamm_jax.grand.roles import ParsedText, TextParser
from glamm_jax.grand.text_parser import TextParserError, noun_chunks

MATCHING_VERSION = "1"  # changes with the rules of this file
MAX_CACHED = 20_000  # texts whose nouns are kept
NOTHING: frozenset[str] = frozenset()


class NamedObject(NamedTuple):
    """A noun of a text, and the colours that the text gives it.

    Attributes:
        start: of its phrase in the text.
        end: of its phrase in the text.
        name: the noun, or the name that stands for all of its synonyms.
        word: the noun itself, singular.
        colours: of the object.
    """

    start: int
    end: int
    name: str
    word: str
    colours: frozenset[str]


class MatchingTables:
    """The tables of `data/synonyms.toml`.

    Attributes:
        fingerprint: of the tables and the rules.
        no_objects: nouns that name no object.
        measures: nouns whose object follows after "of".
        compounds: names of several words.
    """

    def __init__(self) -> None:
        tables, digest = read_data("synonyms.toml")
        self.fingerprint = f"matching-{MATCHING_VERSION}-{digest}"
        self.no_objects = frozenset(tables["words"]["no_objects"].split())
        self.measures = lexicon().measures
        self._names: dict[str, str] = {}
        for words in tables["synonyms"]["sets"]:
            names = [word.replace("_", " ") for word in words.split()]
            for name in names:
                self._names.setdefault(name, names[0])
        compounds = {word.replace("_", " ") for word in tables["words"]["compounds"].split()}
        self.compounds = compounds | {name for name in self._names if " " in name}
        self._general = _inverse(self, tables["hypernyms"])
        self._parts = {self.name(x): self._name_set(y) for x, y in tables["parts"].items()}
        self._places = {place: self._name_set(words) for place, words in tables["places"].items()}

    def name(self, noun: str) -> str:
        """Return the name that stands for a noun and its synonyms."""
        return self._names.get(noun, noun)

    def general(self, name: str) -> frozenset[str]:
        """Return the more general names for what has this name."""
        return self._general.get(name, NOTHING)

    def parts(self, name: str) -> frozenset[str]:
        """Return the names of parts of what has this name: of a dog those of any animal."""
        own = self._parts.get(name, NOTHING)
        return own.union(*(self._parts.get(x, NOTHING) for x in self.general(name)))

    def place_names(self, landmark: Iterable[str]) -> frozenset[str]:
        """Return the nouns for a kind of place."""
        names: set[str] = set()
        for text in landmark:
            names |= self._places.get(text.lower().strip(), NOTHING)
        return frozenset(names)

    def _name_set(self, words: str) -> frozenset[str]:
        return frozenset(self.name(word.replace("_", " ")) for word in words.split())


def _inverse(tables: MatchingTables, hypernyms: dict[str, str]) -> dict[str, frozenset[str]]:
    """Return the general names of each name, those of general names included."""
    direct: dict[str, set[str]] = {}
    for general, words in hypernyms.items():
        for word in words.split():
            direct.setdefault(tables.name(word.replace("_", " ")), set()).add(tables.name(general))
    result = {}
    for name in direct:
        todo, visited = [name], set()
        while todo:
            new = direct.get(todo.pop(), set()) - visited
            visited |= new
            todo += new
        result[name] = frozenset(visited - {name})
    return result


@cache
def matching_tables() -> MatchingTables:
    """Return the tables; they are read once in each process."""
    return MatchingTables()


def named_objects(text: str, parsed: ParsedText) -> list[NamedObject]:
    """Return the objects that a text names, in its order.

    "A group of people" names people. Nouns such as "background" name no object. A colour after the
    verb, as in "the car is red", is one of the first noun of its sentence.

    Raises:
        TextParserError: `parsed` is no parse of this text.
    """
    tables, colours = matching_tables(), lexicon().colours
    phrases = noun_chunks(text, parsed)
    words = [word.lower() for word in parsed.texts]
    matches: list[NamedObject] = []
    ends = [k for k, word in enumerate(words) if word in SENTENCE_END]
    next_end = subject = 0  # index of the first noun of the sentence
    for phrase in phrases:
        head = phrase.head
        word = parsed.lemmas[head].lower()
        is_measure = words[head] in tables.measures or word in tables.measures
        if is_measure and words[head + 1 : head + 2] == ["of"]:
            continue
        for first in range(max(head - 2, phrase.first), head):
            name = " ".join([*words[first:head], word])
            if name in tables.compounds:
                word = name
                break
        own = map(tables.name, colours.intersection(words[phrase.first : head]))
        while next_end < len(ends) and ends[next_end] < phrase.first:
            next_end += 1
            subject = len(matches)
        if word in tables.no_objects or words[head] in tables.no_objects:
            continue
        matches.append(
            NamedObject(phrase.start, phrase.end, tables.name(word), word, frozenset(own))
        )
        if len(matches) - 1 == subject:
            stated = _stated_colours(parsed, words, head, colours)
            if stated:
                matches[-1] = matches[-1]._replace(colours=matches[-1].colours | stated)
    return matches


def _stated_colours(
    parsed: ParsedText, words: Sequence[str], head: int, colours: frozenset[str]
) -> frozenset[str]:
    """Return the colours in "is red", "are red and white" behind a noun."""
    verb = head + 1
    if verb >= len(words) or parsed.pos[verb] != "AUX" or parsed.lemmas[verb] != "be":
        return NOTHING
    stated = set()
    for k in range(verb + 1, len(words)):
        if words[k] in colours:
            stated.add(matching_tables().name(words[k]))
        elif parsed.pos[k] not in ("ADJ", "ADV", "CCONJ") and words[k] != ",":
            return frozenset(stated) if parsed.pos[k] != "NOUN" else NOTHING
    return frozenset(stated)


class KnownObjects:
    """What the scene graph of one image has, for comparison with the nouns of captions."""

    def __init__(self, graph: GraphText, parser: TextParser, *, use_colours: bool = True) -> None:
        """Collect the names and colours of all objects of a graph.

        Args:
            graph: the scene graph.
            parser: of its labels, attributes and phrases, and of the phrases to be compared.
            use_colours: whether a contradiction of colours is one of objects.
        """
        self._tables = matching_tables()
        self._parser = parser
        self._use_colours = use_colours
        # Name -> colours of each object of this name; none are known if the set is empty.
        self._colours: dict[str, list[frozenset[str]]] = {}
        texts = [text for entry in graph.entries for text in _texts(entry)]
        objects = dict(zip(texts, self._objects(texts), strict=True))
        mentioned = [name for entry in graph.entries for name in self._add(entry, objects)]
        others = [plain_text(text) for text in (*graph.stuff, *graph.landmark)]
        mentioned += [item.name for matches in self._objects(others) for item in matches]
        # "Left of the heart", or the tag "heart", does not mean one more heart, of any colour.
        for name in mentioned:
            if name not in self._colours:
                self._add_name(name, NOTHING)
        self._places = self._tables.place_names(graph.landmark)

    def missing(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """Return the phrases that name something that the graph does not have, each once.

        A phrase that names no object, such as "the background", is never missing.
        """
        texts = [plain_text(phrase) for phrase in phrases]
        missing: dict[str, None] = {}
        for phrase, matches in zip(phrases, self._objects(texts), strict=True):
            if not all(map(self.has, matches)):
                missing.setdefault(phrase)
        return tuple(missing)

    def has(self, item: NamedObject) -> bool:
        """Whether the graph has an object that this may be, or be a part of."""
        if self._may_be(item, item.name):
            return True
        if item.name in self._places and not item.colours:
            return True
        tables = self._tables
        return any(
            item.name in tables.parts(name)
            or (item.name in tables.general(name) and self._may_be(item, name))
            for name in self._colours
        )

    def _may_be(self, item: NamedObject, name: str) -> bool:
        colour_sets = self._colours.get(name)
        if colour_sets is None:
            return False
        if not self._use_colours or not item.colours:
            return True
        return any(not colours or colours & item.colours for colours in colour_sets)

    def _objects(self, texts: Sequence[str]) -> list[tuple[NamedObject, ...]]:
        return _cached_objects(texts, self._parser)

    def _add(self, entry: ObjectFacts, objects: dict[str, tuple[NamedObject, ...]]) -> list[str]:
        """Add one object: its own names have all colours of its descriptions, others their own.

        Returns:
            Other names without a colour.
        """
        own: dict[str, None] = {}
        for label in entry.labels:
            plain = plain_text(label)
            matches = objects[plain]
            own.setdefault(matches[-1].name if matches else self._tables.name(plain))
        colours: set[str] = set()
        mentioned: list[str] = []
        for text in (*entry.labels, *entry.attributes, *entry.phrases):
            for k, item in enumerate(objects[plain_text(text)]):
                if item.name in own:
                    colours |= item.colours
                elif k == 0:
                    # "a vase" of something with the label "pot": another name of the object.
                    own.setdefault(item.name)
                    colours |= item.colours
                elif item.colours:
                    self._add_name(item.name, item.colours)
                else:
                    mentioned.append(item.name)
        for name in own:
            self._add_name(name, frozenset(colours))
        return mentioned

    def _add_name(self, name: str, colours: frozenset[str]) -> None:
        self._colours.setdefault(name, []).append(colours)


_object_cache: dict[tuple[str, str], tuple[NamedObject, ...]] = {}


def _cached_objects(texts: Sequence[str], parser: TextParser) -> list[tuple[NamedObject, ...]]:
    """Return the named objects of each text; one that cannot be parsed has none."""
    if len(_object_cache) > MAX_CACHED:
        _object_cache.clear()
    key = parser.fingerprint
    new = [text for text in dict.fromkeys(texts) if (key, text) not in _object_cache]
    results: list[Any] = list(parser(new)) if new else []
    for text, parsed in zip(new, results, strict=True):
        matches: tuple[NamedObject, ...] = ()
        if isinstance(parsed, ParsedText):
            with suppress(TextParserError):  # tokens that are not in the text
                matches = tuple(named_objects(text, parsed))
        _object_cache[key, text] = matches
    return [_object_cache[key, text] for text in texts]


def _texts(entry: ObjectFacts) -> list[str]:
    return [plain_text(text) for text in (*entry.labels, *entry.attributes, *entry.phrases)]


@lru_cache(maxsize=MAX_CACHED)
def plain_text(text: str) -> str:
    """Return a label or description as lower-case words, without "(vehicle)" and underscores."""
    text = text.replace("_", " ").lower()
    while (start := text.find("(")) >= 0 and (end := text.find(")", start)) >= 0:
        text = text[:start] + text[end + 1 :]
    return " ".join(text.split())
