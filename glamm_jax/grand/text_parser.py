"""Parsers of captions: by rules, or by spaCy.

    parser = RuleParser()
    text = "A man in a red shirt rides two horses."
    (parsed,) = parser([text])
    [text[x.start : x.end] for x in noun_phrases(text, parsed)]
    # ["A man", "a red shirt", "two horses"]

`RuleParser` knows the function words, looks at endings and at neighbours, and takes all else for
nouns. Its trees are flat. The subtree of a noun is its noun phrase with what is attached to it by
prepositions, participles ("riding a horse") and relative clauses. The nouns of an enumeration have
the same head, so that none is in the subtree of another. A preposition belongs to the noun that
began its chain, "of" to the nearest one: "a dog | with a collar | on a couch".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.lexicon import lexicon
from glamm_jax.grand.roles import ParsedText, Results, RoleError

RULES_VERSION = "1"  # changes with the rules of this file
MAX_CHARACTERS = 20_000  # of a text; what is longer is no caption
# Words, also with hyphens; numbers and clock times; marks.
_TOKEN = re.compile(r"\w+(?:[-&]\w+|(?<=\d)[.,:]\d+)*|\.\.\.|[^\w\s]")
# The same with contractions, which cost time: "don't" is "do" and "n't".
_TOKEN_WITH_APOSTROPHES = re.compile(
    r"['\u2019](?:s|re|ve|ll|d|m)\b|\w+(?=n['\u2019]t\b)|n['\u2019]t\b|" + _TOKEN.pattern,
    re.IGNORECASE,
)
_SENTENCE_END = frozenset(".!?;")
_NOUN_TAGS = frozenset(["NOUN", "PROPN"])
# Kinds of words (`Lexicon.entry`) that can stand between a determiner and its noun, or be it.
_NOMINAL = frozenset("NZYKJGEMQ")
_PLAIN_NOMINAL = frozenset("NZKJ")
_PHRASE_START = frozenset("DSHMNZYKJGEPQ")
_DESCRIBING = frozenset("JKEGQ")
_AFTER_VERB = frozenset("DSHP")
_CHUNK_TAGS = frozenset(["DET", "PRON", "NUM", "ADJ", "ADV", "NOUN", "PROPN", "PART", "VERB"])
_ALWAYS_DETERMINERS = frozenset(["a", "an", "the", "every", "no"])
_TAGS = {
    "P": "PRON",
    "W": "PRON",
    "C": "CCONJ",
    "B": "SCONJ",
    "A": "ADV",
    ".": "PUNCT",
}


class TextParserError(GLaMMError):
    """A parser of texts cannot be used."""


class NounPhrase(NamedTuple):
    """A noun with the words in front of it that belong to it.

    Attributes:
        start: first character in the text.
        end: character behind the last one.
        first: index of the first token.
        head: index of the noun, the last token.
    """

    start: int
    end: int
    first: int
    head: int


class RuleParser:
    """A `TextParser` without a model.

    Attributes:
        name: "rules".
        fingerprint: of the rules and the word lists.
        needs_device: False.
    """

    name = "rules"
    needs_device = False

    def __init__(self) -> None:
        self._lexicon = lexicon()
        self.fingerprint = f"rules-{RULES_VERSION}-{self._lexicon.fingerprint}"

    def setup(self) -> None:
        """Do nothing: there are no weights."""

    def __call__(self, texts: Sequence[str]) -> Results[ParsedText]:
        """Parse texts; one that is not a text, or much too long, gives a RoleError."""
        return [self._parse(text) for text in texts]

    def _parse(self, text: object) -> ParsedText | RoleError:
        if not isinstance(text, str):
            return RoleError("input", f"{type(text).__name__} is not a text")
        if len(text) > MAX_CHARACTERS:
            return RoleError("input", f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
        has_apostrophe = "'" in text or "\u2019" in text
        words = (_TOKEN_WITH_APOSTROPHES if has_apostrophe else _TOKEN).findall(text)
        lower = [word.lower() for word in words]
        entry = self._lexicon.entry
        entries = [entry(word) for word in lower]
        tags, phrases = self._tag(lower, entries)
        heads = _attach(lower, tags, phrases)
        lemmas = [
            e.noun if tag == "NOUN" else e.verb if tag in ("VERB", "AUX") else word
            for e, tag, word in zip(entries, tags, lower, strict=True)
        ]
        return ParsedText(
            tuple(words),
            tuple(tags),
            tuple(lemmas),
            tuple([e.is_stop for e in entries]),
            tuple([tag == "PUNCT" for tag in tags]),
            tuple(heads),
        )

    def _mark_prepositions(self, words: list[str], kinds: list[str]) -> None:
        """Give the words of prepositions of several words the kind L."""
        i = 0
        while i < len(words):
            is_free = i == 0 or kinds[i] not in "JKNZ" or kinds[i - 1] not in "DSH"
            for others in self._lexicon.long_prepositions.get(words[i], ()) if is_free else ():
                end = i + 1 + len(others)
                if tuple(words[i + 1 : end]) == others:
                    kinds[i:end] = "L" * (end - i)
                    i = end - 1
                    break
            i += 1

    def _tag(self, words: list[str], entries: list[Any]) -> tuple[list[str], list[int]]:
        """Return the part of speech of each token, and the number of its noun phrase or -1."""
        lex = self._lexicon
        kinds = [e.kind for e in entries]
        if not lex.long_prepositions.keys().isdisjoint(words):
            self._mark_prepositions(words, kinds)
        kinds += "..."  # the look-ahead needs no test of the end
        tags: list[str] = []
        phrases: list[int] = []
        state = 0  # of the noun phrase: 0 outside, 1 before its noun, 2 behind a noun
        number = -1  # of the noun phrase
        has_determiner = False
        previous = ""  # tag of the last token that is no adverb
        previous_index = -1
        has_verb = False
        for i, word in enumerate(words):
            kind, after = kinds[i], kinds[i + 1]
            inside = state == 1
            if inside and after in "CI." and kind in "XVB" and kind != "B":
                kind = "N" if word in ("can", "will", "might") or kind == "V" else kind
            tag = _TAGS.get(kind, "")
            starts = False  # a noun phrase, or goes on in one
            if tag and kind not in "AW":
                pass
            elif kind == "N":
                tag, starts = "NOUN", True
            elif kind == "D" or (kind == "W" and word == "that"):
                if kind == "W":
                    follows = previous == "NOUN" and after not in "DSH"
                    is_determiner = not follows and after in _NOMINAL
                else:
                    is_determiner = word in _ALWAYS_DETERMINERS or (
                        after in _NOMINAL or after == "A" or (after == "D" and words[i] != "that")
                    )
                tag = "DET" if is_determiner else "PRON"
                starts = is_determiner
            elif kind == "S":
                tag, starts = "PRON", True
            elif kind == "H":
                tag, starts = "PRON", after in _NOMINAL
            elif kind in "JK":
                follows = (after in _NOMINAL and not (kind == "K" and after in "GE")) or (
                    after in "C." and words[i + 1 : i + 2] != ["."] and kinds[i + 2] in "JK"
                )
                if kind == "K" and state == 2 and after in "NZ":
                    tag, starts = "NOUN", True  # "ice cream cone"
                elif (
                    kind == "K" and not follows and previous in ("NOUN", "ADP") and not inside
                ) or (inside and has_determiner and not follows):
                    tag, starts = "NOUN", True
                else:
                    tag = "ADJ"
                    starts = follows and (inside or after in _NOMINAL)
                    if after in "GE" and not inside:
                        # "is empty standing there": the participle describes no noun.
                        starts = kinds[i + 2] in _NOMINAL
            elif kind == "M":
                starts = after in _NOMINAL or (inside and after in "C")
                tag = "NUM"
                if word == "one" and not starts:
                    tag = "NOUN" if inside else "PRON"
                    starts = inside
            elif kind == "Q":
                starts = after in _NOMINAL and (inside or after not in "JE")
                tag = "ADJ" if starts else "ADV"
            elif kind == "A":
                starts = inside and after in _NOMINAL
            elif kind == "L":
                tag = "ADP"
            elif kind == "I":
                is_particle = word in lex.particles and after not in _PHRASE_START
                tag = "ADV" if is_particle else "ADP"
            elif kind == "T":
                base = entries[i + 1].form == "base" and after in "VY" if i + 1 < len(words) else 0
                tag = "PART" if base or words[i + 1 : i + 2] == ["be"] else "ADP"
            elif kind == "'":
                if word == "'" and previous != "NOUN":
                    tag = "PUNCT"
                elif word != "'" and _is_contraction(previous, kinds, i):
                    tag = "AUX"
                else:
                    tag = "PART"
            elif kind == "X":
                tag = "AUX"
                if word in ("has", "have", "had", "having", "do", "does", "did"):
                    later = after if after != "A" else kinds[i + 2]
                    tag = "AUX" if later in "EX" or (word[0] == "d" and later in "VY") else "VERB"
            elif kind == "G":
                if inside:
                    tag, starts = ("ADJ" if after in "NZYKJG" else "NOUN"), True
                elif (
                    previous != "AUX"
                    and (previous != "NOUN" or state == 0)
                    and after in _PLAIN_NOMINAL
                    and word in lex.before_nouns
                    and not (has_verb and previous == "CCONJ")
                ):
                    tag, starts = "ADJ", True
                else:
                    tag = "VERB"
            elif kind == "E":
                if inside:
                    if after in "NZYKJG" or (after in "C." and kinds[i + 2] in "JKE"):
                        tag, starts = "ADJ", True
                    elif previous == "DET":
                        tag, starts = "NOUN", True
                    else:
                        tag = "VERB"
                elif (previous in ("", "ADP", "PUNCT", "CCONJ", "VERB") or has_verb is False) and (
                    previous not in ("NOUN", "AUX", "PRON") and after in "NZKJ"
                ):
                    tag, starts = "ADJ", True
                else:
                    tag = "VERB"
            elif kind == "V":
                tag, starts = ("NOUN", True) if inside else ("VERB", False)
            elif kind == "Y" or kind == "Z":
                tag = (
                    "NOUN"
                    if inside
                    else _noun_or_verb(
                        kind,
                        entries[i].form,
                        previous,
                        words[previous_index] if previous_index >= 0 else "",
                        previous_index >= 0
                        and entries[previous_index].is_plural
                        and words[previous_index] not in lex.plural_modifiers,
                        after,
                        has_verb,
                        lex.modals,
                    )
                )
                starts = tag == "NOUN"
            # ---- the noun phrase
            if kind == "'" and tag == "PART":
                state, has_determiner = 1, True  # the owner is a part of the phrase
                phrases.append(number)
            elif starts:
                if tag in ("DET", "NUM") or tag == "PRON":
                    if state == 2 or (state == 1 and tag != "NUM" and previous not in ("DET",)):
                        state = 0
                elif tag == "ADJ" and state == 2:
                    state = 0
                if state == 0:
                    number += 1
                    has_determiner = False
                has_determiner = has_determiner or tag in ("DET", "PRON", "NUM")
                state = 2 if tag == "NOUN" else 1
                phrases.append(number)
            elif (
                inside
                and (tag == "CCONJ" or word == ",")
                and previous in ("ADJ", "NUM")
                and (after in "JKE" or (after == "M" and previous == "NUM"))
            ):
                phrases.append(number)
            else:
                state = 0
                phrases.append(-1)
            tags.append(tag)
            if tag == "VERB" or tag == "AUX":
                has_verb = True
            if tag == "PUNCT" and word in _SENTENCE_END:
                has_verb = False
            if tag != "ADV":
                previous, previous_index = tag, i
        return tags, phrases


def _is_contraction(previous: str, kinds: list[str], i: int) -> bool:
    """Whether the 's at token `i` is "is": "it's", "the man's wearing a hat"."""
    if previous != "NOUN":
        return True
    after, later = kinds[i + 1], kinds[i + 2]
    return after in "DSI" or (after == "G" and later in "DSHI")


def _noun_or_verb(
    kind: str,
    form: str,
    previous: str,
    previous_word: str,
    is_plural: bool,
    after: str,
    has_verb: bool,
    modals: frozenset[str],
) -> str:
    """Decide about a word that is a noun and a verb, by its form and its neighbours.

    `is_plural` is that of the word before it; `after` is the kind of the word behind it.
    """
    is_subject = previous == "PRON" and previous_word not in ("him", "her", "them", "it's")
    if form == "base":
        if previous == "AUX":
            is_verb = previous_word in modals
        elif previous == "PART":
            is_verb = previous_word == "to"
        elif kind == "Y":
            is_verb = (
                is_subject
                or (previous == "NOUN" and is_plural)
                or (previous == "CCONJ" and has_verb and after in "DSIAT")
                or (previous_word == "," and after in "TIL")
            )
        else:
            is_verb = (is_subject and after not in "C.") or (
                previous == "NOUN" and is_plural and after in "DSHPIAL"
            )
    elif kind == "Y":
        is_verb = previous == "NOUN" or is_subject or (previous == "CCONJ" and has_verb)
    else:
        is_verb = (previous == "NOUN" or is_subject) and after in _AFTER_VERB
    return "VERB" if is_verb else "NOUN"


def _attach(words: list[str], tags: list[str], phrases: list[int]) -> list[int]:
    """Return the head of each token."""
    n = len(words)
    heads = [-1] * n
    last_of: dict[int, int] = {}  # noun phrase -> its last noun, or else its last token
    for i, number in enumerate(phrases):
        if number >= 0 and (
            tags[i] == "NOUN" or number not in last_of or tags[last_of[number]] != "NOUN"
        ):
            last_of[number] = i
    i = 0
    while i < n:
        end = i
        while end < n and not (tags[end] == "PUNCT" and words[end] in _SENTENCE_END):
            end += 1
        _attach_sentence(words, tags, phrases, last_of, heads, i, end)
        i = end + 1
    return heads


def _attach_sentence(
    words: list[str],
    tags: list[str],
    phrases: list[int],
    last_of: dict[int, int],
    heads: list[int],
    begin: int,
    end: int,
) -> None:
    """Fill in the heads of the tokens of one sentence, and of the punctuation at its end."""
    root = verb = -1  # main verb; the verb that governs what follows
    nearest = anchor = -1  # last noun; the noun that prepositions are attached to
    coordinated = -1  # last noun that was attached as one more of an enumeration
    preposition = -1  # one that waits for its noun
    opening = False  # whether the noun phrase before belongs to a preposition before the main verb
    relative = relative_noun = -1  # a relative pronoun that waits for its verb, and its noun
    subjects: list[int] = []  # nouns, prepositions and adverbs that wait for the main verb
    loose: list[int] = []  # conjunctions and punctuation that wait for the root
    ended = -1  # token behind the last noun phrase
    separator = -1  # conjunction or comma directly behind a noun phrase
    is_listing = False  # whether the verb enumerates what is in the image
    i = begin
    while i < end:
        tag = tags[i]
        number = phrases[i]
        if number >= 0:
            head = last_of[number]
            while i < end and phrases[i] == number:
                if i != head:
                    heads[i] = head
                i += 1
            if preposition >= 0:
                heads[head] = preposition
                if heads[preposition] < 0 or tags[heads[preposition]] != "NOUN":
                    anchor = head
                preposition = -1
            elif separator >= 0 and nearest >= 0 and not (opening and words[separator] == ","):
                first = i - 1
                while first > begin and phrases[first - 1] == number:
                    first -= 1
                has_start = tags[first] in ("DET", "NUM", "PRON")
                governor = _coordinate(words, tags, heads, nearest, has_start, is_listing)
                heads[head] = governor
                if governor < 0:
                    subjects.append(head)
                for k in range(separator, i):
                    if phrases[k] < 0:
                        heads[k] = governor
                        if governor < 0:
                            loose.append(k)
                anchor = coordinated = head
            elif relative >= 0:
                heads[head] = relative  # "a man whose hat ...": until the verb is known
                anchor = head
            elif verb >= 0:
                heads[head] = verb
                anchor = head
            else:
                subjects.append(head)
                anchor = head
                opening = False
            nearest, ended, separator = head, i, -1
            continue
        if tag == "ADP":
            before = tags[i - 1] if i > begin else ""
            if ended == i:
                if words[i] == "of":
                    heads[i] = nearest
                elif verb >= 0 and not is_listing and words[i] not in ("with", "without"):
                    heads[i] = verb
                else:
                    heads[i] = anchor
            elif before == "ADJ" or before == "PRON":
                heads[i] = i - 1
            elif verb >= 0:
                heads[i] = verb
            else:
                subjects.append(i)
                opening = True
            preposition = i
            i += 1
            while i < end and tags[i] == "ADP" and _continues(words, tags, preposition, i):
                heads[i] = preposition
                i += 1
            continue
        if tag == "VERB" or tag == "AUX":
            main = i
            group = [i]
            k = i + 1
            while k < end and (
                tags[k] in ("AUX", "VERB", "ADV")
                or (tags[k] == "PART" and words[k] != "to" and tags[main] == "AUX")
            ):
                if tags[k] == "VERB" or tags[k] == "AUX":
                    if tags[main] == "VERB":
                        break
                    main = k
                group.append(k)
                k += 1
            for member in group:
                if member != main:
                    heads[member] = main
            is_participle = tag == "VERB" and words[i].endswith(("ing", "ed", "en", "wn", "rn"))
            if not is_participle and tag == "VERB":
                is_participle = (
                    i + 1 < end
                    and tags[i + 1] == "ADP"
                    and words[i] in lexicon().before_prepositions
                )
            finite_past = (
                is_participle
                and not words[i].endswith("ing")
                and i + 1 < end
                and tags[i + 1] in ("DET", "PRON")
            )
            if i > begin and tags[i - 1] == "PART" and words[i - 1] == "to":
                heads[i - 1] = main
                heads[main] = verb if verb >= 0 else root if root >= 0 else nearest
            elif relative >= 0:
                heads[relative] = main
                if anchor != relative_noun and heads[anchor] == relative:
                    heads[anchor] = main
                heads[main] = relative_noun
                relative = -1
            elif is_participle and not (finite_past and root < 0) and nearest >= 0:
                if ended == i:
                    heads[main] = anchor
                elif root >= 0:
                    heads[main] = root
                else:
                    heads[main] = anchor
            elif root < 0:
                root = main
                for k in subjects:
                    heads[k] = main
                subjects = []
            else:
                heads[main] = root
                if coordinated >= 0 and ended == i and heads[coordinated] != main:
                    heads[coordinated] = main
                for k in subjects:
                    heads[k] = main
                subjects = []
            verb = main
            is_listing = words[main] in lexicon().listing
            coordinated = -1
            separator = -1
            opening = False
            i = group[-1] + 1
            continue
        if tag == "PRON":
            if words[i] in ("who", "which", "that", "whom", "whose") and nearest >= 0:
                relative, relative_noun = i, nearest if ended == i else anchor
                heads[i] = relative_noun
            elif preposition >= 0:
                heads[i] = preposition
                preposition = -1
            elif verb >= 0 and tags[i - 1] != "CCONJ":
                heads[i] = verb
            else:
                subjects.append(i)
                verb = -1
            separator = -1
        elif tag == "CCONJ" or (tag == "PUNCT" and words[i] == ","):
            if ended == i or separator == i - 1:
                if separator < 0:
                    separator = i
            else:
                separator = -1
            loose.append(i)
            preposition = -1
        elif tag == "SCONJ":
            loose.append(i)
            verb, separator, coordinated = -1, -1, -1
        elif tag == "ADJ" or tag == "NUM":
            heads[i] = (
                preposition
                if preposition >= 0
                else nearest
                if ended == i and tags[i + 1 : i + 2] == ["ADP"]
                else verb
                if verb >= 0
                else nearest
                if nearest >= 0
                else -1
            )
            preposition, separator = -1, -1
        elif tag == "ADV":
            if i + 1 < end and tags[i + 1] == "ADJ":
                heads[i] = i + 1
            elif ended == i and verb < 0:
                heads[i] = nearest  # "a close up of ..."
                ended = i + 1
            elif verb >= 0:
                heads[i] = verb
            else:
                subjects.append(i)
            if separator != i - 1:
                separator = -1
        else:
            loose.append(i)
        i += 1
    for k in subjects:
        heads[k] = root
    for k in loose:
        if heads[k] < 0:
            heads[k] = root
    if end < len(words):
        heads[end] = root


def _coordinate(
    words: list[str],
    tags: list[str],
    heads: list[int],
    noun: int,
    has_start: bool,
    is_listing: bool,
) -> int:
    """Return the head of a noun that is enumerated after `noun`.

    It is that of `noun`; but "a glass of juice and a plate" enumerates glass and plate, as the
    second phrase has a start of its own, and after "there are" everything is enumerated together.
    """
    governor = heads[noun]
    while has_start and governor >= 0 and tags[governor] == "ADP":
        owner = heads[governor]
        if owner < 0 or tags[owner] != "NOUN" or not (is_listing or words[governor] == "of"):
            break
        if words[governor] != "of":
            top = heads[owner]
            if top < 0 or tags[top] not in ("VERB", "AUX"):
                break
        governor = heads[owner]
    return governor


def _continues(words: list[str], tags: list[str], first: int, i: int) -> bool:
    """Whether token `i` is a word of the preposition that begins at `first`."""
    for others in lexicon().long_prepositions.get(words[first], ()):
        offset = i - first
        if offset <= len(others) and tuple(words[first + 1 : i + 1]) == others[:offset]:
            return True
    return False


class SpacyParser:
    """A `TextParser` that is a model of spaCy.

    Attributes:
        name: of the model.
        fingerprint: of the model.
        needs_device: False.
    """

    needs_device = False

    def __init__(self, model: str = "en_core_web_sm", batch_size: int = 64) -> None:
        self.name = f"spacy/{model}"
        self.fingerprint = f"spacy-{model}"
        self._model = model
        self._batch_size = batch_size
        self._pipeline: Any = None

    def setup(self) -> None:
        """Load the model.

        Raises:
            TextParserError: spaCy or the model is not installed.
        """
        try:
            import spacy  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TextParserError(
                'the parser of spaCy needs the package spacy: pip install "glamm-jax[annotate]"'
            ) from error
        try:
            self._pipeline = spacy.load(self._model, exclude=["ner"])
        except OSError as error:
            raise TextParserError(
                f"spaCy has no model {self._model!r}: python -m spacy download {self._model}"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Results[ParsedText]:
        """Parse texts; one that is not a text gives a RoleError."""
        if self._pipeline is None:
            self.setup()
        pipeline: Any = self._pipeline
        valid = [isinstance(text, str) and len(text) <= MAX_CHARACTERS for text in texts]
        usable = [text for text, ok in zip(texts, valid, strict=True) if ok]
        documents = iter(pipeline.pipe(usable, batch_size=self._batch_size))
        return [
            _from_spacy(next(documents))
            if ok
            else RoleError("input", f"not a text of at most {MAX_CHARACTERS} characters")
            for ok in valid
        ]


def _from_spacy(document: Any) -> ParsedText:
    """Return the columns of spaCy's tokens without those that are white space."""
    tokens = [token for token in document if not token.is_space]
    index = {token.i: k for k, token in enumerate(tokens)}
    return ParsedText(
        tuple(token.text for token in tokens),
        tuple(token.pos_ for token in tokens),
        tuple(token.lemma_ for token in tokens),
        tuple(bool(token.is_stop) for token in tokens),
        tuple(bool(token.is_punct) for token in tokens),
        tuple(-1 if t.head.i == t.i else index.get(t.head.i, -1) for t in tokens),
    )


def token_spans(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Return the characters [start, end) of each token in the text.

    Raises:
        TextParserError: a token does not follow the one before it in the text.
    """
    spans, position = [], 0
    for token in tokens:
        start = text.find(token, position)
        if start < 0:
            raise TextParserError(f"{token!r} is not a token of {text[:80]!r}")
        position = start + len(token)
        spans.append((start, position))
    return spans


def noun_phrases(text: str, parsed: ParsedText) -> list[NounPhrase]:
    """Return the noun phrases of a text in its order, none inside another, without attachments.

    Works with any parser. A phrase ends with its noun.

    Raises:
        TextParserError: `parsed` is no parse of this text.
    """
    pos, heads = parsed.pos, parsed.heads
    spans = token_spans(text, parsed.texts)
    phrases: list[NounPhrase] = []
    begin = 0
    for i, tag in enumerate(pos):
        if tag not in _NOUN_TAGS:
            continue
        above = heads[i]
        if above > i and pos[above] in _NOUN_TAGS and _is_joined(pos, heads, i, above):
            continue  # a noun in front of a noun: "traffic light"
        first = i
        while first > begin and _belongs(pos, heads, first - 1, first, i, parsed.texts):
            first -= 1
        phrases.append(NounPhrase(spans[first][0], spans[i][1], first, i))
        begin = i + 1
    return phrases


def _is_joined(pos: Sequence[str], heads: Sequence[int], low: int, high: int) -> bool:
    """Whether the tokens between two nouns all belong to the second one."""
    return all(pos[k] in _CHUNK_TAGS and low <= heads[k] <= high for k in range(low + 1, high))


def _belongs(
    pos: Sequence[str],
    heads: Sequence[int],
    k: int,
    first: int,
    head: int,
    texts: Sequence[str],
) -> bool:
    """Whether token `k` in front of a phrase [first, head] is its first word."""
    if not k < heads[k] <= head:
        return False
    if pos[k] in _CHUNK_TAGS:
        return pos[k] != "VERB" or heads[k] == head
    return pos[k] == "CCONJ" or (pos[k] == "PUNCT" and texts[k] in ",-/")
