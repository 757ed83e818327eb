"""Ask a model the questions of a benchmark, and score what it says; or compare two runs.

BENCHMARK  gcg               a caption with a mask for every phrase (val, test)
           refseg            a mask for every expression (refCOCO, +, g; teacher-forced and free)
           region_caption    a description of a box (refCOCOg, Visual Genome)
           image_caption     a description of the picture (NoCaps, Flickr30k)
           conversation      answers that a language model judges (LLaVA-Bench)
           phrase_grounding  masks of a given caption's phrases (appendix B.1)

--data     miniworld/WORLD@SIZE   scenes drawn from held-out seeds: nothing to download
           FOLDER            record shards, as `python -m convert dataset` writes them
           FOLDER --dataset NAME    a dataset in its original layout, no conversion needed
           FOLDER or FILE    the original's evaluation files ({split}_gcg_coco_*_gt.json, COCO
                             captions with boxes, NoCaps, dataset_flickr30k.json, LLaVA-Bench)

  glamm-jax eval gcg --model checkpoints/miniworld-tiny --data miniworld/easy@64 --out out/gcg
  glamm-jax eval gcg --model glamm --data GranDf/annotations/val_test --split test --out out/test
  glamm-jax eval refseg --model glamm --data data --dataset refcoco --split testA --out out/testA
  glamm-jax eval gcg --predictions DIR --data GranDf/annotations/val_test --out out/scored
  glamm-jax eval compare out/before out/after

--question says how it is asked: `original`, the words that released checkpoints know; `ours`, those
of our training; or your own, with {name} for the expression and {regions} for the box.

The same command goes on with a run that was stopped or killed; finished items are not asked again.

OUT/config.json        what the predictions follow from: weights, data, question, seed, versions
OUT/predictions.jsonl  every prediction; OUT/predictions the same in the original's layout
OUT/reviews.jsonl      what the judge of a conversation wrote
OUT/scores.json        figures of both modes as fractions, and what each item contributes
OUT/report.html        the page to look at: best and worst, masks, phrases, failures

Exit status: 0 done, 2 something cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from tqdm import tqdm

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.cli import compare
from glamm_jax.cli.program import make_parser, positive_int, run_program
from glamm_jax.config import GLaMMConfig
from glamm_jax.data.record_sources import find_scheme
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation.benchmarks import BENCHMARKS, Benchmark
from glamm_jax.evaluation.bert_similarity import BERT, BertSimilarity
from glamm_jax.evaluation.evaluation_run import (
    REPORT,
    EvaluationRun,
    GenerationConfig,
)
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.llm_judge import LLMJudge, review_all
from glamm_jax.evaluation.published import beside_paper
from glamm_jax.evaluation.scoring import TextScorers
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.metrics.captions import DEFAULT_CAPTION_METRICS, check_java
from glamm_jax.metrics.similarity import CachedSimilarity, Similarity, WordSimilarity
from glamm_jax.parallel import make_mesh
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.weights.folder import ModelFolder

REVIEWS = "reviews.jsonl"
PATIENCE = 24 * 3600  # seconds that a process which is done waits for the others


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax eval") -> int:
    """Check everything, then predict and score; returns the exit status."""
    given = sys.argv[1:] if arguments is None else [*arguments]
    if given[:1] == ["compare"]:
        return compare.main(given[1:], f"{prog} compare")
    options = parse(given, prog)
    return run_program("eval", lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> None:
    """One run, from the command line's options."""
    join(options)
    if options.model:
        held = ModelFolder(options.model).config
        if not isinstance(held, GLaMMConfig):
            raise ConfigError(f"{options.model}: holds a part of a model, not a whole GLaMM")
    benchmark = BENCHMARKS[options.benchmark]
    judges = judges_of(benchmark, options)
    run = EvaluationRun(benchmark, data_of(options), options.out, asking_of(options))
    print(f"{len(run.questions.items)} items, data {run.questions.hash[:12]}", flush=True)
    if options.predictions:
        read = run.read_predictions(options.predictions)
        said, irregular = read.predictions, read.notes
    else:
        said, irregular = run.predict(assistant_of(options), str(options.model)), {}
    if jax.process_index():
        return
    if isinstance(judges.similarity, BertSimilarity):  # all at once: five times faster
        answers = (*run.questions.items, *said.values())
        judges.similarity.warm([phrase for each in answers for phrase in phrases_of(each)])
    scores = run.score(said, judges, irregular)
    print(
        beside_paper(scores.benchmark, scores.split, {m: x.scores for m, x in scores.modes.items()})
    )
    for kind, names in scores.modes["strict"].notes.items():
        print(f"{len(names)} {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    print(benchmark.about)
    print(f"wrote {options.out}, {options.out / REPORT}")


def phrases_of(each: Item | Prediction) -> tuple[str, ...]:
    """The phrases of the truth, or those that were said."""
    return each.reference_phrases if isinstance(each, Item) else each.phrases


def join(options: argparse.Namespace) -> None:
    """Become one of several processes, where that is asked for."""
    if options.coordinator == "auto":
        jax.distributed.initialize(shutdown_timeout_seconds=PATIENCE)
    elif options.coordinator:
        which = (options.coordinator, options.processes, options.process)
        jax.distributed.initialize(*which, shutdown_timeout_seconds=PATIENCE)


def data_of(options: argparse.Namespace) -> EvaluationData:
    """What is asked about."""
    return EvaluationData(
        options.data,
        options.split,
        options.dataset,
        options.images,
        options.limit,
        options.seed,
    )


def asking_of(options: argparse.Namespace) -> GenerationConfig:
    """How it is asked; a mini-world in our words, as the models that know it were."""
    scheme = find_scheme(options.data)
    question = options.question or ("original" if scheme is None else scheme.prompt_style)
    return GenerationConfig(question, options.tokens, options.batch, options.seed)


def judges_of(benchmark: Benchmark, options: argparse.Namespace) -> TextScorers:
    """Who judges texts, as far as this benchmark has some.

    Raises: MetricError, EncoderError, JudgeError when one of them is not there.
    """
    figures = tuple(options.captions) if benchmark.captions else ()
    check_java(figures)
    similarity: Similarity = CachedSimilarity(WordSimilarity())
    if benchmark.name == "gcg" and options.similarity != similarity.name:
        similarity = BertSimilarity(options.similarity)
    if benchmark.name != "conversation" or not options.judge:
        return TextScorers(similarity, figures)
    judge = LLMJudge(options.judge, options.judge_model)
    review = partial(review_all, judge=judge, path=options.out / REVIEWS, watch=tqdm)
    return TextScorers(similarity, figures, review)


def assistant_of(options: argparse.Namespace) -> Assistant:
    """The model on all devices of this process."""
    local = jax.local_devices()
    places = len(local) // (options.fsdp * options.tensor)
    if not places:
        raise ConfigError(
            f"--fsdp {options.fsdp} --tensor {options.tensor}: there are {len(local)} devices here"
        )
    mesh = make_mesh(places, options.fsdp, options.tensor, local) if len(local) > 1 else None
    print(f"loading {options.model} onto {len(local)} x {local[0].device_kind}", flush=True)
    return load(options.model, options.dtype, mesh)


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax eval") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS, metavar="BENCHMARK")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="a model folder")
    source.add_argument("--predictions", type=Path, help="score these instead of asking a model")
    add("--data", required=True, help="miniworld/NAME, a folder or a file")
    add("--out", type=Path, required=True, help="new, or a run that goes on")
    add("--split", default="val", help="%(default)s unless given")
    add("--dataset", default="", metavar="NAME", help="the dataset that --data holds as it came")
    add("--images", type=Path, help="where the pictures are, if not beside the original's files")
    add("--limit", type=positive_int, metavar="N", help="the first N pictures alone")
    add("--question", help="original, ours, or your own words")
    add("--seed", type=int, default=0, help="of what is drawn: sentences, scenes")
    add("--tokens", type=positive_int, default=MAX_NEW_TOKENS, help="of an answer (%(default)s)")
    add(
        "--batch",
        type=positive_int,
        default=8,
        help="rows that are answered together (%(default)s)",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="the model's own if absent")
    add("--fsdp", type=positive_int, default=1, help="devices that share the weights (%(default)s)")
    add("--tensor", type=positive_int, default=1, help="devices that share a layer (%(default)s)")
    add(
        "--similarity",
        default=BERT,
        metavar="words|BERT",
        help="judges phrases in mask recall: a BERT by id or folder (%(default)s), or shared words",
    )
    add(
        "--captions",
        nargs="*",
        default=DEFAULT_CAPTION_METRICS,
        metavar="FIGURE",
        help=f"of captions; they need Java ({' '.join(DEFAULT_CAPTION_METRICS)}; SPICE where "
        "CoreNLP is)",
    )
    add("--judge", metavar="URL", help="an OpenAI-compatible endpoint, for conversations")
    add("--judge-model", default="gpt-4", metavar="NAME", help="which of its models (%(default)s)")
    add("--coordinator", metavar="HOST:PORT|auto", help="one of several processes; auto on TPUs")
    add("--processes", type=positive_int, metavar="N", help="how many there are")
    add("--process", type=int, metavar="I", help="which of them this is, from 0")
    return parser.parse_args(arguments)
