"""Parts of speech of the words of a caption, by the word lists and by neighbouring words."""

from __future__ import annotations

from collections.abc import Callable

from glamm_jax.grand.lexicon import Lexicon, WordEntry

SENTENCE_END = frozenset(".!?;")
OUTSIDE, BEFORE_NOUN, BEHIND_NOUN = 0, 1, 2  # positions with respect to a noun phrase
# Kinds of words (`Lexicon.entry`) that can stand between a determiner and its noun, or be it.
_NOMINAL = frozenset("NZYKJGEMQ")
_PLAIN_NOMINAL = frozenset("NZKJ")
_DESCRIBED = frozenset("NZYKJG")  # behind a participle that describes a noun
_PHRASE_START = frozenset("DSHMNZYKJGEPQ")
_AFTER_VERB = frozenset("DSHP")
_ALWAYS_DETERMINERS = frozenset(["a", "an", "the", "every", "no"])
_FULL_VERBS = frozenset(["has", "have", "had", "having", "do", "does", "did"])
_NOUNS_TOO = frozenset(["can", "will", "might"])
_OBJECT_PRONOUNS = frozenset(["him", "her", "them"])
# Kind -> tag and whether a word of this kind is in a noun phrase, where nothing else decides.
_FIXED = {
    "N": ("NOUN", True),
    "S": ("PRON", True),
    "P": ("PRON", False),
    "C": ("CCONJ", False),
    "B": ("SCONJ", False),
    "L": ("ADP", False),
    ".": ("PUNCT", False),
}


class PartOfSpeechTagger:
    """The tags of one text, from left to right.

    Attributes:
        tags: part of speech of each word.
        phrases: number of the noun phrase that each word belongs to; -1: none.
    """

    def __init__(self, words: list[str], entries: list[WordEntry], lexicon: Lexicon) -> None:
        """Tag the words.

        Args:
            words: in lower case.
            entries: of the words.
            lexicon: of the entries.
        """
        self.tags: list[str] = []
        self.phrases: list[int] = []
        self._words = words
        self._entries = entries
        self._lexicon = lexicon
        self._kinds = [entry.kind for entry in entries]
        if not lexicon.long_prepositions.keys().isdisjoint(words):
            self._mark_prepositions()
        self._kinds += "..."  # the look-ahead needs no test of the end
        self._position = OUTSIDE
        self._number = -1  # of the last noun phrase
        self._has_determiner = False  # whether it has one, or a number or an owner
        self._previous = ""  # tag of the last word that is no adverb
        self._previous_index = -1
        self._has_verb = False  # whether the sentence has one so far
        for i, kind in enumerate(self._kinds[:-3]):
            fixed = _FIXED.get(kind)
            tag, is_nominal = fixed or _RULES[kind](self, i, self._kinds[i + 1])
            self._add(i, kind, tag, is_nominal)

    def _mark_prepositions(self) -> None:
        """Give the words of prepositions of several words the kind L."""
        words, kinds, table = self._words, self._kinds, self._lexicon.long_prepositions
        i = 0
        while i < len(words):
            is_free = i == 0 or kinds[i] not in "JKNZ" or kinds[i - 1] not in "DSH"
            for others in table.get(words[i], ()) if is_free else ():
                end = i + 1 + len(others)
                if tuple(words[i + 1 : end]) == others:
                    kinds[i:end] = "L" * (end - i)
                    i = end - 1
                    break
            i += 1

    def _add(self, i: int, kind: str, tag: str, is_nominal: bool) -> None:
        """Add the tag of a word, and begin, continue or end the noun phrase."""
        phrase = -1
        if kind == "'" and tag == "PART":
            self._position, self._has_determiner = BEFORE_NOUN, True
            phrase = self._number  # the owner is a part of the phrase
        elif is_nominal:
            phrase = self._continue_phrase(tag)
        elif self._position == BEFORE_NOUN and self._joins(i, tag):
            phrase = self._number
        else:
            self._position = OUTSIDE
        self.tags.append(tag)
        self.phrases.append(phrase)
        if tag == "VERB" or tag == "AUX":
            self._has_verb = True
        elif tag == "PUNCT" and self._words[i] in SENTENCE_END:
            self._has_verb = False
        if tag != "ADV":
            self._previous, self._previous_index = tag, i

    def _continue_phrase(self, tag: str) -> int:
        """Return the number of the noun phrase of a word, which may begin a new one."""
        position = self._position
        if tag == "DET" or tag == "NUM" or tag == "PRON":
            is_new = position == BEHIND_NOUN or (
                position == BEFORE_NOUN and tag != "NUM" and self._previous != "DET"
            )
        else:
            is_new = tag == "ADJ" and position == BEHIND_NOUN
        if is_new or position == OUTSIDE:
            self._number += 1
            self._has_determiner = False
        if tag == "DET" or tag == "NUM" or tag == "PRON":
            self._has_determiner = True
        self._position = BEHIND_NOUN if tag == "NOUN" else BEFORE_NOUN
        return self._number

    def _joins(self, i: int, tag: str) -> bool:
        """Whether a conjunction or comma joins adjectives of a noun: "a black and white cat"."""
        after = self._kinds[i + 1]
        return (
            (tag == "CCONJ" or self._words[i] == ",")
            and self._previous in ("ADJ", "NUM")
            and (after in "JKE" or (after == "M" and self._previous == "NUM"))
        )

    # ---- the kinds; each method returns the tag and whether the word is in a noun phrase

    def _determiner(self, i: int, after: str) -> tuple[str, bool]:
        is_determiner = self._words[i] in _ALWAYS_DETERMINERS or after in _NOMINAL or after in "AD"
        return ("DET" if is_determiner else "PRON"), is_determiner

    def _relative(self, i: int, after: str) -> tuple[str, bool]:
        follows = self._previous == "NOUN" and after not in "DSH"
        is_determiner = self._words[i] == "that" and not follows and after in _NOMINAL
        return ("DET" if is_determiner else "PRON"), is_determiner

    def _her(self, i: int, after: str) -> tuple[str, bool]:
        return "PRON", after in _NOMINAL

    def _adjective(self, i: int, after: str) -> tuple[str, bool]:
        kind, later = self._kinds[i], self._kinds[i + 2]
        is_inside = self._position == BEFORE_NOUN
        follows = (after in _NOMINAL and not (kind == "K" and after in "GE")) or (
            after in "C." and self._words[i + 1 : i + 2] != ["."] and later in "JK"
        )
        if kind == "K":
            if self._position == BEHIND_NOUN and after in "NZ":
                return "NOUN", True  # "ice cream cone"
            if not follows and not is_inside and self._previous in ("NOUN", "ADP"):
                return "NOUN", True
        if is_inside and self._has_determiner and not follows:
            return "NOUN", True  # "the young"
        if after in "GE" and not is_inside:
            # "is empty standing there": the participle describes no noun.
            return "ADJ", later in _NOMINAL
        return "ADJ", follows and (is_inside or after in _NOMINAL)

    def _numeral(self, i: int, after: str) -> tuple[str, bool]:
        is_inside = self._position == BEFORE_NOUN
        is_nominal = after in _NOMINAL or (is_inside and after == "C")
        if self._words[i] == "one" and not is_nominal:
            return ("NOUN" if is_inside else "PRON"), is_inside
        return "NUM", is_nominal

    def _quantity(self, i: int, after: str) -> tuple[str, bool]:
        is_inside = self._position == BEFORE_NOUN
        is_nominal = after in _NOMINAL and (is_inside or after not in "JE")
        return ("ADJ" if is_nominal else "ADV"), is_nominal

    def _adverb(self, i: int, after: str) -> tuple[str, bool]:
        return "ADV", self._position == BEFORE_NOUN and after in _NOMINAL

    def _preposition(self, i: int, after: str) -> tuple[str, bool]:
        is_particle = self._words[i] in self._lexicon.particles and after not in _PHRASE_START
        return ("ADV" if is_particle else "ADP"), False

    def _to(self, i: int, after: str) -> tuple[str, bool]:
        following = self._words[i + 1 : i + 2]
        is_infinitive = following == ["be"] or (
            bool(following) and after in "VY" and self._entries[i + 1].form == "base"
        )
        return ("PART" if is_infinitive else "ADP"), False

    def _apostrophe(self, i: int, after: str) -> tuple[str, bool]:
        """Tell the possessive from "is": "it's", "the man's wearing a hat"."""
        is_owner = self._previous == "NOUN"
        if self._words[i] == "'":
            return ("PART" if is_owner else "PUNCT"), False
        is_verb = after in "DSI" or (after == "G" and self._kinds[i + 2] in "DSHI")
        return ("PART" if is_owner and not is_verb else "AUX"), False

    def _auxiliary(self, i: int, after: str) -> tuple[str, bool]:
        word = self._words[i]
        if self._position == BEFORE_NOUN and word in _NOUNS_TOO and after in "CI.":
            return "NOUN", True  # "a can of soda"
        if word in _FULL_VERBS:
            later = after if after != "A" else self._kinds[i + 2]
            if not (later in "EX" or (word[0] == "d" and later in "VY")):
                return "VERB", False
        return "AUX", False

    def _ing(self, i: int, after: str) -> tuple[str, bool]:
        if self._position == BEFORE_NOUN:
            return ("ADJ" if after in _DESCRIBED else "NOUN"), True
        describes = (
            after in _PLAIN_NOMINAL
            and self._words[i] in self._lexicon.before_nouns
            and self._previous != "AUX"
            and (self._previous != "NOUN" or self._position == OUTSIDE)
            and not (self._has_verb and self._previous == "CCONJ")
        )
        return ("ADJ", True) if describes else ("VERB", False)

    def _participle(self, i: int, after: str) -> tuple[str, bool]:
        if self._position == BEFORE_NOUN:
            if after in _DESCRIBED or (after in "C." and self._kinds[i + 2] in "JKE"):
                return "ADJ", True
            return ("NOUN", True) if self._previous == "DET" else ("VERB", False)
        describes = (
            after in _PLAIN_NOMINAL
            and self._previous not in ("NOUN", "AUX", "PRON")
            and (not self._has_verb or self._previous in ("", "ADP", "PUNCT", "CCONJ", "VERB"))
        )
        return ("ADJ", True) if describes else ("VERB", False)

    def _verb(self, i: int, after: str) -> tuple[str, bool]:
        return ("NOUN", True) if self._position == BEFORE_NOUN else ("VERB", False)

    def _noun_or_verb(self, i: int, after: str) -> tuple[str, bool]:
        is_verb = self._position != BEFORE_NOUN and self._is_verb(i, after)
        return ("VERB", False) if is_verb else ("NOUN", True)

    def _is_verb(self, i: int, after: str) -> bool:
        """Decide about a word that is a noun and a verb, by its form and its neighbours."""
        previous, index = self._previous, self._previous_index
        word = self._words[index] if index >= 0 else ""
        is_subject = previous == "PRON" and word not in _OBJECT_PRONOUNS
        is_mostly_verb = self._kinds[i] == "Y"
        if self._entries[i].form != "base":
            if is_mostly_verb:
                return previous == "NOUN" or is_subject or (previous == "CCONJ" and self._has_verb)
            return (previous == "NOUN" or is_subject) and after in _AFTER_VERB
        if previous == "AUX":
            return word in self._lexicon.modals
        if previous == "PART":
            return word == "to"
        follows_plural = (
            previous == "NOUN"
            and self._entries[index].is_plural
            and word not in self._lexicon.plural_modifiers
        )
        if not is_mostly_verb:
            return (is_subject and after not in "C.") or (follows_plural and after in "DSHPIAL")
        return (
            is_subject
            or follows_plural
            or (previous == "CCONJ" and self._has_verb and after in "DSIAT")
            or (word == "," and after in "TIL")
        )


_RULES: dict[str, Callable[[PartOfSpeechTagger, int, str], tuple[str, bool]]] = {
    "D": PartOfSpeechTagger._determiner,
    "W": PartOfSpeechTagger._relative,
    "H": PartOfSpeechTagger._her,
    "J": PartOfSpeechTagger._adjective,
    "K": PartOfSpeechTagger._adjective,
    "M": PartOfSpeechTagger._numeral,
    "Q": PartOfSpeechTagger._quantity,
    "A": PartOfSpeechTagger._adverb,
    "I": PartOfSpeechTagger._preposition,
    "T": PartOfSpeechTagger._to,
    "'": PartOfSpeechTagger._apostrophe,
    "X": PartOfSpeechTagger._auxiliary,
    "G": PartOfSpeechTagger._ing,
    "E": PartOfSpeechTagger._participle,
    "V": PartOfSpeechTagger._verb,
    "Y": PartOfSpeechTagger._noun_or_verb,
    "Z": PartOfSpeechTagger._noun_or_verb,
}
