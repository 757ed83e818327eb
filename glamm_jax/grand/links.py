"""Links from the phrases of the short captions to objects, and promotion of floating objects.

    record = link_phrases(record, phrase_boxes, ("a red cup", "a cup on a table."), LinkOptions())
    record.links[0]        # PhraseLink(phrase="a red cup", object_ids=(0,))

Source: GranD/utils/prepare_level_2.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.grand.affordances import find_affordances
from glamm_jax.grand.geometry import best_iou, inclusive_iou
from glamm_jax.grand.options import LinkOptions
from glamm_jax.grand.phrases import PhraseBox
from glamm_jax.grand.record import GrandObject, GrandRecord, PhraseLink, Vote, changed

PHRASE_SOURCE = "phrases"  # in votes


def link_phrases(
    record: GrandRecord,
    phrases: Sequence[PhraseBox],
    captions: Sequence[str],
    options: LinkOptions,
) -> GrandRecord:
    """Link every phrase to the objects whose boxes it has.

    A linked floating object gets the phrase's noun as a label. A phrase without an object becomes a
    floating object. Then floating objects with enough votes or labels become objects.

    Args:
        record: after fusion.
        phrases: with their boxes.
        captions: the short captions.
        options: what is linked, and what is promoted.

    Returns:
        The record with links, captions and `id_counter`.
    """
    linker = _Linker(record, options)
    for phrase in phrases:
        linker.link(phrase)
    return linker.result(captions)


class _Linker:
    """The lists that change while phrases are linked."""

    def __init__(self, record: GrandRecord, options: LinkOptions) -> None:
        self.record, self.options = record, options
        self.objects = list(record.objects)
        self.floats = list(record.floating_objects)
        self.num_old = len(self.floats)
        if options.skip_number:
            self.counter = len(self.objects) + len(self.floats) + 1
        else:
            self.counter = max([item.id for item in (*self.objects, *self.floats)], default=-1) + 1
        self.links: dict[str, list[int]] = {}
        self.new_texts: set[int] = set()  # ids of floating objects with new labels

    def link(self, phrase: PhraseBox) -> None:
        """Link one phrase, or add a floating object for it."""
        objects, floats = self._hits(phrase)
        ids = [self.objects[i].id for i in objects]
        for i in floats:
            item = self.floats[i]
            ids.append(item.id)
            self.floats[i] = self._with_vote(item, phrase)
        if not ids:
            ids.append(self.counter)
            self.floats.append(self._new_float(phrase))
            self.counter += 1
        linked = self.links.setdefault(_normalized(phrase), [])
        for number in ids:
            if not (self.options.unique_ids and number in linked):
                linked.append(number)

    def _hits(self, phrase: PhraseBox) -> tuple[list[int], list[int]]:
        """Return indices of the objects and of the floating objects that a phrase names."""
        floats = self.floats if self.options.match_new else self.floats[: self.num_old]
        limit = self.options.iou
        if self.options.best:
            boxes = [item.box for item in self.objects]
            boxes += [item.box for item in floats]
            index, iou = best_iou(phrase.box, boxes)
            if iou <= limit:
                return [], []
            first = len(self.objects)
            return ([index], []) if index < first else ([], [index - first])
        return self._first_hit(phrase, self.objects), self._first_hit(phrase, floats)

    def _first_hit(self, phrase: PhraseBox, items: Sequence[GrandObject]) -> list[int]:
        for i, item in enumerate(items):
            if inclusive_iou(item.box, phrase.box) > self.options.iou:
                return [i]
        return []

    def _with_vote(self, item: GrandObject, phrase: PhraseBox) -> GrandObject:
        nouns = phrase.nouns
        if self.options.unique_labels:
            nouns = tuple(noun for noun in dict.fromkeys(nouns) if noun not in item.labels)
        if nouns:
            self.new_texts.add(item.id)
        return changed(item, labels=item.labels + nouns, votes=(*item.votes, _vote(phrase)))

    def _new_float(self, phrase: PhraseBox) -> GrandObject:
        self.new_texts.add(self.counter)
        labels = phrase.nouns if self.options.label_nouns else (_normalized(phrase),)
        score = phrase.score if self.options.keep_scores else None
        return GrandObject(self.counter, phrase.box, labels, score, None, (_vote(phrase),))

    def _is_promoted(self, item: GrandObject) -> bool:
        minimum = self.options.promote_sources
        if minimum is None:
            return len(item.labels) > 1
        return len({vote.source for vote in item.votes}) >= minimum

    def result(self, captions: Sequence[str]) -> GrandRecord:
        """Promote floating objects and return the record."""
        promoted = [item for item in self.floats if self._is_promoted(item)]
        floats = [item for item in self.floats if not self._is_promoted(item)]
        ids: dict[int, int] = {}
        if self.options.renumber:
            number = len(self.objects)
            for item in (*promoted, *floats):
                ids[item.id] = number
                number += 1
            promoted = [changed(item, id=ids[item.id]) for item in promoted]
            floats = [changed(item, id=ids[item.id]) for item in floats]
        objects = self.objects + promoted
        links = tuple(
            PhraseLink(phrase, tuple([ids.get(number, number) for number in linked]))
            for phrase, linked in self.links.items()
        )
        linked_ids = {number for link in links for number in link.object_ids}
        affordances = self.record.affordances
        if self.options.refresh_affordances and self.new_texts:
            affordances = find_affordances([*objects, *floats])
        return changed(
            self.record,
            objects=tuple(objects),
            floating_objects=tuple(floats),
            affordances=affordances,
            captions=tuple(captions),
            links=links,
            linked_ids=tuple(sorted(linked_ids & {item.id for item in objects})),
            linked_floating_ids=tuple(sorted(linked_ids & {item.id for item in floats})),
            id_counter=self.counter,
        )


def _normalized(phrase: PhraseBox) -> str:
    return " ".join(phrase.phrase.lower().split())


def _vote(phrase: PhraseBox) -> Vote:
    score = 1.0 if phrase.score is None else phrase.score
    return Vote(PHRASE_SOURCE, phrase.nouns[0] if phrase.nouns else phrase.phrase, score)
