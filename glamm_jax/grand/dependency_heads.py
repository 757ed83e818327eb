"""Flat dependency trees of captions, from parts of speech and noun phrases."""

from __future__ import annotations

from collections.abc import Callable

from glamm_jax.grand.lexicon import Lexicon
from glamm_jax.grand.part_of_speech import SENTENCE_END

NO_TOKEN = -1
_RELATIVES = frozenset(["who", "which", "that", "whom", "whose"])
_PARTICIPLE_ENDINGS = ("ing", "ed", "en", "wn", "rn")


def dependency_heads(
    words: list[str], tags: list[str], phrases: list[int], lexicon: Lexicon
) -> list[int]:
    """Return the head of each word; -1 for a root.

    Args:
        words: in lower case.
        tags: their parts of speech.
        phrases: the number of the noun phrase of each; -1: none.
        lexicon: the word lists.
    """
    heads = [NO_TOKEN] * len(words)
    nouns: dict[int, int] = {}  # noun phrase -> its last noun, or else its last word
    for i, number in enumerate(phrases):
        if number >= 0 and (
            tags[i] == "NOUN" or number not in nouns or tags[nouns[number]] != "NOUN"
        ):
            nouns[number] = i
    begin = 0
    while begin < len(words):
        end = begin
        while end < len(words) and not (tags[end] == "PUNCT" and words[end] in SENTENCE_END):
            end += 1
        sentence = _Sentence(words, tags, phrases, lexicon, nouns, heads, begin, end)
        if end < len(words):
            heads[end] = sentence.root
        begin = end + 1
    return heads


class _Sentence:
    """The heads of the words of one sentence, from left to right.

    Attributes:
        root: the main verb.
    """

    def __init__(
        self,
        words: list[str],
        tags: list[str],
        phrases: list[int],
        lexicon: Lexicon,
        nouns: dict[int, int],
        heads: list[int],
        begin: int,
        end: int,
    ) -> None:
        self.root = NO_TOKEN
        self._words, self._tags, self._phrases, self._heads = words, tags, phrases, heads
        self._lexicon = lexicon
        self._nouns = nouns
        self._begin, self._end = begin, end
        self._verb = NO_TOKEN  # the verb that governs what follows
        self._is_listing = False  # whether it enumerates what is in the image
        self._nearest = NO_TOKEN  # the last noun
        self._anchor = NO_TOKEN  # the noun that prepositions are attached to
        self._coordinated = NO_TOKEN  # the last noun that was attached as one more of several
        self._ended = NO_TOKEN  # the token behind the last noun phrase
        self._separator = NO_TOKEN  # a conjunction or comma directly behind a noun phrase
        self._preposition = NO_TOKEN  # one that waits for its noun
        self._is_opening = False  # whether the last preposition stood before subject and verb
        self._relative = NO_TOKEN  # a relative pronoun that waits for its verb
        self._relative_noun = NO_TOKEN
        self._subjects: list[int] = []  # what waits for the main verb
        self._loose: list[int] = []  # conjunctions and punctuation, which wait for it as well
        i = begin
        while i < end:
            if phrases[i] >= 0:
                i = self._noun_phrase(i)
            else:
                i = _RULES.get(tags[i], _Sentence._other)(self, i)
        for k in self._subjects:
            heads[k] = self.root
        for k in self._loose:
            if heads[k] < 0:
                heads[k] = self.root

    # ---- each method attaches what begins at token `i` and returns the token behind it

    def _noun_phrase(self, i: int) -> int:
        heads, tags, number = self._heads, self._tags, self._phrases[i]
        first, head = i, self._nouns[number]
        while i < self._end and self._phrases[i] == number:
            if i != head:
                heads[i] = head
            i += 1
        separator = self._separator
        is_enumerated = (
            separator >= 0
            and self._nearest >= 0
            and not (self._is_opening and self._words[separator] == ",")
        )
        if self._preposition >= 0:
            governor = heads[head] = self._preposition
            if heads[governor] < 0 or tags[heads[governor]] != "NOUN":
                self._anchor = head
            self._preposition = NO_TOKEN
        elif is_enumerated:
            self._enumerate(head, first)
        else:
            if self._relative >= 0:
                heads[head] = self._relative  # "a man whose hat ...": until the verb is known
            elif self._verb >= 0:
                heads[head] = self._verb
            else:
                self._subjects.append(head)
                self._is_opening = False
            self._anchor = head
        self._nearest, self._ended, self._separator = head, i, NO_TOKEN
        return i

    def _enumerate(self, head: int, first: int) -> None:
        """Attach a noun, whose phrase begins at `first`, as one more of an enumeration."""
        has_start = self._tags[first] in ("DET", "NUM", "PRON")
        governor = self._heads[head] = self._common_head(has_start)
        if governor < 0:
            self._subjects.append(head)
        for k in range(self._separator, first):
            self._heads[k] = governor
        self._anchor = self._coordinated = head

    def _common_head(self, has_start: bool) -> int:
        """Return the head of a noun that is enumerated after the nearest one.

        It is that of the nearest; but "a glass of juice and a plate" enumerates glass and plate, as
        the second phrase has a start of its own, and after "there are" all are enumerated together.
        """
        words, tags, heads = self._words, self._tags, self._heads
        governor = heads[self._nearest]
        while has_start and governor >= 0 and tags[governor] == "ADP":
            owner = heads[governor]
            if owner < 0 or tags[owner] != "NOUN":
                break
            if words[governor] != "of":
                top = heads[owner]
                if not self._is_listing or top < 0 or tags[top] not in ("VERB", "AUX"):
                    break
            governor = heads[owner]
        return governor

    def _adposition(self, i: int) -> int:
        words, tags, heads = self._words, self._tags, self._heads
        before = tags[i - 1] if i > self._begin else ""
        if self._ended == i:
            if words[i] == "of":
                heads[i] = self._nearest
            elif self._verb >= 0 and not self._is_listing and words[i] not in ("with", "without"):
                heads[i] = self._verb
            else:
                heads[i] = self._anchor
        elif before == "ADJ" or before == "PRON":
            heads[i] = i - 1
        elif self._verb >= 0:
            heads[i] = self._verb
        else:
            self._subjects.append(i)
            self._is_opening = True
        self._preposition = i
        i += 1
        while i < self._end and tags[i] == "ADP" and self._is_same_preposition(i):
            heads[i] = self._preposition
            i += 1
        return i

    def _is_same_preposition(self, i: int) -> bool:
        """Whether token `i` is one more word of the last preposition."""
        first = self._preposition
        begun = tuple(self._words[first + 1 : i + 1])
        table = self._lexicon.long_prepositions.get(self._words[first], ())
        return any(others[: len(begun)] == begun for others in table)

    def _verb_group(self, i: int) -> int:
        tags, heads = self._tags, self._heads
        main, k = i, i + 1
        while k < self._end:
            tag = tags[k]
            if tag == "VERB" or tag == "AUX":
                if tags[main] == "VERB":
                    break
                main = k
            elif tag != "ADV" and not (
                tag == "PART" and self._words[k] != "to" and tags[main] == "AUX"
            ):
                break
            k += 1
        for member in range(i, k):
            if member != main:
                heads[member] = main
        self._attach_verb(i, main)
        self._verb = main
        self._is_listing = self._words[main] in self._lexicon.listing
        self._coordinated = self._separator = NO_TOKEN
        self._is_opening = False
        return k

    def _attach_verb(self, i: int, main: int) -> None:
        """Attach the main verb of a group that begins at token `i`."""
        heads = self._heads
        if i > self._begin and self._tags[i - 1] == "PART" and self._words[i - 1] == "to":
            heads[i - 1] = main
            candidates = (self._verb, self.root, self._nearest)
            heads[main] = next((k for k in candidates if k >= 0), NO_TOKEN)
        elif self._relative >= 0:
            heads[self._relative] = main
            if self._anchor != self._relative_noun and heads[self._anchor] == self._relative:
                heads[self._anchor] = main
            heads[main] = self._relative_noun
            self._relative = NO_TOKEN
        elif self._nearest >= 0 and self._is_participle(i):
            is_after_noun = self._ended == i or self.root < 0
            heads[main] = self._anchor if is_after_noun else self.root
        else:
            if self.root < 0:
                self.root = main
            else:
                heads[main] = self.root
                if self._coordinated >= 0 and self._ended == i:
                    # It looked like one more object, and is the subject of this verb.
                    heads[self._coordinated] = main
            for k in self._subjects:
                heads[k] = main
            self._subjects = []

    def _is_participle(self, i: int) -> bool:
        """Whether a verb describes a noun, as in "a man riding a horse", "a car parked there"."""
        word = self._words[i]
        if self._tags[i] != "VERB":
            return False
        after = self._tags[i + 1] if i + 1 < self._end else ""
        if not word.endswith(_PARTICIPLE_ENDINGS):
            return after == "ADP" and word in self._lexicon.before_prepositions
        # "A man parked his car": the main verb has an object.
        has_object = after in ("DET", "PRON") and not word.endswith("ing")
        return not (has_object and self.root < 0)

    def _pronoun(self, i: int) -> int:
        heads = self._heads
        if self._words[i] in _RELATIVES and self._nearest >= 0:
            self._relative = i
            self._relative_noun = self._nearest if self._ended == i else self._anchor
            heads[i] = self._relative_noun
        elif self._preposition >= 0:
            heads[i] = self._preposition
            self._preposition = NO_TOKEN
        elif self._verb >= 0 and self._tags[i - 1] != "CCONJ":
            heads[i] = self._verb
        else:
            self._subjects.append(i)
            self._verb = NO_TOKEN
        self._separator = NO_TOKEN
        return i + 1

    def _conjunction(self, i: int) -> int:
        if self._tags[i] == "PUNCT" and self._words[i] != ",":
            return self._other(i)
        if self._ended == i:
            self._separator = i
        elif self._separator != i - 1:
            self._separator = NO_TOKEN
        self._preposition = NO_TOKEN
        return self._other(i)

    def _subordinator(self, i: int) -> int:
        self._verb = self._separator = self._coordinated = NO_TOKEN
        return self._other(i)

    def _adjective(self, i: int) -> int:
        if self._preposition >= 0:
            head = self._preposition
        elif self._ended == i and self._tags[i + 1 : i + 2] == ["ADP"]:
            head = self._nearest  # "a store full of flowers"
        else:
            head = self._verb if self._verb >= 0 else self._nearest
        self._heads[i] = head
        self._preposition = self._separator = NO_TOKEN
        return i + 1

    def _adverb(self, i: int) -> int:
        if i + 1 < self._end and self._tags[i + 1] == "ADJ":
            self._heads[i] = i + 1
        elif self._ended == i and self._verb < 0:
            self._heads[i] = self._nearest  # "a close up of ..."
            self._ended = i + 1
        elif self._verb >= 0:
            self._heads[i] = self._verb
        else:
            self._subjects.append(i)
        if self._separator != i - 1:
            self._separator = NO_TOKEN
        return i + 1

    def _other(self, i: int) -> int:
        self._loose.append(i)
        return i + 1


_RULES: dict[str, Callable[[_Sentence, int], int]] = {
    "ADP": _Sentence._adposition,
    "VERB": _Sentence._verb_group,
    "AUX": _Sentence._verb_group,
    "PRON": _Sentence._pronoun,
    "CCONJ": _Sentence._conjunction,
    "PUNCT": _Sentence._conjunction,
    "SCONJ": _Sentence._subordinator,
    "ADJ": _Sentence._adjective,
    "NUM": _Sentence._adjective,
    "ADV": _Sentence._adverb,
}
