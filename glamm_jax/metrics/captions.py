"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE of captions, as in COCO's caption evaluation.

pycocoevalcap computes them on the tokens of its PTB tokenizer, in both modes. The modes differ in
missing captions: compat leaves their items out, as the original scores the items of its result
files; strict scores them as empty captions. (The original's GCG evaluation stops if an image has no
prediction.)

ROUGE_L, CIDEr and SPICE are means over the items. BLEU and METEOR are computed from sums over all
items; their values for single items are in the columns Bleu_1_alone, ..., METEOR_alone. Values are
in 0 to 1, but CIDEr reaches 10.

A line break within a caption is replaced by a space. (pycocoevalcap replaces only one kind of line
break; with any other kind every later caption would be scored against its neighbour's references.)

Source: eval/gcg/evaluate.py and eval/region_captioning/evaluate.py of the original.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glamm_jax.metrics.java import INSTALL_HINT, find_java, java_on_path
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
# SPICE has to be requested by name: it needs CoreNLP, which is not part of pycocoevalcap.
DEFAULT_CAPTION_METRICS = (*BLEU, "METEOR", "ROUGE_L", "CIDEr")
CAPTION_METRICS = (*DEFAULT_CAPTION_METRICS, "SPICE")
MEANS = ("ROUGE_L", "CIDEr", "SPICE")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

Tokens = dict[str, list[str]]
# Value over all items, and values of the items; floats or numpy floats.
MetricValues = tuple[Any, Any]


def check_java(names: Sequence[str] = DEFAULT_CAPTION_METRICS) -> None:
    """Check that everything that these metrics need is installed; call it before inference.

    Raises:
        MetricError: something is missing; says what to install.
    """
    if unknown := [name for name in names if name not in CAPTION_METRICS]:
        raise MetricError(
            f"no caption metric {unknown[0]!r}; choose from {', '.join(CAPTION_METRICS)}"
        )
    if not names:
        return
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MetricError(
            f"caption metrics need pycocoevalcap, which is not installed; {INSTALL_HINT}"
        )
    find_java()
    (folder, *_) = map(Path, package.submodule_search_locations)
    if not os.access(folder / "tokenizer", os.W_OK):
        raise MetricError(
            f"{folder / 'tokenizer'}: the PTB tokenizer writes its input to this folder, which is "
            "not writable; use a virtual environment of your own"
        )
    library = folder / "spice" / "lib"
    missing = [name for name in CORENLP if not (library / name).is_file()]
    if "SPICE" in names and missing:
        raise MetricError(
            f"SPICE needs CoreNLP 3.6.0: put {' and '.join(missing)} of "
            f"stanford-corenlp-full-2015-12-09 into {library}"
        )


@contextmanager
def meteor_process() -> Iterator[Any]:
    """Start METEOR's process for several calls of `score_captions`; the start takes seconds.

    Raises:
        MetricError: as for `check_java`.
    """
    check_java(["METEOR"])
    from pycocoevalcap.meteor.meteor import Meteor

    with java_on_path():
        meteor = Meteor()
    try:
        yield meteor
    finally:
        # METEOR's own cleanup leaves two pipes open. Closing stdin flushes it, which fails if the
        # process has died.
        process: Any = meteor.meteor_p
        process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        with process:
            pass


def tokenize(texts: Mapping[str, Sequence[str]]) -> Tokens:
    """Return the tokens of the PTB tokenizer: lower case, without punctuation.

    Args:
        texts: id -> texts.

    Returns:
        id -> texts as tokens joined by spaces.

    Raises:
        MetricError: as for `check_java`, or the tokenizer fails.
    """
    check_java(["CIDEr"])
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {
        name: [{"caption": _sanitize(text)} for text in group] for name, group in texts.items()
    }
    with java_on_path():
        tokens = PTBTokenizer().tokenize(captions)
    if any(len(tokens.get(name, ())) != len(group) for name, group in texts.items()):
        raise MetricError("the PTB tokenizer failed: it returned a wrong number of captions")
    return tokens


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    names: Sequence[str] = DEFAULT_CAPTION_METRICS,
    *,
    mode: Mode,
    meteor: Any = None,
) -> MetricResult:
    """Compute caption metrics; without any item the result has no metric.

    Args:
        predictions: by item id; those of unknown ids are ignored.
        references: for each item one or more reference captions.
        names: metrics in CAPTION_METRICS.
        mode: whether items without a prediction are left out (compat) or scored as empty (strict).
        meteor: the result of `meteor_process`; None: METEOR's process is started by this call.

    Raises:
        MetricError: as for `check_java`, or an item has no reference caption.
    """
    check_java(names)
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    captions = {
        name: predictions.get(name, "")
        for name in references
        if name in predictions or mode == "strict"
    }
    for name, caption in captions.items():
        if not references[name]:
            raise MetricError(f"{name}: no reference caption")
        notes.add_if(not caption.strip() and name in predictions, "empty caption", name)
        texts = (caption, *references[name])
        notes.add_if(any(len(text.splitlines()) > 1 for text in texts), "line break", name)
    if not captions or not names:
        return MetricResult({}, notes=notes.as_dict())
    if len(captions) == 1 and "CIDEr" in names:
        # CIDEr weights words by the number of items that contain them.
        notes.add("CIDEr of a single item is 0", captions)
    reference_tokens = tokenize({name: references[name] for name in captions})
    tokens = tokenize({name: [text] for name, text in captions.items()})
    values = _compute_metrics(reference_tokens, tokens, names, meteor)
    per_item = {
        item: {
            name if name in MEANS else f"{name}_alone": float(item_values[i])
            for name, (_, item_values) in values.items()
        }
        for i, item in enumerate(captions)
    }
    scores = {name: float(value) for name, (value, _) in values.items()}
    return MetricResult(scores, per_item, {}, notes.as_dict())


def _compute_metrics(
    references: Tokens, predictions: Tokens, names: Sequence[str], meteor: Any
) -> dict[str, MetricValues]:
    """Return the values of the requested metrics, in the order of `names`."""
    values: dict[str, MetricValues] = {}
    if set(names) & set(BLEU):
        values |= _bleu(references, predictions)
    scorers: dict[str, Callable[[], MetricValues]] = {
        "METEOR": lambda: _meteor(references, predictions, meteor),
        "ROUGE_L": lambda: _rouge(references, predictions),
        "CIDEr": lambda: _cider(references, predictions),
        "SPICE": lambda: _spice(references, predictions),
    }
    values |= {name: scorer() for name, scorer in scorers.items() if name in names}
    return {name: values[name] for name in names}


def _bleu(references: Tokens, predictions: Tokens) -> dict[str, MetricValues]:
    from pycocoevalcap.bleu.bleu import Bleu

    scores, item_scores = Bleu(len(BLEU)).compute_score(references, predictions, verbose=0)
    return dict(zip(BLEU, zip(scores, item_scores, strict=True), strict=True))


def _meteor(references: Tokens, predictions: Tokens, process: Any) -> MetricValues:
    if process is None:
        with meteor_process() as meteor:
            return _meteor(references, predictions, meteor)
    try:
        return process.compute_score(references, predictions)
    except (OSError, ValueError) as error:
        # METEOR still holds its lock, and its cleanup would wait for it forever.
        if process.lock.locked():
            process.lock.release()
        process.meteor_p.kill()
        message = process.meteor_p.stderr.read().decode(errors="replace").strip()
        raise MetricError(f"METEOR failed: {message or error}") from error


def _rouge(references: Tokens, predictions: Tokens) -> MetricValues:
    from pycocoevalcap.rouge.rouge import Rouge

    return Rouge().compute_score(references, predictions)


def _cider(references: Tokens, predictions: Tokens) -> MetricValues:
    from pycocoevalcap.cider.cider import Cider

    return Cider().compute_score(references, predictions)


def _spice(references: Tokens, predictions: Tokens) -> MetricValues:
    from pycocoevalcap.spice.spice import Spice

    with java_on_path():
        score, item_scores = Spice().compute_score(references, predictions)
    # SPICE returns the items in the order of their sorted ids.
    by_name = dict(zip(sorted(references), item_scores, strict=True))
    return score, [by_name[name]["All"]["f"] for name in references]


def _sanitize(text: str) -> str:
    """Replace line breaks by spaces, and lone surrogates, which cannot be encoded, by "?"."""
    return " ".join(text.splitlines()).encode("utf-8", "replace").decode("utf-8")
