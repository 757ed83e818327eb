"""What `glamm-jax eval` and `glamm-jax eval tableN` share: options, scorers, loading, scoring."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from glamm_jax.cli.program import add_placement_arguments, positive_int
from glamm_jax.evaluation.benchmarks.base import Benchmark, Prediction, TextScorers
from glamm_jax.evaluation.bert_similarity import BERT, BertSimilarity
from glamm_jax.evaluation.evaluation_run import EvaluationRun
from glamm_jax.evaluation.judge_client import LLMJudge
from glamm_jax.evaluation.published import beside_paper
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.inference.placement import choose_mesh
from glamm_jax.metrics.captions import DEFAULT_CAPTION_METRICS
from glamm_jax.metrics.similarity import CachedSimilarity, Similarity, WordSimilarity
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.weights.folder import ModelFolder


def add_generation_arguments(
    parser: argparse.ArgumentParser, captions: Sequence[str] | None = DEFAULT_CAPTION_METRICS
) -> None:
    """Add what determines predictions and their scores: prompt, sizes, placement, scorers.

    Args:
        parser: of the program.
        captions: default of the caption metrics; None: it depends on the benchmark.
    """
    add = parser.add_argument
    add("--question", metavar="PROMPT", help="original, ours, or the text of a prompt")
    add("--seed", type=int, default=0, help="seed of sampled expressions and scenes (%(default)s)")
    add(
        "--tokens",
        type=positive_int,
        default=MAX_NEW_TOKENS,
        help="maximum length of an answer in tokens (%(default)s)",
    )
    add("--batch", type=positive_int, default=8, help="rows per batch (%(default)s)")
    add_placement_arguments(
        parser, "sizes of the device mesh, such as data=2,fsdp=2,tensor=2 (default: see above)"
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
        default=captions,
        metavar="METRIC",
        help="caption metrics; they need Java "
        f"({' '.join(captions) if captions else 'those of the table'}; SPICE if CoreNLP is "
        "installed)",
    )


def score_run(
    run: EvaluationRun,
    predictions: Mapping[str, Prediction],
    problems: Mapping[str, Sequence[str]],
    scorers: TextScorers,
) -> RunScores:
    """Score an evaluation, write its files, and print its metrics.

    Args:
        run: the evaluation.
        predictions: by item id.
        problems: kind of a problem in reading the predictions -> ids.
        scorers: of generated text.
    """
    benchmark = run.benchmark
    if isinstance(scorers.similarity, BertSimilarity):  # all at once is five times faster
        phrases = [phrase for item in run.item_set.items for phrase in item.reference_phrases]
        phrases += [phrase for x in predictions.values() for phrase in x.phrases]
        scorers.similarity.embed_all(phrases)
    scores = run.score(predictions, scorers, problems)
    title = f"{scores.benchmark}, {scores.split}"
    metrics = {mode: result.scores for mode, result in scores.modes.items()}
    print(beside_paper(title, benchmark.published_rows(scores.split), metrics))
    for kind, names in scores.modes["strict"].notes.items():
        print(f"{len(names)} {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    return scores


def caption_metrics(benchmark: Benchmark, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the caption metrics that are requested and that the benchmark uses."""
    return tuple(options.captions) if benchmark.uses_captions else ()


def make_scorers(
    benchmark: Benchmark, options: argparse.Namespace
) -> tuple[TextScorers, LLMJudge | None]:
    """Return the scorers of text that the benchmark uses, and its judge.

    Raises:
        EncoderError: the BERT cannot be used.
        JudgeError: the judge's address is not a URL.
    """
    captions = caption_metrics(benchmark, options)
    similarity: Similarity = CachedSimilarity(WordSimilarity())
    if benchmark.uses_similarity and options.similarity != similarity.name:
        similarity = BertSimilarity(options.similarity)
    if not (benchmark.uses_judge and options.judge):
        return TextScorers(similarity, captions), None
    return TextScorers(similarity, captions), LLMJudge(options.judge, options.judge_model)


def mesh_of(options: argparse.Namespace) -> Mesh | None:
    """Return the mesh that the model is to be placed on; None: one device.

    Raises:
        FolderError: the model is not complete.
        MeshError: it does not fit the devices, or `--mesh` does not fit either.
    """
    folder = ModelFolder(options.model)
    return choose_mesh(folder, options.dtype, options.mesh, rows=options.batch, copies=True)


def load_assistant(options: argparse.Namespace, mesh: Mesh | None) -> Assistant:
    """Load the model and say where it is placed."""
    assistant = load(options.model, options.dtype, mesh)
    print(f"{options.model} is on {assistant.placement()}", flush=True)
    return assistant
