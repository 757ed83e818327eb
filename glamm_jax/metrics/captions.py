"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE of captions, as COCO's caption evaluation counts them.

pycocoevalcap computes them, on the tokens of its PTB tokenizer; both modes have that in common.
They differ in what a missing caption is: compat leaves its item out of everything, as the original
scores what its result files hold; strict scores it as an empty one. (The original's GCG evaluation
stops where an image has no prediction.)

ROUGE_L, CIDEr and SPICE are means over the items. BLEU and METEOR are not: they are formed from the
sums over all items. What an item scores by itself stands in the columns Bleu_1_alone, ...,
METEOR_alone. Shares are in 0 to 1, but CIDEr reaches 10.

A line break within a caption is a space. (pycocoevalcap replaces one kind of them; at any of the
other kinds every later caption would be scored against its neighbour's references.)

Source: eval/gcg/evaluate.py and eval/region_captioning/evaluate.py of the original.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glamm_jax.metrics.java import INSTALL, find_java, java_on_path
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
# SPICE is asked for by name: it wants CoreNLP, which pycocoevalcap does not bring.
NAMES = (*BLEU, "METEOR", "ROUGE_L", "CIDEr")
ALL_NAMES = (*NAMES, "SPICE")
MEANS = ("ROUGE_L", "CIDEr", "SPICE")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

Tokens = dict[str, list[str]]
# The figure of all items, and that of each: floats, or numpy's.
CaptionMetric = tuple[Any, Any]
CaptionMetrics = dict[str, CaptionMetric]


def check_java(names: Sequence[str] = NAMES) -> None:
    """See that everything is there that these figures need; call it before hours of inference.

    Raises: MetricError saying what to install.
    """
    if unknown := [name for name in names if name not in ALL_NAMES]:
        raise MetricError(f"no caption metric {unknown[0]!r}; choose from {', '.join(ALL_NAMES)}")
    if not names:
        return
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MetricError(f"captions are scored by pycocoevalcap, which is not here; {INSTALL}")
    find_java()
    (folder, *_) = map(Path, package.submodule_search_locations)
    if not os.access(folder / "tokenizer", os.W_OK):
        raise MetricError(
            f"{folder / 'tokenizer'}: the PTB tokenizer writes its input there, and may not; "
            "use a virtual environment of your own"
        )
    library = folder / "spice" / "lib"
    missing = [name for name in CORENLP if not (library / name).is_file()]
    if "SPICE" in names and missing:
        raise MetricError(
            f"SPICE needs CoreNLP 3.6.0: put {' and '.join(missing)} of "
            f"stanford-corenlp-full-2015-12-09 into {library}"
        )


@contextmanager
def running_meteor() -> Iterator[Any]:
    """METEOR's process, for several calls of `score_captions`: starting it takes seconds.

    Raises: MetricError as `check_java`.
    """
    check_java(["METEOR"])
    from pycocoevalcap.meteor.meteor import Meteor

    with java_on_path():
        meteor = Meteor()
    try:
        yield meteor
    finally:
        # Its own end leaves two pipes open. One that has died cannot be told the rest.
        process: Any = meteor.meteor_p
        process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        with process:
            pass


def tokenize(texts: Mapping[str, Sequence[str]]) -> Tokens:
    """Every text as the PTB tokenizer's words in lower case, without punctuation.

    Raises: MetricError as `check_java`, or when the tokenizer fails.
    """
    check_java(["CIDEr"])
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {
        name: [{"caption": _one_line(text)} for text in each] for name, each in texts.items()
    }
    with java_on_path():
        tokens = PTBTokenizer().tokenize(captions)
    if any(len(tokens.get(name, ())) != len(each) for name, each in texts.items()):
        raise MetricError("the PTB tokenizer failed: it gave back another number of captions")
    return tokens


def score_captions(
    said: Mapping[str, str],
    true: Mapping[str, Sequence[str]],
    names: Sequence[str] = NAMES,
    *,
    mode: Mode,
    meteor: Any = None,
) -> MetricResult:
    """These figures of all items of `true`; without any item there is no figure.

    Args:
        true: for each item all captions that would be right, one at least.
        meteor: of `running_meteor`; without it METEOR starts and ends here.

    Predictions of other items are left out.

    Raises: MetricError as `check_java`, or when an item has no true caption.
    """
    check_java(names)
    notes = Irregularities()
    notes.add_unknown(said, true)
    scored = {name: said.get(name, "") for name in true if name in said or mode == "strict"}
    for name in scored:
        if not true[name]:
            raise MetricError(f"{name}: has no true caption to be compared with")
        notes.add_if(not scored[name].strip() and name in said, "empty caption", name)
        texts = (scored[name], *true[name])
        notes.add_if(any(len(text.splitlines()) > 1 for text in texts), "line break", name)
    if not scored or not names:
        return MetricResult({}, notes=notes.as_dict())
    if len(scored) == 1 and "CIDEr" in names:
        # It weighs words by how few items have them.
        notes.add("CIDEr of a single item is 0", scored)
    references = tokenize({name: true[name] for name in scored})
    answers = tokenize({name: [text] for name, text in scored.items()})
    figures = _figures(references, answers, names, meteor)
    each = {
        item: {
            name if name in MEANS else f"{name}_alone": float(values[i])
            for name, (_, values) in figures.items()
        }
        for i, item in enumerate(scored)
    }
    return MetricResult(
        {name: float(value) for name, (value, _) in figures.items()}, each, {}, notes.as_dict()
    )


def _figures(true: Tokens, said: Tokens, names: Sequence[str], meteor: Any) -> CaptionMetrics:
    """What was asked for, in that order."""
    known: CaptionMetrics = {}
    if set(names) & set(BLEU):
        known |= _bleu(true, said)
    others: dict[str, Callable[[Tokens, Tokens], CaptionMetric]] = {
        "METEOR": lambda true, said: _meteor(true, said, meteor),
        "ROUGE_L": _rouge,
        "CIDEr": _cider,
        "SPICE": _spice,
    }
    known |= {name: score(true, said) for name, score in others.items() if name in names}
    return {name: known[name] for name in names}


def _bleu(true: Tokens, said: Tokens) -> CaptionMetrics:
    from pycocoevalcap.bleu.bleu import Bleu

    figures, each = Bleu(len(BLEU)).compute_score(true, said, verbose=0)
    return dict(zip(BLEU, zip(figures, each, strict=True), strict=True))


def _meteor(true: Tokens, said: Tokens, running: Any) -> CaptionMetric:
    if running is None:
        with running_meteor() as meteor:
            return _meteor(true, said, meteor)
    try:
        return running.compute_score(true, said)
    except (OSError, ValueError) as error:
        # It holds its lock still, and would wait for it at its own end.
        if running.lock.locked():
            running.lock.release()
        running.meteor_p.kill()
        message = running.meteor_p.stderr.read().decode(errors="replace").strip()
        raise MetricError(f"METEOR failed: {message or error}") from error


def _rouge(true: Tokens, said: Tokens) -> CaptionMetric:
    from pycocoevalcap.rouge.rouge import Rouge

    return Rouge().compute_score(true, said)


def _cider(true: Tokens, said: Tokens) -> CaptionMetric:
    from pycocoevalcap.cider.cider import Cider

    return Cider().compute_score(true, said)


def _spice(true: Tokens, said: Tokens) -> CaptionMetric:
    from pycocoevalcap.spice.spice import Spice

    with java_on_path():
        figure, each = Spice().compute_score(true, said)
    # It goes through the items in the order of their names.
    by_name = dict(zip(sorted(true), each, strict=True))
    return figure, [by_name[name]["All"]["f"] for name in true]


def _one_line(text: str) -> str:
    """No line breaks, and no halves of characters, which have no encoding."""
    return " ".join(text.splitlines()).encode("utf-8", "replace").decode("utf-8")
