"""The benchmarks: what each asks, on which splits, and how what is said is scored.

    benchmark = BENCHMARKS["gcg"]
    asked = open_questions(benchmark, Data("miniworld/easy", "test"), benchmark.wording())
    scored = benchmark.score(asked.items, said, "strict", Judges())

Training looks at held-out examples by the same functions (`python -m train`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from glamm_jax.evaluation import original_files, record_items
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.original_files import ReadFiles
from glamm_jax.evaluation.record_items import MakeItems, PromptTemplate
from glamm_jax.evaluation.scoring import (
    TextScorers,
    score_conversation,
    score_grounded_captions,
    score_grounded_phrases,
    score_referring,
    score_texts,
)
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.text import questions

Score = Callable[[Sequence[Item], Mapping[str, Prediction], Mode, TextScorers], MetricResult]


@dataclass(frozen=True)
class Benchmark:
    """One table of the paper.

    splits: those that are known; data of one's own may have others.
    original: the question that released checkpoints have seen. ours: that of our training.
    num_regions: boxes that come with the question. captions: whether texts are scored as captions.
    """

    name: str
    about: str
    splits: tuple[str, ...]
    from_record: MakeItems
    from_files: ReadFiles | None
    score: Score
    original: str
    ours: str
    num_regions: int = 0
    captions: bool = False

    def wording(self, question: str = "original", seed: int = 0) -> PromptTemplate:
        """How it asks: "original", "ours", or a question of one's own.

        Raises: WordingError when that cannot be asked.
        """
        known = {"original": self.original, "ours": self.ours}
        wording = PromptTemplate(known.get(question, question), seed=seed)
        record_items.check_prompt_template(wording, self.num_regions)
        return wording


_ALL = (
    Benchmark(
        "gcg",
        "grounded conversation generation: a caption with a mask for every phrase",
        ("val", "test"),
        record_items.grounded_caption,
        original_files.gcg,
        score_grounded_captions,
        questions.GCG_INSTRUCTION,
        questions.GCG_QUESTIONS[0],
        captions=True,
    ),
    Benchmark(
        "refseg",
        "referring segmentation: cIoU, gIoU with known answers, three sentences a picture, as the "
        "original and the paper have them; free cIoU, free gIoU of every sentence by itself",
        ("val", "test", "testA", "testB"),
        record_items.referring,
        None,
        score_referring,
        questions.REFERRING_INSTRUCTION,
        questions.SEGMENTATION_QUESTIONS[0],
    ),
    Benchmark(
        "region_caption",
        "a description of a box",
        ("val", "test"),
        record_items.region,
        original_files.region_captions,
        score_texts,
        questions.REGION_INSTRUCTION,
        questions.REGION_QUESTIONS[0],
        num_regions=1,
        captions=True,
    ),
    Benchmark(
        "image_caption",
        "a description of the picture",
        ("val", "test"),
        record_items.caption,
        original_files.image_captions,
        score_texts,
        questions.CAPTION_QUESTIONS[0],
        questions.CAPTION_QUESTIONS[0],
        captions=True,
    ),
    Benchmark(
        "conversation",
        "questions whose answers a language model judges",
        ("val", "test"),
        record_items.conversation,
        original_files.llava_bench,
        score_conversation,
        "",
        "",
    ),
    Benchmark(
        "phrase_grounding",
        "a caption is given, the masks of its phrases are asked for (appendix B.1)",
        ("val", "test"),
        record_items.grounded_phrases,
        None,
        score_grounded_phrases,
        questions.GROUNDING_QUESTIONS[0],
        questions.GROUNDING_QUESTIONS[0],
    ),
)
BENCHMARKS = {each.name: each for each in _ALL}
