"""Predictions as files: our JSON lines, and the layouts that the original writes, both ways.

    predictions.jsonl      ours: one line an item, everything that was said; masks as run lengths
    FOLDER/ID.json         GCG: {"image_id", "caption", "phrases", "pred_masks"}, a file a
                           picture; one more key around it is taken off, as in the original
    FOLDER/*.json, FILE    captions: lists of {"image_id", "caption"}

Reading takes files as they come: what is wrong with them is named in `Read.notes` by these kinds,
and costs no more than its own prediction.

  "unknown prediction"     nothing was asked under its id
  "unreadable prediction"  no JSON, or not of this layout
  "repeated prediction"    the id occurs again; the first one counts
  "broken mask"            run lengths that describe no mask; the mask is empty

A prediction that is not there is no line of `Read.predictions`: the metrics name it. Sizes are
compared where masks are: in the metrics, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.files import write_atomic
from glamm_jax.metrics.gcg import phrase_indices_by_order
from glamm_jax.text.answer_parser import PHRASE, last_answer, parse_answer

PREDICTIONS = "predictions.jsonl"
UNKNOWN, UNREADABLE = "unknown prediction", "unreadable prediction"
REPEATED, BROKEN_MASK = "repeated prediction", "broken mask"


class PredictionError(GLaMMError):
    """Predictions that cannot be read at all. Names the file and says why."""


@dataclass
class ReadPredictions:
    """Predictions by the id of their item, and what was irregular: kind -> ids or file names."""

    predictions: dict[str, Prediction] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, prediction: Prediction, known: Mapping[str, Item]) -> None:
        """Keep one, if it was asked for and is the first of its id."""
        if prediction.id not in known:
            self.note(UNKNOWN, prediction.id)
        elif prediction.id in self.predictions:
            self.note(REPEATED, prediction.id)
        else:
            self.predictions[prediction.id] = prediction

    def note(self, kind: str, name: str) -> None:
        """Something irregular."""
        self.notes.setdefault(kind, []).append(name)


# ------------------------------------------------------------------------------ our own lines


def to_line(prediction: Prediction) -> str:
    """A prediction as one line of JSON, line break included."""
    return json.dumps(asdict(prediction)) + "\n"


def from_line(line: str) -> Prediction:
    """The prediction of a line.

    Raises: PredictionError when it is none.
    """
    names = [each.name for each in fields(Prediction)]
    try:
        values = json.loads(line)
        told = {name: _frozen(values[name]) for name in names if name in values}
        found = Prediction(**told)
        phrases, masks = len(found.phrases), len(found.masks)
        if len(found.phrase_of) != masks or not all(-1 <= i < phrases for i in found.phrase_of):
            raise ValueError(f"phrase_of says not for each of {masks} masks whose it is")
        if len(found.scores) not in (0, masks):
            raise ValueError(f"{len(found.scores)} scores of {masks} masks")
        return found
    except (ValueError, TypeError) as error:
        raise PredictionError(f"no prediction: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_lines(path: Path) -> tuple[list[Prediction], bool]:
    """The predictions of a file, and whether its last line was cut off when its run was killed.

    Raises: PredictionError naming the line when another one is none.
    """
    *whole, last = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(whole, start=1):
        try:
            found.append(from_line(line))
        except PredictionError as error:
            raise PredictionError(f"{path}: line {number}: {error}") from error
    return found, bool(last)


def write_lines(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write all of them, or nothing."""
    write_atomic(path, "".join(map(to_line, predictions)))


# ----------------------------------------------------------------------- the original's layouts


def original_words(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
    """Caption and phrases as the original cleans them.

    Source: eval/gcg/infer.py:73-91. A line break joins the words beside it, as there.
    """
    if not prediction.raw:
        return prediction.text, prediction.phrases
    written = last_answer(prediction.raw)
    phrases = tuple(phrase.strip() for phrase in PHRASE.findall(written))
    return parse_answer(written).text, phrases


def write_gcg_folder(folder: Path, predictions: Iterable[Prediction]) -> None:
    """Write ID.json for each, as `eval/gcg/infer.py` of the original does."""
    for each in predictions:
        caption, phrases = original_words(each)
        said = {"image_id": each.image_id, "caption": caption, "phrases": list(phrases)}
        shown = {**said, "pred_masks": [dict(mask) for mask in each.masks]}
        write_atomic(folder / f"{each.image_id}.json", json.dumps(shown))


def write_captions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a list of captions, as `eval/region_captioning/infer.py` of the original does.

    An id that is a number in the annotations is one here.
    """
    said = [
        {"image_id": _number(each.image_id), "caption": original_words(each)[0]}
        for each in predictions
    ]
    write_atomic(path, json.dumps(said, indent=2))


def _number(identity: str) -> int | str:
    return int(identity) if identity.isascii() and identity.isdecimal() else identity


# -------------------------------------------------------------------------------- reading


def read_predictions(path: Path, items: Sequence[Item]) -> ReadPredictions:
    """The predictions for these items: of a run of ours (its folder or its file), or of the
    original.

    Raises: PredictionError when there is nothing at `path`, or nothing readable in it.
    """
    if (path / PREDICTIONS).is_file():
        path = path / PREDICTIONS
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise PredictionError(f"{path}: holds neither {PREDICTIONS} nor any ID.json")
    elif path.is_file():
        files = [path]
    else:
        raise PredictionError(f"{path}: no such file or folder")
    known, read = {item.id: item for item in items}, ReadPredictions()
    of_picture = {item.image_id: item.id for item in reversed(items)}
    for file in files:
        if file.suffix == ".jsonl":
            _read_ours(file, known, read)
            continue
        for found in _read_original(file, of_picture, read):
            read.add(found, known)
    if not read.predictions and items:
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in read.notes.items())
        raise PredictionError(f"{path}: no prediction for any of {len(items)} items ({kinds})")
    return read


def _read_ours(path: Path, known: Mapping[str, Item], read: ReadPredictions) -> None:
    found, torn = read_lines(path)
    for prediction in found:
        read.add(prediction, known)
    if torn:
        read.note(UNREADABLE, f"the last line of {path.name}")


def _read_original(
    path: Path, of_picture: Mapping[str, str], read: ReadPredictions
) -> Iterator[Prediction]:
    """The predictions of one file, whose pictures' ids become those of items."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        read.note(UNREADABLE, path.name)
        return
    # The original finds a picture's prediction by the name of its file.
    entries = told if isinstance(told, list) else [_unwrapped(told, path.stem)]
    for entry in entries:
        prediction = _original_prediction(entry, read)
        if prediction is None:
            read.note(UNREADABLE, path.name)
            continue
        identity = of_picture.get(prediction.image_id, prediction.image_id)
        yield Prediction(**{**vars(prediction), "id": identity})


def _unwrapped(told: Any, name: str) -> Any:
    """A picture's prediction, out of one more key where there is one."""
    if isinstance(told, dict) and told:
        inner = next(iter(told.values()))
        told = inner if isinstance(inner, dict) and "caption" in inner else told
    return told | {"image_id": name} if isinstance(told, dict) else told


def _original_prediction(entry: Any, read: ReadPredictions) -> Prediction | None:
    try:
        name, caption = str(entry["image_id"]), entry["caption"]
        phrases, masks = entry.get("phrases", []), entry.get("pred_masks", [])
    except (TypeError, KeyError, AttributeError):
        return None
    if not (isinstance(caption, str) and isinstance(phrases, list) and isinstance(masks, list)):
        return None
    if not all(isinstance(phrase, str) for phrase in phrases):
        return None
    return Prediction(
        name,
        name,
        caption,
        phrases=tuple(phrases),
        masks=tuple(_sound_mask(mask, name, read) for mask in masks),
        phrase_of=phrase_indices_by_order(len(phrases), len(masks)),
    )


def _sound_mask(mask: Any, name: str, read: ReadPredictions) -> RunLengths:
    """The mask; an empty one, which has no pixel at all, where its run lengths are broken."""
    try:
        rle.decode(mask)
    except rle.MaskError:
        read.note(BROKEN_MASK, name)
        return {"size": [0, 0], "counts": ""}
    return mask
