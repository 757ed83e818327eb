"""The benchmarks, one module each; a new one is a module and a line here.

    benchmark = BENCHMARKS["gcg"]
    prompt = benchmark.prompt_template("original")
    item_set = open_items(benchmark, EvaluationData("path/to/data", "val", limit=2), prompt)
    result = benchmark.score(item_set.items, predictions, "strict", TextScorers())

`base` has the types that they share.
"""

from __future__ import annotations

from glamm_jax.evaluation.benchmarks.base import Benchmark
from glamm_jax.evaluation.benchmarks.chair import CHAIR
from glamm_jax.evaluation.benchmarks.conversation import CONVERSATION
from glamm_jax.evaluation.benchmarks.gcg import GCG
from glamm_jax.evaluation.benchmarks.grefcoco import GREFCOCO
from glamm_jax.evaluation.benchmarks.grounding_suite import GROUNDING_SUITE
from glamm_jax.evaluation.benchmarks.hallu_seg_bench import HALLU_SEG_BENCH
from glamm_jax.evaluation.benchmarks.image_caption import IMAGE_CAPTION
from glamm_jax.evaluation.benchmarks.phrase_grounding import PHRASE_GROUNDING
from glamm_jax.evaluation.benchmarks.reason_seg import REASON_SEG
from glamm_jax.evaluation.benchmarks.refseg import REFSEG
from glamm_jax.evaluation.benchmarks.region_caption import REGION_CAPTION

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        GCG,
        REFSEG,
        REGION_CAPTION,
        IMAGE_CAPTION,
        CONVERSATION,
        PHRASE_GROUNDING,
        REASON_SEG,
        GREFCOCO,
        GROUNDING_SUITE,
        HALLU_SEG_BENCH,
        CHAIR,
    )
}
