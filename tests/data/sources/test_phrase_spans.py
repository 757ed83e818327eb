"""Phrases get the right span, even if span, phrase or caption were changed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_SPAN,
    NULL_SPAN,
    OVERLAPPING_PHRASES,
    PHRASE_DIFFERS,
    PHRASE_NOT_FOUND,
    REPEATED_PHRASE,
    STALE_SPAN,
    DefectLog,
)
from glamm_jax.data.sources.phrase_spans import PhraseSpans


def placed(text, *phrases, stale=False):
    """Links of (phrase, span) pairs, region i for the i-th, and the kinds of defects."""
    log = DefectLog("here")
    caption = PhraseSpans(text, log, "caption")
    for i, (phrase, span) in enumerate(phrases):
        caption.add_phrase(phrase, span, [i], may_be_stale=stale)
    return caption.links(), [defect.kind for defect in log.defects]


def searched(text, *phrases):
    log = DefectLog("here")
    caption = PhraseSpans(text, log, "caption")
    for i, phrase in enumerate(phrases):
        caption.search_phrase(phrase, [i])
    return caption.links(), [defect.kind for defect in log.defects]


def test_a_span_that_says_its_phrase_is_kept_and_order_is_that_of_the_text():
    links, kinds = placed("A dog sits by a ball.", ("a ball", [14, 20]), ("a dog", [0, 5]))
    assert links == (Link(1, 0, 5), Link(0, 14, 20))
    assert kinds == []


@pytest.mark.parametrize(
    ("span", "kind"),
    [
        (None, NULL_SPAN),
        ([3, 8], STALE_SPAN),
        ([14, 99], STALE_SPAN),
        ([-4, 5], STALE_SPAN),
        ([5, 5], STALE_SPAN),
        ([9, 2], STALE_SPAN),
        ([14.0, 20.0], STALE_SPAN),
        ("14, 20", STALE_SPAN),
        ([True, 5], STALE_SPAN),
        ([[14, 20]], STALE_SPAN),
    ],
    ids=str,
)
def test_a_span_that_does_not_fit_is_replaced_by_the_place_of_its_phrase(span, kind):
    links, kinds = placed("A dog sits by a ball.", ("a ball", span))
    assert links == (Link(0, 14, 20),)
    assert kinds == [kind]


def test_of_several_places_the_one_nearest_to_a_stale_span_is_taken():
    text = "a dog, a cat and a dog"
    assert placed(text, ("a dog", [15, 20]))[0] == (Link(0, 17, 22),)
    assert placed(text, ("a dog", [1, 6]))[0] == (Link(0, 0, 5),)


def test_punctuation_and_spaces_do_not_hide_a_phrase():
    assert placed("A mans well-worn hat.", ("a man 's well - worn hat", None))[0] == (
        Link(0, 0, 20),
    )


def test_a_phrase_is_never_found_inside_of_a_word():
    links, kinds = searched("a woman stands", "man")
    assert links == ()
    assert kinds == [PHRASE_NOT_FOUND]


def test_a_span_of_whole_words_is_believed_against_its_phrase_unless_spans_may_be_stale():
    links, kinds = placed("A dog sits.", ("dog 2", [2, 5]))
    assert links == (Link(0, 2, 5),)
    assert kinds == [PHRASE_DIFFERS]
    links, kinds = placed("A dog sits.", ("dog 2", [2, 5]), stale=True)
    assert links == ()
    assert kinds == [PHRASE_NOT_FOUND]
    assert placed("A dog sits.", ("cat", [3, 7]))[0] == ()


def test_a_source_of_spans_alone_is_believed_where_they_fit():
    assert placed("A dog sits.", (None, [0, 5]), (None, [0, 50])) == ((Link(0, 0, 5),), [BAD_SPAN])


def test_equal_spans_join_their_masks():
    links, kinds = placed("two dogs", ("two dogs", [0, 8]), ("Two dogs", [0, 8]))
    assert links == (Link(0, 0, 8), Link(1, 0, 8))
    assert kinds == [REPEATED_PHRASE]


def test_a_phrase_searched_twice_takes_its_places_one_after_the_other():
    assert searched("a dog and a dog", "a dog", "A DOG") == ((Link(0, 0, 5), Link(1, 10, 15)), [])
    links, kinds = searched("a dog", "a dog", "a dog")
    assert links == (Link(0, 0, 5), Link(1, 0, 5))
    assert kinds == [REPEATED_PHRASE]


def test_of_overlapping_phrases_the_earlier_one_ends_before_the_later():
    links, kinds = searched("a woman in a red coat", "woman in a red coat", "a red coat")
    assert links == (Link(0, 2, 10), Link(1, 11, 21))
    assert kinds == [OVERLAPPING_PHRASES]


def test_of_phrases_with_one_start_the_longer_one_stays():
    links, kinds = searched("a woman in red", "a woman", "a woman in red")
    assert links == (Link(1, 0, 14),)
    assert kinds == [OVERLAPPING_PHRASES]


def test_neighbours_that_touch_do_not_overlap():
    assert placed("catdog", (None, [0, 3]), (None, [3, 6])) == ((Link(0, 0, 3), Link(1, 3, 6)), [])


@pytest.mark.parametrize("phrase", ["", "...", " ", "\u200d"])
def test_a_phrase_without_letters_is_not_found(phrase):
    assert searched("A dog. ...", phrase)[0] == ()


def test_a_caption_of_50_000_characters_is_searched_in_no_time():
    text = "a dog and " * 5000 + "one cat"
    assert placed(text, ("one cat", [0, 3]), ("a dog", None))[0] == (
        Link(1, 0, 5),
        Link(0, 50000, 50007),
    )


@settings(max_examples=200)
@given(
    st.text(alphabet="ab \u00df\u0130.,'", min_size=1, max_size=30),
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(alphabet="ab \u00df\u0130", max_size=4)),
            st.one_of(st.none(), st.lists(st.integers(-2, 33), max_size=3)),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_links_always_lie_in_the_text_in_order_and_apart(text, phrases, stale):
    links, _ = placed(text, *phrases, stale=stale)
    spans = sorted({(link.start, link.end) for link in links})
    assert [(link.start, link.end) for link in links] == sorted(
        (link.start, link.end) for link in links
    )
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
