"""Words of English captions: their kinds, their base forms, singular and plural.

    noun_lemma("knives")      # "knife"
    plural("wine glass")      # "wine glasses"
    with_article("umbrella")  # "an umbrella"

A word that no list has is classified by its ending, and is a noun otherwise: captions name more
nouns than any list could have. The lists are in `data/words.toml`.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

MAX_CACHED = 50_000  # words whose entries are kept
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VOWELS = "aeiou"
_AN = ("honest", "hour", "heir", "honour", "honor", "x-ray")
_A = ("uni", "use", "euro", "one-", "once", "ufo", "ute", "ewe", "u-")
_UN_AN = ("unin", "unim", "unid")  # unlike "uniform", these begin with a vowel's sound


class WordEntry(NamedTuple):
    """What the lists say about a word.

    Attributes:
        kind: one letter, see `_KINDS` and `Lexicon.entry`.
        form: of a verb: "base", "third" or "past"; of other words "".
        noun: its lemma as a noun.
        verb: its lemma as a verb.
        is_stop: whether it is a stop word.
        is_plural: whether it is a plural noun.
    """

    kind: str
    form: str
    noun: str
    verb: str
    is_stop: bool
    is_plural: bool


# Kind of a word -> section and lists of the file; an earlier kind wins.
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "determiner": ("closed", ("determiners",)),
    "possessive": ("closed", ("possessives",)),
    "pronoun": ("closed", ("pronouns",)),
    "relative": ("closed", ("relatives",)),
    "auxiliary": ("closed", ("auxiliaries", "modals")),
    "conjunction": ("closed", ("conjunctions",)),
    "subordinator": ("closed", ("subordinators",)),
    "number": ("closed", ("numbers",)),
    "quantity": ("closed", ("quantities",)),
    "adverb": ("closed", ("adverbs",)),
    "preposition": ("closed", ("prepositions",)),
    "either": ("adjectives", ("or_noun",)),
    "adjective": ("adjectives", ("colours", "other")),
    "noun": ("nouns", ("ing", "ed", "ly", "adjective_like", "plural_only", "other")),
}
KIND_LETTERS = {
    "determiner": "D",
    "possessive": "S",
    "pronoun": "P",
    "relative": "W",
    "auxiliary": "X",
    "conjunction": "C",
    "subordinator": "B",
    "number": "M",
    "quantity": "Q",
    "adverb": "A",
    "preposition": "I",
    "either": "K",
    "adjective": "J",
    "noun": "N",
}
_NO_SEPARATORS = str.maketrans("", "", ".,:")
_ADJECTIVE_ENDINGS = ("ous", "ful", "less", "able", "ible", "ish", "ese", "esque", "ical", "like")


@cache
def read_data(name: str) -> tuple[dict[str, Any], str]:
    """Return a data file of this package and the first 16 digits of its SHA-256."""
    data = resources.files("glamm_jax.grand").joinpath("data", name).read_bytes()
    return tomllib.loads(data.decode("utf-8")), hashlib.sha256(data).hexdigest()[:16]


class Lexicon:
    """The word lists, with an entry for every word.

    Attributes:
        fingerprint: of the lists.
        modals: auxiliaries that a base form follows.
        particles: prepositions that are adverbs without a noun phrase behind them.
        colours: names of colours.
        measures: nouns such as "group", whose object follows after "of".
        plural_modifiers: plurals that stand in front of other nouns.
        before_nouns: forms of verbs that describe a noun without a determiner.
        before_prepositions: past forms that are participles in front of a preposition.
        listing: forms of verbs that enumerate what there is.
        long_prepositions: first word -> the other words of prepositions, longest first.
    """

    def __init__(self) -> None:
        lists, self.fingerprint = read_data("words.toml")
        words = {
            (section, name): frozenset(text.split())
            for section, values in lists.items()
            for name, text in values.items()
        }
        self.modals = words["closed", "modals"]
        self.particles = words["closed", "particles"]
        self.colours = words["adjectives", "colours"]
        self.measures = words["nouns", "measures"]
        self.before_nouns = words["participles", "before_nouns"]
        self.plural_modifiers = words["nouns", "plural_modifiers"]
        self.before_prepositions = words["participles", "before_prepositions"]
        self.listing = words["participles", "listing"]
        self._stop = words["closed", "stop"]
        self._unchanged = words["nouns", "singular_s"] | words["nouns", "plural_only"]
        self._plural_only = words["nouns", "plural_only"]
        self._mass = words["nouns", "mass"]
        self._plurals: dict[str, str] = dict(lists["irregular_plurals"])
        self._kinds: dict[str, str] = {}
        for kind, (section, names) in _KINDS.items():
            for name in names:
                for word in words[section, name]:
                    self._kinds.setdefault(word, KIND_LETTERS[kind])
        self._kinds |= {"her": "H", "to": "T", "'s": "'", "'": "'", "\u2019s": "'"}
        self._verbs = self._verb_forms(words, lists["irregular_verbs"])
        self._singulars = {singular: form for form, singular in reversed(self._plurals.items())}
        self.long_prepositions: dict[str, list[tuple[str, ...]]] = {}
        for text in sorted(words["closed", "long_prepositions"], key=lambda x: (-x.count("_"), x)):
            first, *others = text.split("_")
            self.long_prepositions.setdefault(first, []).append(tuple(others))
        self._entries: dict[str, WordEntry] = {}

    def entry(self, word: str) -> WordEntry:
        """Return what is known about a lower-case word.

        Kinds beside those of `_KINDS`: V verb; Y mostly a verb, or a noun; Z mostly a noun, or a
        verb; G form in -ing; E participle or past form in -ed; H "her"; T "to"; ' the possessive;
        "." punctuation.
        """
        entry = self._entries.get(word)
        if entry is None:
            if len(self._entries) >= MAX_CACHED:
                self._entries.clear()
            entry = self._entries[word] = self._classify(word)
        return entry

    def noun_lemma(self, word: str) -> str:
        """Return the singular of a lower-case noun."""
        irregular = self._plurals.get(word)
        if irregular is not None:
            return irregular
        if len(word) < 4 or word[-1] != "s" or word in self._unchanged:
            return word
        if word.endswith(("ss", "us", "is", "'s")):
            return word
        if word.endswith("ies") and len(word) > 4:
            return word[:-3] + "y"
        if word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
            return word[:-2]
        return word[:-1]

    def is_plural(self, word: str) -> bool:
        """Whether a lower-case noun is a plural."""
        return word in self._plural_only or self.noun_lemma(word) != word

    def is_mass(self, word: str) -> bool:
        """Whether a lower-case noun has no plural and no article."""
        return word in self._mass

    def plural(self, noun: str) -> str:
        """Return the plural of a noun, or of the last word of several."""
        before, blank, last = noun.rpartition(" ")
        if self.is_mass(last) or self.is_plural(last):
            return noun
        irregular = self._singulars.get(last)
        if irregular is not None:
            form = irregular
        elif last.endswith("y") and len(last) > 1 and last[-2] not in _VOWELS:
            form = last[:-1] + "ies"
        elif last.endswith(("s", "x", "z", "ch", "sh", "tomato", "potato", "hero", "mosquito")):
            form = last + "es"
        elif last.endswith("man") and not last.endswith(("human", "german", "ottoman")):
            form = last[:-3] + "men"
        else:
            form = last + "s"
        return before + blank + form

    def _verb_forms(
        self, words: dict[tuple[str, str], frozenset[str]], irregular: dict[str, str]
    ) -> dict[str, tuple[str, str, str]]:
        """Return kind, form and lemma of each form of each verb; the earlier list wins."""
        forms: dict[str, tuple[str, str, str]] = {}
        for kind, name in (("Y", "mostly"), ("Z", "seldom"), ("V", "pure")):
            for verb in sorted(words["verbs", name]):
                past = irregular[verb].split() if verb in irregular else [_with_ed(verb)]
                forms.setdefault(verb, (kind, "base", verb))
                forms.setdefault(_third_person(verb), (kind, "third", verb))
                forms.setdefault(_with_ing(verb), ("G", "", verb))
                for k, form in enumerate(past):
                    # The past form of "eat" is no participle, as there is "eaten".
                    is_participle = k > 0 or len(past) == 1
                    letter = "G" if form.endswith("ing") else "E" if is_participle else "V"
                    forms.setdefault(form, (letter, "past", verb))
        return forms

    def _classify(self, word: str) -> WordEntry:
        kind, form, verb = self._kinds.get(word, ""), "", word
        if word in self._verbs:
            verb_kind, form, verb = self._verbs[word]
            kind = kind or verb_kind
        if kind == "X":
            verb = _AUXILIARY_LEMMAS.get(word, word)
        elif not kind:
            kind, verb = self._by_ending(word)
        noun = self.noun_lemma(word)
        is_plural = noun != word or word in self._plural_only
        return WordEntry(kind, form, noun, verb, word in self._stop, is_plural)

    def _by_ending(self, word: str) -> tuple[str, str]:
        """Return kind and verb lemma of a word that is in no list."""
        if not any(map(str.isalnum, word)):
            return ".", word
        if word[0].isdigit():
            return ("M" if word.translate(_NO_SEPARATORS).isdigit() else "N"), word
        if word in ("'m", "'re", "'ve", "'ll", "'d"):
            return "X", word
        if len(word) > 5 and word.endswith("ing"):
            return "G", word[:-3]
        if len(word) > 4 and word.endswith("ed"):
            return ("J" if "-" in word else "E"), word[:-2]
        if len(word) > 4 and word.endswith("ly"):
            return "A", word
        if len(word) > 5 and word.endswith(_ADJECTIVE_ENDINGS):
            return "J", word
        return "N", word


_AUXILIARY_LEMMAS = {
    **dict.fromkeys(("is", "are", "was", "were", "be", "been", "being", "am", "'m", "'re"), "be"),
    **dict.fromkeys(("has", "have", "having", "had", "'ve"), "have"),
    **dict.fromkeys(("does", "doing", "did", "do"), "do"),
    "'ll": "will",
    "'d": "would",
}


@cache
def lexicon() -> Lexicon:
    """Return the lexicon; it is read once in each process."""
    return Lexicon()


def noun_lemma(word: str) -> str:
    """Return the singular of a lower-case noun."""
    return lexicon().noun_lemma(word)


def plural(noun: str) -> str:
    """Return the plural of a lower-case noun, or of the last word of several."""
    return lexicon().plural(noun)


def with_article(noun: str) -> str:
    """Return a singular noun phrase with "a" or "an"."""
    word = noun.lower()
    if word.startswith(_UN_AN) or word.startswith(_AN):
        return f"an {noun}"
    is_vowel = word[:1] in _VOWELS and not word.startswith(_A)
    return f"an {noun}" if word and is_vowel else f"a {noun}"


def number_word(number: int) -> str:
    """Return a number as a word, or as digits above ten."""
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)


def _third_person(verb: str) -> str:
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + "s"


def _doubled(verb: str) -> str:
    """Double the last consonant of a short verb: sit, sitting; but wait, waiting."""
    is_short = (
        len(verb) > 2
        and verb[-1] not in _VOWELS + "wxyh"
        and verb[-2] in _VOWELS
        and verb[-3] not in _VOWELS
        and sum(letter in _VOWELS for letter in verb) == 1
    )
    return verb + verb[-1] if is_short else verb


def _with_ing(verb: str) -> str:
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    return _doubled(verb) + "ing"


def _with_ed(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    return _doubled(verb) + "ed"
