"""Options of the bookkeeping steps, and their presets `paper` and `released`.

    options = PRESETS["paper"]
    options.fusion.min_sources        # 3
    PRESETS["released"].fusion        # as the released code fuses, with its defects

The defaults are those of `paper`: the paper's rules, and a better rule for each defect of the
released code. Every difference is one field; its description says what the released code does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# Upper limits of the layers of depth but the last, nearest first, as shares of the range.
LAYER_LIMITS = (0.1, 0.6, 0.85)


@dataclass(frozen=True)
class MergeOptions:
    """Selection of detections inside each model, before fusion.

    Attributes:
        min_score: detections below are dropped.
        nms_iou: a detection is dropped whose IoU with a better one is larger, whatever the labels.
    """

    min_score: float = 0.1
    nms_iou: float = 0.9


@dataclass(frozen=True)
class SourceOptions:
    """What fusion requires of the detections of one model.

    Attributes:
        name: of the model.
        min_score: only higher scores are used.
        person_score: only higher scores are used of the label `person`; None: `min_score`.
        lone_person_object: a `person` that no other model finds is an object above this score,
            and otherwise a floating object above `lone_person_float`; None: never an object.
        lone_person_float: see above; None: it is dropped. Read with `FusionOptions.lone_persons`.
        descriptions: its texts are attributes instead of labels.
    """

    name: str
    min_score: float = 0.3
    person_score: float | None = None
    lone_person_object: float | None = None
    lone_person_float: float | None = None
    descriptions: bool = False


RELEASED_SOURCES = (
    SourceOptions("eva-02-01", 0.6, 0.2, 0.75, 0.6),
    SourceOptions("co_detr", 0.2, 0.2, 0.5, 0.2),
    SourceOptions("eva-02-02", 0.6, 0.2, 0.75, 0.6),
    SourceOptions("ov_sam", 0.3),
    SourceOptions("owl_vit", 0.1),
    SourceOptions("pomp", 0.3),
    SourceOptions("grit", 0.3, descriptions=True),
)


@dataclass(frozen=True)
class FusionOptions:
    """Voting over the detections of all models.

    Attributes:
        sources: the models, the one whose boxes are used first. Other models follow in the order in
            which they are given, with the defaults of `SourceOptions`.
        iou: detections of later models with at least this IoU with a seed join it.
        min_sources: models that must agree on an object; with fewer it is a floating object.
            released: 2.
        min_label_sources: labels of an object that fewer models report are dropped; if no label has
            so many, all but the first are.
        lone_persons: `person` labels of one model follow `SourceOptions`. released: on; the paper
            has no such rule.
        rename_first: man, woman, men and women become `person` before labels are counted, in floats
            too, so that no list repeats a label. released: off; after fusion, only in objects, and
            without removal of duplicates.
        order: of labels and attributes: "votes": by number of models, then score, then text.
            released: "text"; the code has the order of a hash set, the recordings sort it.
        normalize_affordances: compare labels without case and with blanks for underscores.
            released: off; labels of LVIS and COCO with underscores never match.
        complete_affordances: use our additional labels of the affordance table. released: off.
    """

    sources: tuple[SourceOptions, ...] = RELEASED_SOURCES
    iou: float = 0.65
    min_sources: int = 3
    min_label_sources: int = 1
    lone_persons: bool = False
    rename_first: bool = True
    order: Literal["votes", "text"] = "votes"
    normalize_affordances: bool = True
    complete_affordances: bool = True


@dataclass(frozen=True)
class PhraseOptions:
    """Phrases of the short captions, and the box of each.

    Attributes:
        capitalize: parse the caption with its first letter in upper case and all others in lower
            case. released: on.
        spans: a phrase is a noun with the words before it that depend on it, and always
            `caption[start:end]`. released: off; it is the whole subtree of the noun, its words
            joined by blanks and cut at commas, so that it may not occur in the caption.
        nouns: phrases of one word and of an article and a noun count too. released: off; only if a
            caption has no other phrase.
        min_score: only boxes with a higher score are used.
        best_box: the box with the highest score of each phrase. released: off; the first.
        plural_boxes: a phrase whose noun is a plural has all its boxes. released: off; it has one,
            as every other phrase.
        every_phrase: a repeated phrase has a box, and the noun, of each occurrence. released: off;
            a repeated phrase keeps its first position and its last box, and the nouns of all
            phrases after it shift.
    """

    capitalize: bool = False
    spans: bool = True
    nouns: bool = True
    min_score: float = 0.5
    best_box: bool = True
    plural_boxes: bool = True
    every_phrase: bool = True


@dataclass(frozen=True)
class LinkOptions:
    """Links from phrases to objects.

    Attributes:
        iou: a phrase is linked to objects with a larger IoU.
        best: to the object or floating object with the largest IoU. released: off; to the first
            object and, independently, to the first floating object.
        match_new: floating objects that earlier phrases added can be linked too. released: on, also
            within one caption.
        unique_labels: the noun of a phrase is added to a floating object if it does not have that
            label. released: off; always, so that every linked floating object is promoted.
        unique_ids: an object is linked once to a phrase. released: off; ids may repeat.
        label_nouns: a floating object that a phrase adds has its noun as label. released: off; the
            phrase.
        keep_scores: and the score of its box. released: off; none.
        skip_number: the first new id is one more than the number of objects of both kinds, and so
            is `id_counter` if there is none. released: on.
        promote_sources: floating objects with votes of so many models are promoted; a phrase is one
            vote. released: None; those with more than one label, repeated labels included.
        renumber: promoted objects are numbered after the objects, and the floating objects after
            them. released: on, and ids in `affordances` are left as they were; off: ids never
            change.
        refresh_affordances: floating objects that phrases added or renamed get affordances.
            released: off.
    """

    iou: float = 0.75
    best: bool = True
    match_new: bool = True
    unique_labels: bool = True
    unique_ids: bool = True
    label_nouns: bool = True
    keep_scores: bool = True
    skip_number: bool = False
    promote_sources: int | None = 3
    renumber: bool = False
    refresh_affordances: bool = True


@dataclass(frozen=True)
class AttributeOptions:
    """Descriptions of objects, and promotion of large floating objects.

    Attributes:
        min_area: objects of at least this share of the image are described.
        prefix_only: only a prefix such as "Assistant:" is removed from the model's text. released:
            off; kept is what stands between the first and the second ": ".
        max_old: earlier attributes that are kept after the new one.
        unique_texts: an earlier attribute that equals the new one is not kept. released: off.
        split_text: an attribute that is a text is a list of its letters. released: on.
        promote_area: floating objects of more than this share of the image, and larger than every
            object, are promoted: the best of each label.
        keep_losers: a large floating object whose label an object has with a higher score stays a
            floating object. released: off; it is lost, and links keep its id.
        promote_once: a floating object of several labels is promoted once. released: off; once for
            each label.
        update_links: the ids of linked objects and of linked floating objects follow the promotion.
            released: off.
        missing_score: score of what has none. released: None; if such a score has to be compared
            promotion ends, and what was promoted before stays in both lists.
    """

    min_area: float = 0.02
    prefix_only: bool = True
    max_old: int = 1
    unique_texts: bool = True
    split_text: bool = False
    promote_area: float = 0.5
    keep_losers: bool = True
    promote_once: bool = True
    update_links: bool = True
    missing_score: float | None = 0.0


@dataclass(frozen=True)
class LabelOptions:
    """The label of each object, and its depth.

    Attributes:
        distinct: ask for a label if there are several different ones. released: off; also if one is
            repeated, or if there is none.
        float_labels: floating objects have a label too. released: off, although it is asked for.
        median_of: the pixels of the box that count: "all" finite ones. released: "nonzero", after
            the scale was applied.
        cover: the box is extended to complete pixels, so that it has at least one. released: off;
            its corners are cut to whole pixels.
        missing_depth: depth of a box without pixels. released: "nan"; "none" leaves it out.
    """

    distinct: bool = True
    float_labels: bool = True
    median_of: Literal["all", "nonzero"] = "all"
    cover: bool = True
    missing_depth: Literal["none", "nan"] = "none"


@dataclass(frozen=True)
class SceneGraphOptions:
    """The scene graph, and the two texts of it.

    Attributes:
        layers: upper limits of the first three layers, as shares of the range of depth.
        radius: objects of one layer whose centres are nearer to the first one's form a group; a
            share of the image's diagonal. released: None, see `radius_pixels`.
        radius_pixels: the same in pixels, if `radius` is None. released: 200.
        max_objects: of the text for the dense caption.
        max_context_objects: of the text for the additional context.
        strict_caps: no more objects than that, those with attributes first, then those with the
            highest score, in the order of the record. released: off; objects with attributes are
            moved to the front and never cut, an empty list of attributes counts as some, a slice
            with a negative end keeps a part of the rest, and objects without depth count.
        cap_floats: the first limit holds for floating objects too. released: off.
        prefix_only: only a prefix such as "Assistant:" is removed from an attribute. released:
            off; everything up to the first colon, and further colons become blanks.
        unlabeled: objects without a label are listed by their attribute in both texts. released:
            off; not in the text for the context.
        optional_landmark: an image without landmark has a graph. released: off; an error.
        skip_nan: objects whose depth is not a number are left out. released: off; they go to the
            background, and if the first one is not a number, all do.
        linked_only: phrases without an object are left out. released: off; only those that were
            never linked.
    """

    layers: tuple[float, float, float] = LAYER_LIMITS
    radius: float | None = 0.074
    radius_pixels: float = 200.0
    max_objects: int = 100
    max_context_objects: int = 30
    strict_caps: bool = True
    cap_floats: bool = True
    prefix_only: bool = True
    unlabeled: bool = True
    optional_landmark: bool = True
    skip_nan: bool = True
    linked_only: bool = True


@dataclass(frozen=True)
class GroundingOptions:
    """Phrases of the captions with their objects.

    Attributes:
        exact: captions and phrases are kept as they are, and a phrase is always
            `caption[start:end]`. released: off; short captions are normalised (NFKC, backslashes),
            the dense caption loses its punctuation after the spans were determined, goes through
            the decoding of escapes, and phrases that are not in it have no span.
        words: a phrase is found only as complete words, in any case. released: off; anywhere, in
            short captions with the same case.
        every_occurrence: all occurrences of a phrase are grounded. released: off; the first.
        all_ids: a phrase of a short caption has all its objects and their boxes. released: off; the
            smallest id and the box of the first.
        skip_missing: ids that no object has are left out, and phrases without objects. released:
            off; a missing box is null in short captions, and an error in dense ones.
        all_texts: a phrase is compared with all attributes and linked phrases of an object.
            released: off; the first attribute, or instead of it the last phrase that is linked to
            the object first.
        same_objects: phrases of several objects have all of them. released: off; the first.
        noun_agrees: a similar text counts only for objects that have the phrase's noun as a label,
            if there are such objects. released: off.
        skip_ambiguous: a phrase that is equally similar to texts of different objects is left out.
            released: off; the first.
        plurals: a plural noun names all objects with its label. released: off; a noun that several
            objects have is left out.
        min_similarity: share of common content words for a match.
        whole_words: content words are compared with words. released: off; with any part of the
            other phrase.
        head_noun: what is left is compared by its last noun. released: off; by every noun, and the
            part of the phrase that depends on it is grounded.
        distinct_objects: labels that match twice count their object once. released: off.
        overlaps: phrases may overlap. released: on; off keeps the longest.
        caption_order: groundings stand in the order of the caption. released: off; in short
            captions in the order of the links, in dense ones the longest first.
    """

    exact: bool = True
    words: bool = True
    every_occurrence: bool = True
    all_ids: bool = True
    skip_missing: bool = True
    all_texts: bool = True
    same_objects: bool = True
    noun_agrees: bool = True
    skip_ambiguous: bool = True
    plurals: bool = True
    min_similarity: float = 0.75
    whole_words: bool = True
    head_noun: bool = True
    distinct_objects: bool = True
    overlaps: bool = False
    caption_order: bool = True


@dataclass(frozen=True)
class MaskOptions:
    """Masks of objects.

    Attributes:
        iou: of the box of a proposal or a detection with that of the object, at least.
        min_box_iou: of the box of a mask with the box that it was made for, a proposal's own or
            that of the object. A proposal or detection below, or with an empty mask, is not used;
            of the segmenter's below the object has none. released: 0.0; only empty masks of the
            segmenter are left out.
        detector: whose masks are used where no proposal fits; None: of none, as in the paper.
        min_detector_score: of these masks. released: 0.0.
        sources: names for `mask_source` of masks of proposals, of the detector and of the
            segmenter. released: "SAM", "EVA", "HQ_SAM".
        replace_boxes: the box of the object becomes that of the mask. released: on.
        update_groundings: boxes in the captions change with it. released: off.
        corner_boxes: the segmenter's prompts are the boxes. released: off; they are converted as if
            they were x, y, width and height.
        unique_jobs: every object without mask is a job of its own. released: off; a repeated id
            is one job, with its last box.
    """

    iou: float = 0.65
    min_box_iou: float = 0.5
    detector: str | None = None
    min_detector_score: float = 0.1
    sources: tuple[str, str, str] = ("proposal", "detector", "segmenter")
    replace_boxes: bool = True
    update_groundings: bool = True
    corner_boxes: bool = True
    unique_jobs: bool = True


@dataclass(frozen=True)
class ReleasedExportOptions:
    """The files that the released training code reads.

    Attributes:
        prefix_only: only a prefix such as "Assistant:" is removed from a referring expression.
            released: off; these words are removed anywhere.
        any_case: an attribute contains a label in any case. released: off.
        skip_missing: an object without mask is left out of the referring expressions, and its
            phrase has no mask. released: off; the image is lost.
        float_masks: phrases of floating objects have their mask. released: off; null.
        every_object: a phrase of several objects has an entry for each. released: off; a phrase has
            one id.
    """

    prefix_only: bool = True
    any_case: bool = True
    skip_missing: bool = True
    float_masks: bool = True
    every_object: bool = True


@dataclass(frozen=True)
class GrandOptions:
    """The options of all bookkeeping steps."""

    merge: MergeOptions = field(default_factory=MergeOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    phrases: PhraseOptions = field(default_factory=PhraseOptions)
    links: LinkOptions = field(default_factory=LinkOptions)
    attributes: AttributeOptions = field(default_factory=AttributeOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    graph: SceneGraphOptions = field(default_factory=SceneGraphOptions)
    grounding: GroundingOptions = field(default_factory=GroundingOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    export: ReleasedExportOptions = field(default_factory=ReleasedExportOptions)


PRESETS: dict[str, GrandOptions] = {
    "paper": GrandOptions(),
    "released": GrandOptions(
        MergeOptions(),
        FusionOptions(
            min_sources=2,
            lone_persons=True,
            rename_first=False,
            order="text",
            normalize_affordances=False,
            complete_affordances=False,
        ),
        PhraseOptions(
            capitalize=True,
            spans=False,
            nouns=False,
            best_box=False,
            plural_boxes=False,
            every_phrase=False,
        ),
        LinkOptions(
            best=False,
            unique_labels=False,
            unique_ids=False,
            label_nouns=False,
            keep_scores=False,
            skip_number=True,
            promote_sources=None,
            renumber=True,
            refresh_affordances=False,
        ),
        AttributeOptions(
            prefix_only=False,
            unique_texts=False,
            split_text=True,
            keep_losers=False,
            promote_once=False,
            update_links=False,
            missing_score=None,
        ),
        LabelOptions(
            distinct=False,
            float_labels=False,
            median_of="nonzero",
            cover=False,
            missing_depth="nan",
        ),
        SceneGraphOptions(
            radius=None,
            strict_caps=False,
            cap_floats=False,
            prefix_only=False,
            unlabeled=False,
            optional_landmark=False,
            skip_nan=False,
            linked_only=False,
        ),
        GroundingOptions(
            exact=False,
            words=False,
            every_occurrence=False,
            all_ids=False,
            skip_missing=False,
            all_texts=False,
            same_objects=False,
            noun_agrees=False,
            skip_ambiguous=False,
            plurals=False,
            whole_words=False,
            head_noun=False,
            distinct_objects=False,
            overlaps=True,
            caption_order=False,
        ),
        MaskOptions(
            min_box_iou=0.0,
            detector="eva-02-01",
            min_detector_score=0.0,
            sources=("SAM", "EVA", "HQ_SAM"),
            update_groundings=False,
            corner_boxes=False,
            unique_jobs=False,
        ),
        ReleasedExportOptions(
            prefix_only=False,
            any_case=False,
            skip_missing=False,
            float_masks=False,
            every_object=False,
        ),
    ),
}
