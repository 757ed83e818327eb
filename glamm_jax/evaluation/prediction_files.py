"""Files of predictions: our JSON lines, and reading of the layouts that the original writes.

    write_lines(Path("predictions.jsonl"), predictions)
    result = read_predictions(Path("predictions.jsonl"), item_set.items)
    result.predictions[item_set.items[0].id].text

    predictions.jsonl      ours: one line per item with all fields of `Prediction`
    FOLDER/ID.json         GCG of the original: {"image_id", "caption", "phrases", "pred_masks"};
                           an outer key around these fields is removed, as the original does
    FOLDER/*.json, FILE    captions of the original: lists of {"image_id", "caption"}, or one such
                           object on each line

An image id may have the extension of the image's file. Files may begin with a byte order mark.

Malformed predictions do not stop the reading. They are listed in `ReadPredictions.notes` by kind:

  "unknown prediction"     no item has its id
  "unreadable prediction"  not JSON, or not in one of these layouts
  "repeated prediction"    the id occurs again; the first prediction counts
  "broken mask"            invalid run lengths; the mask is replaced by an empty one

Missing predictions, and masks of another size than the image, are left to the metrics, which
report them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from glamm_jax.data import rle
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks.base import Item, Prediction, RunLengths
from glamm_jax.files import write_atomic
from glamm_jax.json_files import JSONError, JSONObject, decode_text, parse_json
from glamm_jax.metrics.gcg import phrase_indices_by_order
from glamm_jax.storage import AnyPath

PREDICTIONS = "predictions.jsonl"
UNKNOWN, UNREADABLE = "unknown prediction", "unreadable prediction"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
REPEATED, BROKEN_MASK = "repeated prediction", "broken mask"


class PredictionError(GLaMMError):
    """A file of predictions that cannot be read."""


@dataclass
class ReadPredictions:
    """The result of reading predictions.

    Attributes:
        predictions: by item id.
        notes: kind of a problem -> ids or file names.
    """

    predictions: dict[str, Prediction] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, prediction: Prediction, items: Mapping[str, Item]) -> None:
        """Add a prediction, if it belongs to one of the items and is the first of its id."""
        if prediction.id not in items:
            self.note(UNKNOWN, prediction.id)
        elif prediction.id in self.predictions:
            self.note(REPEATED, prediction.id)
        else:
            self.predictions[prediction.id] = prediction

    def note(self, kind: str, name: str) -> None:
        """Add a problem to the notes."""
        self.notes.setdefault(kind, []).append(name)


# --------------------------------------------------------------------------------- JSON lines


def to_line(prediction: Prediction) -> str:
    """Return a prediction as one line of JSON, line break included."""
    return json.dumps(asdict(prediction)) + "\n"


def from_line(line: str) -> Prediction:
    """Parse a line.

    Raises:
        PredictionError: it is not a prediction.
    """
    try:
        values = JSONObject(parse_json(line, "not a prediction"), "not a prediction")
        phrase_of, scores = values.array("phrase_of", []), values.array("scores", [])
        if not all(type(i) is int for i in phrase_of):
            raise PredictionError("not a prediction: phrase_of is not a list of whole numbers")
        # A score that is not finite was written by an earlier version.
        if not all(type(score) in (int, float) for score in scores):
            raise PredictionError("not a prediction: scores is not a list of numbers")
        prediction = Prediction(
            id=values.text("id"),
            image_id=values.text("image_id"),
            text=values.text("text"),
            raw=values.text("raw", ""),
            phrases=_texts(values, "phrases"),
            masks=tuple(mask.fields for mask in values.objects("masks")),
            phrase_of=tuple(phrase_of),
            scores=tuple(scores),
            finish=values.text("finish", "end"),
            problems=_texts(values, "problems"),
            run=values.text("run", ""),
        )
        for mask in prediction.masks:
            if mask.get("size") != [0, 0]:  # stands for a mask that could not be read
                rle.check(mask)
    except (JSONError, rle.MaskError) as error:
        message = str(error).removeprefix("not a prediction: ")
        raise PredictionError(f"not a prediction: {message}") from error
    num_phrases, num_masks = len(prediction.phrases), len(prediction.masks)
    if len(phrase_of) != num_masks or not all(-1 <= i < num_phrases for i in phrase_of):
        raise PredictionError(
            f"not a prediction: phrase_of does not name a phrase for each of {num_masks} masks"
        )
    if len(scores) not in (0, num_masks):
        raise PredictionError(f"not a prediction: {len(scores)} scores of {num_masks} masks")
    return prediction


def _texts(values: JSONObject, name: str) -> tuple[str, ...]:
    """Return a list of texts."""
    texts = values.array(name, [])
    if not all(isinstance(text, str) for text in texts):
        raise JSONError(f"{values.place(name)} is not a list of texts")
    return tuple(texts)


def read_lines(path: AnyPath) -> tuple[list[Prediction], bool]:
    """Read a file of lines.

    Returns:
        The predictions, and whether the last line is truncated, as when its process was killed.

    Raises:
        PredictionError: another line is not a prediction.
    """
    try:
        *lines, last = decode_text(path.read_bytes(), str(path)).split("\n")
    except (OSError, JSONError) as error:
        raise PredictionError(f"{path}: cannot be read: {error}") from error
    predictions = []
    for number, line in enumerate(lines, start=1):
        try:
            predictions.append(from_line(line))
        except PredictionError as error:
            raise PredictionError(f"{path}: line {number}: {error}") from error
    return predictions, bool(last)


def write_lines(path: AnyPath, predictions: Iterable[Prediction]) -> None:
    """Write a file of lines, atomically."""
    write_atomic(path, "".join(map(to_line, predictions)))


# ------------------------------------------------------------------------------------ reading


def read_predictions(path: AnyPath, items: Sequence[Item]) -> ReadPredictions:
    """Read the predictions for items, from our files or the original's.

    Args:
        path: an evaluation's folder, predictions.jsonl, a folder of the original, or its file.
        items: predictions of other items are noted and left out.

    Raises:
        PredictionError: there is no file at `path`, or no prediction for any item in it.
    """
    if (path / PREDICTIONS).is_file():
        path = path / PREDICTIONS
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise PredictionError(f"{path}: contains neither {PREDICTIONS} nor any ID.json")
    elif path.is_file():
        files = [path]
    else:
        raise PredictionError(f"{path}: no such file or folder")
    by_id, result = {item.id: item for item in items}, ReadPredictions()
    id_of_image = {item.image_id: item.id for item in reversed(items)}
    without_extension: dict[str, set[str]] = {}
    for image_id in id_of_image:
        without_extension.setdefault(_without_extension(image_id), set()).add(image_id)
    for name, image_ids in without_extension.items():
        if len(image_ids) == 1:
            id_of_image.setdefault(name, id_of_image[next(iter(image_ids))])
    for file in files:
        if file.suffix == ".jsonl" and not _has_original_lines(file):
            predictions, is_truncated = read_lines(file)
            for prediction in predictions:
                result.add(prediction, by_id)
            if is_truncated:
                result.note(UNREADABLE, f"the last line of {file.name}")
        else:
            for prediction in _read_original(file, id_of_image, result):
                result.add(prediction, by_id)
    if not result.predictions and items:
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in result.notes.items())
        raise PredictionError(f"{path}: no prediction for any of {len(items)} items ({kinds})")
    return result


def _read_original(
    path: AnyPath, id_of_image: Mapping[str, str], result: ReadPredictions
) -> Iterator[Prediction]:
    """Read one file of the original; image ids become item ids."""
    try:
        text = decode_text(path.read_bytes(), path.name)
    except (OSError, JSONError):
        result.note(UNREADABLE, path.name)
        return
    try:
        content = parse_json(text, "")
        is_list = isinstance(content, list) or path.suffix == ".jsonl"
        # The original finds the prediction of an image by the name of its file.
        entries = content if is_list else [_unwrapped(content, path.stem)]
        entries = entries if isinstance(entries, list) else [entries]
    except JSONError:
        entries = _entries_of_lines(text)
    for entry in entries:
        prediction = _from_original(entry, result)
        if prediction is None:
            result.note(UNREADABLE, path.name)
            continue
        image_id = prediction.image_id
        item_id = id_of_image.get(image_id) or id_of_image.get(_without_extension(image_id))
        yield replace(prediction, id=item_id or image_id)


def _without_extension(image_id: str) -> str:
    """An image id without the extension of an image file."""
    name, dot, extension = image_id.rpartition(".")
    return name if dot and extension.lower() in IMAGE_EXTENSIONS else image_id


def _has_original_lines(path: AnyPath) -> bool:
    """Whether the first line of a file is a prediction in the layout of the original."""
    with path.open("rb") as stream:
        first = stream.readline().decode("utf-8-sig", errors="replace")
    try:
        fields = parse_json(first, "")
    except JSONError:
        return False
    return isinstance(fields, dict) and "image_id" in fields and "id" not in fields


def _entries_of_lines(text: str) -> list[Any]:
    """The objects of a file with one on each line; None for a line that is not JSON."""
    entries: list[Any] = []
    for line in filter(str.strip, text.split("\n")):
        try:
            entries.append(parse_json(line, ""))
        except JSONError:
            entries.append(None)
    return entries if any(isinstance(entry, dict) for entry in entries) else [None]


def _unwrapped(content: Any, image_id: str) -> Any:
    """Remove an outer key around the fields of a prediction, and set its image id."""
    if isinstance(content, dict) and content:
        inner = next(iter(content.values()))
        content = inner if isinstance(inner, dict) and "caption" in inner else content
    return content | {"image_id": image_id} if isinstance(content, dict) else content


def _from_original(entry: Any, result: ReadPredictions) -> Prediction | None:
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
        masks=tuple(_valid_mask(mask, name, result) for mask in masks),
        phrase_of=phrase_indices_by_order(len(phrases), len(masks)),
    )


def _valid_mask(mask: Any, name: str, result: ReadPredictions) -> RunLengths:
    """Return the mask, or one without any pixel where its run lengths are invalid."""
    try:
        rle.check(mask)
    except rle.MaskError:
        result.note(BROKEN_MASK, name)
        return {"size": [0, 0], "counts": ""}
    return mask
