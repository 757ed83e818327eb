"""The complete annotation: roles and options in, a graph of stages out.

    graph = build_graph(roles, PIPELINES["paper"])
    run = AnnotationRun.create("run", scan_images("photos"), "photos")
    result = run_local(run, graph)

The stages are those of `glamm_jax.grand.levels`; here they are only connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.images import ImageOptions, image_stage
from glamm_jax.grand.levels import level1, level2, level3, level4
from glamm_jax.grand.levels.level1 import DepthOptions, RegionOptions, TagOptions
from glamm_jax.grand.options import PRESETS, GrandOptions
from glamm_jax.grand.prompts import PromptTexts, default_prompts
from glamm_jax.grand.relations import RelationOptions
from glamm_jax.grand.roles import (
    Captioner,
    DenseCaptioner,
    DepthEstimator,
    Detector,
    LabelChooser,
    LandmarkClassifier,
    OpenDetector,
    PhraseGrounder,
    RegionCaptioner,
    RegionClassifier,
    RegionProposer,
    Segmenter,
    Tagger,
    TextLLM,
    TextParser,
)
from glamm_jax.grand.stages import Stage, StageGraph
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.grand.verification import RELEASED, VerificationOptions


class RoleSetError(GLaMMError):
    """The roles do not suffice for the annotation. Says which are missing."""


@dataclass(frozen=True)
class RoleSet:
    """The models of an annotation. Those that are None or empty leave out what they give.

    Attributes:
        detectors: with a fixed list of classes, by name.
        depth_estimator: without it there is no scene graph, and so no dense caption.
        captioners: of short captions, by name.
        phrase_grounder: finds the boxes of their phrases.
        llm: writes dense captions and additional context.
        taggers: by name; what open detectors are asked for.
        open_detectors: by name.
        dense_captioners: models that find and describe regions, by name.
        region_proposer: regions with masks.
        region_classifiers: label the proposals, by name.
        landmark_classifier: kind of place.
        region_captioner: describes objects.
        label_chooser: chooses one of several labels.
        segmenter: masks of boxes that no proposal fits.
        checker: lists what a dense caption implies; None: `llm`.
        text_parser: of captions.
    """

    detectors: Mapping[str, Detector] = field(default_factory=dict)
    depth_estimator: DepthEstimator | None = None
    captioners: Mapping[str, Captioner] = field(default_factory=dict)
    phrase_grounder: PhraseGrounder | None = None
    llm: TextLLM | None = None
    taggers: Mapping[str, Tagger] = field(default_factory=dict)
    open_detectors: Mapping[str, OpenDetector] = field(default_factory=dict)
    dense_captioners: Mapping[str, DenseCaptioner] = field(default_factory=dict)
    region_proposer: RegionProposer | None = None
    region_classifiers: Mapping[str, RegionClassifier] = field(default_factory=dict)
    landmark_classifier: LandmarkClassifier | None = None
    region_captioner: RegionCaptioner | None = None
    label_chooser: LabelChooser | None = None
    segmenter: Segmenter | None = None
    checker: TextLLM | None = None
    text_parser: TextParser = field(default_factory=RuleParser)


@dataclass(frozen=True)
class PipelineOptions:
    """The options of all stages.

    Attributes:
        image: which images are annotated.
        tags: that open detectors are asked for.
        regions: that region classifiers label.
        depth: precision of depth maps.
        steps: of the bookkeeping.
        relations: subject, predicate and object.
        verification: of dense captions.
    """

    image: ImageOptions = field(default_factory=ImageOptions)
    tags: TagOptions = field(default_factory=TagOptions)
    regions: RegionOptions = field(default_factory=RegionOptions)
    depth: DepthOptions = field(default_factory=DepthOptions)
    steps: GrandOptions = field(default_factory=GrandOptions)
    relations: RelationOptions = field(default_factory=RelationOptions)
    verification: VerificationOptions = field(default_factory=VerificationOptions)


PIPELINES: dict[str, PipelineOptions] = {
    "paper": PipelineOptions(),
    "released": PipelineOptions(
        tags=TagOptions(extra_classes=("trees",)),
        depth=DepthOptions(levels=255),
        steps=PRESETS["released"],
        relations=RelationOptions(enabled=False),
        verification=RELEASED,
    ),
}


def build_graph(
    roles: RoleSet, options: PipelineOptions, prompts: PromptTexts | None = None
) -> StageGraph:
    """Return the stages of an annotation.

    Args:
        roles: the models.
        options: of all stages.
        prompts: texts of the requests to language models; None: those of this library.

    Raises:
        RoleSetError: fewer sources of detections than an object needs.
    """
    prompts = default_prompts() if prompts is None else prompts
    steps = options.steps
    stages, detections = _sources(roles, options)
    needed = steps.fusion.min_sources
    if len(detections) < needed:
        raise RoleSetError(
            f"an object needs {needed} models that agree (fusion.min_sources), and there are "
            f"{len(detections)} detectors, region captioners and region classifiers; add roles or "
            f"set fusion.min_sources={len(detections)}"
        )
    tags = [level1.TAGS + name for name in roles.taggers]
    has_landmark = roles.landmark_classifier is not None
    stages.append(level1.fusion_stage(detections, has_landmark, steps.merge, steps.fusion))
    stages += _second_level(roles, options)
    stages.append(level3.graph_stage(steps.graph, tags))
    if roles.llm is not None:
        stages.append(
            level3.dense_caption_stage(
                roles.llm, roles.checker, roles.text_parser, prompts, options.verification
            )
        )
        stages.append(level4.context_stage(roles.llm, prompts, options.verification))
    stages.append(level3.grounding_stage(roles.text_parser, steps.grounding, roles.llm is not None))
    with_masks = [level1.DETECTIONS + name for name in roles.detectors]
    has_proposals = roles.region_proposer is not None
    stages.append(level3.mask_stage(roles.segmenter, has_proposals, with_masks, steps.masks))
    stages.append(level4.annotation_stage(roles.llm is not None))
    return StageGraph(stages)


def _sources(roles: RoleSet, options: PipelineOptions) -> tuple[list[Stage], list[str]]:
    """Return the stages that look at the image, and the names of those whose boxes are merged."""
    stages = [image_stage(options.image)]
    stages += [level1.tag_stage(name, role) for name, role in roles.taggers.items()]
    voting = [level1.detection_stage(name, role) for name, role in roles.detectors.items()]
    voting += [
        level1.open_detection_stage(name, role, [*roles.taggers], options.tags)
        for name, role in roles.open_detectors.items()
    ]
    voting += [
        level1.region_caption_stage(name, role) for name, role in roles.dense_captioners.items()
    ]
    if roles.region_proposer is not None:
        stages.append(level1.proposal_stage(roles.region_proposer))
        voting += [
            level1.region_label_stage(name, role, options.regions)
            for name, role in roles.region_classifiers.items()
        ]
    elif roles.region_classifiers:
        raise RoleSetError("a region classifier needs a region proposer")
    if roles.depth_estimator is not None:
        stages.append(level1.depth_stage(roles.depth_estimator, options.depth))
    if roles.landmark_classifier is not None:
        stages.append(level1.landmark_stage(roles.landmark_classifier))
    return stages + voting, [stage.name for stage in voting]


def _second_level(roles: RoleSet, options: PipelineOptions) -> list[Stage]:
    steps = options.steps
    captions = [level2.CAPTIONS + name for name in roles.captioners]
    stages = [level2.caption_stage(name, role) for name, role in roles.captioners.items()]
    stages.append(level2.phrase_stage(roles.text_parser, captions, steps.phrases))
    if roles.phrase_grounder is not None:
        stages.append(level2.phrase_box_stage(roles.phrase_grounder, steps.phrases))
    has_boxes = roles.phrase_grounder is not None
    stages.append(level2.link_stage(has_boxes, steps.links, options.relations))
    if roles.region_captioner is not None:
        stages.append(level2.attribute_stage(roles.region_captioner, steps.attributes))
    last = "links" if roles.region_captioner is None else "region_attributes"
    if roles.label_chooser is not None:
        stages.append(level2.label_stage(roles.label_chooser, last, steps.labels))
    stages.append(
        level2.object_stage(
            last,
            roles.label_chooser is not None,
            roles.depth_estimator is not None,
            steps.labels,
        )
    )
    return stages
