"""Evaluate a model on a benchmark, or score existing predictions.

examples:
  glamm-jax eval gcg --model checkpoints/miniworld-tiny --data miniworld/easy@64 --out out/gcg
  glamm-jax eval gcg --model glamm --data GranDf/annotations/val_test --split test --out out/test
  glamm-jax eval refseg --model glamm --data data --dataset refcoco --split testA --out out/testA
  glamm-jax eval gcg --predictions DIR --data GranDf/annotations/val_test --out out/scored
  glamm-jax eval compare out/before out/after    # the same as `glamm-jax compare`

--data     SCHEME/NAME       records of a registered source, such as miniworld/easy@64: scenes
                             rendered from held-out seeds, without a download
           FOLDER            record shards, written by `glamm-jax convert dataset`
           FOLDER --dataset NAME    a dataset in its original layout, without conversion
           FOLDER or FILE    annotation files of the original's evaluation
                             ({split}_gcg_coco_*_gt.json, COCO captions with boxes, NoCaps,
                             dataset_flickr30k.json, LLaVA-Bench)

--question selects the prompts: `original`, the prompts that the released checkpoints were trained
with; `ours`, the prompts of this project's training; or a text with {name} for the expression and
{regions} for the box.

The same command resumes an interrupted evaluation; finished items are not predicted again.

OUT/config.json        what the predictions depend on: weights, data, prompt, seed, versions
OUT/predictions.jsonl  all predictions; OUT/predictions/ the same in the original's layout
OUT/reviews.jsonl      reviews by the judge of the benchmark `conversation`
OUT/scores.json        metrics of both modes as fractions, and the contribution of each item
OUT/report.html        a report with images: best and worst items, problems

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from tqdm import tqdm

import glamm_jax.miniworld  # noqa: F401  # registers the scheme miniworld/NAME
from glamm_jax.cli import compare
from glamm_jax.cli.program import make_parser, positive_int, run_program
from glamm_jax.config import GLaMMConfig
from glamm_jax.data.record_sources import find_scheme
from glamm_jax.environment import ALLOW_OUTSIDE, environment_variables
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Benchmark, TextScorers
from glamm_jax.evaluation.bert_similarity import BERT, BertSimilarity
from glamm_jax.evaluation.evaluation_run import REPORT, EvaluationRun, GenerationConfig
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.llm_judge import LLMJudge, review_all
from glamm_jax.evaluation.published import beside_paper
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.metrics.captions import DEFAULT_CAPTION_METRICS, check_java
from glamm_jax.metrics.similarity import CachedSimilarity, Similarity, WordSimilarity
from glamm_jax.parallel import initialize_processes, make_mesh
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.weights.folder import ModelFolder

REVIEWS = "reviews.jsonl"


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax eval") -> int:
    """Run the evaluation, or `compare`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else [*arguments]
    if arguments[:1] == ["compare"]:
        return compare.main(arguments[1:], f"{prog} compare")
    options = parse(arguments, prog)
    variables = {ALLOW_OUTSIDE: "1"} if options.allow_outside else {}
    with environment_variables(**variables):  # data workers read it as well
        return run_program("eval", lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> None:
    """Run the evaluation that the parsed command line describes.

    Everything is checked before the model is loaded.
    """
    initialize_processes(options.coordinator, options.processes, options.process)
    if options.model and not isinstance(ModelFolder(options.model).config, GLaMMConfig):
        raise ConfigError(f"{options.model}: a part of a model, not a complete GLaMM")
    benchmark = BENCHMARKS[options.benchmark]
    scorers = make_scorers(benchmark, options)
    data = EvaluationData(
        options.data, options.split, options.dataset, options.images, options.limit, options.seed
    )
    scheme = find_scheme(options.data)
    prompt = options.question or ("original" if scheme is None else scheme.prompt_style)
    generation = GenerationConfig(prompt, options.tokens, options.batch, options.seed)
    evaluation = EvaluationRun(benchmark, data, options.out, generation)
    item_set = evaluation.item_set
    print(f"{len(item_set.items)} items, data {item_set.hash[:12]}", flush=True)
    with evaluation.lock():
        _predict_and_score(evaluation, scorers, options)


def _predict_and_score(
    evaluation: EvaluationRun, scorers: TextScorers, options: argparse.Namespace
) -> None:
    benchmark, item_set = evaluation.benchmark, evaluation.item_set
    if options.predictions:
        result = evaluation.read_predictions(options.predictions)
        predictions, problems = result.predictions, result.notes
    else:
        predictions = evaluation.predict(load_assistant(options), str(options.model))
        problems = {}
    if jax.process_index():
        return
    if isinstance(scorers.similarity, BertSimilarity):  # all at once is five times faster
        phrases = [phrase for item in item_set.items for phrase in item.reference_phrases]
        phrases += [phrase for x in predictions.values() for phrase in x.phrases]
        scorers.similarity.embed_all(phrases)
    scores = evaluation.score(predictions, scorers, problems)
    title = f"{scores.benchmark}, {scores.split}"
    metrics = {mode: result.scores for mode, result in scores.modes.items()}
    print(beside_paper(title, benchmark.published_rows(scores.split), metrics))
    for kind, names in scores.modes["strict"].notes.items():
        print(f"{len(names)} {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    print(benchmark.description)
    print(f"wrote {options.out}, {options.out / REPORT}")


def make_scorers(benchmark: Benchmark, options: argparse.Namespace) -> TextScorers:
    """Return the scorers of text that the benchmark uses.

    Raises:
        MetricError: Java is missing, or a metric is unknown.
        EncoderError: the BERT cannot be used.
        JudgeError: the judge's address is not a URL.
    """
    captions = tuple(options.captions) if benchmark.uses_captions else ()
    check_java(captions)
    similarity: Similarity = CachedSimilarity(WordSimilarity())
    if benchmark.uses_similarity and options.similarity != similarity.name:
        similarity = BertSimilarity(options.similarity)
    if not (benchmark.uses_judge and options.judge):
        return TextScorers(similarity, captions)
    judge = LLMJudge(options.judge, options.judge_model)
    review = partial(review_all, judge=judge, path=options.out / REVIEWS, progress=tqdm)
    return TextScorers(similarity, captions, review)


def load_assistant(options: argparse.Namespace) -> Assistant:
    """Load the model onto all devices of this process."""
    devices = jax.local_devices()
    num_data = len(devices) // (options.fsdp * options.tensor)
    if not num_data:
        raise ConfigError(
            f"--fsdp {options.fsdp} --tensor {options.tensor}: this process has {len(devices)} "
            "devices"
        )
    mesh = None
    if len(devices) > 1:
        mesh = make_mesh(num_data, options.fsdp, options.tensor, devices)
    print(f"loading {options.model} onto {len(devices)} x {devices[0].device_kind}", flush=True)
    return load(options.model, options.dtype, mesh)


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax eval") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    width = max(map(len, BENCHMARKS))
    parser.epilog = "benchmarks:\n" + "\n".join(
        f"  {name.ljust(width)}  {x.description} ({', '.join(x.splits)})"
        for name, x in BENCHMARKS.items()
    )
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help="listed below")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="model folder")
    source.add_argument("--predictions", type=Path, help="folder of predictions to score")
    add("--data", required=True, help="SCHEME/NAME, a folder or a file (see above)")
    add("--out", type=Path, required=True, help="new folder, or that of an evaluation to resume")
    add("--split", default="val", help="default: %(default)s")
    add(
        "--dataset",
        default="",
        metavar="NAME",
        help="--data has the original layout of this dataset",
    )
    add("--images", type=Path, help="folder of the images of annotation files")
    add(
        "--allow-outside",
        action="store_true",
        help="permit annotations to name files outside of the folder of the images",
    )
    add("--limit", type=positive_int, metavar="N", help="evaluate the first N images only")
    add("--question", metavar="PROMPT", help="original, ours, or the text of a prompt")
    add("--seed", type=int, default=0, help="seed of sampled expressions and scenes (%(default)s)")
    add(
        "--tokens",
        type=positive_int,
        default=MAX_NEW_TOKENS,
        help="maximum length of an answer in tokens (%(default)s)",
    )
    add("--batch", type=positive_int, default=8, help="rows per batch (%(default)s)")
    add(
        "--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: as stored)"
    )
    add("--fsdp", type=positive_int, default=1, help="devices that shard the weights (%(default)s)")
    add(
        "--tensor", type=positive_int, default=1, help="devices that shard each layer (%(default)s)"
    )
    add(
        "--similarity",
        default=BERT,
        metavar="words|BERT",
        help="similarity of phrases in recall: a BERT by id or folder (%(default)s), or `words`",
    )
    add(
        "--captions",
        nargs="*",
        default=DEFAULT_CAPTION_METRICS,
        metavar="METRIC",
        help=f"caption metrics; they need Java ({' '.join(DEFAULT_CAPTION_METRICS)}; SPICE if "
        "CoreNLP is installed)",
    )
    add(
        "--judge",
        metavar="URL",
        help="OpenAI-compatible endpoint, for the benchmark `conversation`",
    )
    add("--judge-model", default="gpt-4", metavar="NAME", help="model of the judge (%(default)s)")
    add(
        "--coordinator",
        metavar="HOST:PORT|auto",
        help="address of the first of several processes; auto on TPU pods",
    )
    add("--processes", type=positive_int, metavar="N", help="number of processes")
    add("--process", type=int, metavar="I", help="index of this process, from 0")
    return parser.parse_args(arguments)
