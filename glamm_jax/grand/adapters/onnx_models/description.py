"""The file that describes a model: its input, its outputs, and the names of its classes.

    model = "nanodet.onnx"              # beside this file, unless the file of roles names another
    classes = "coco.txt"                # a name in each line; or a list
    min_score = 0.3
    nms_iou = 0.6                       # left out: the model needs none

    [input]
    width = 416
    height = 416
    colours = "BGR"
    mean = [103.53, 116.28, 123.675]    # of values from 0 to 255
    std = [57.375, 57.12, 58.395]

    [output]
    decoding = "dfl"
    scores = ["Identity:0", "Identity_1:0", "Identity_2:0"]
    boxes = ["Identity_3:0", "Identity_4:0", "Identity_5:0"]
    strides = [8, 16, 32]

A key that is not known is refused, and so is one that the decoding does not use.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.files import read_regular_file
from glamm_jax.json_files import JSONError, JSONObject, show

MAX_BYTES = 1 << 20  # of a description, and of a list of classes
MAX_SIDE = 8192  # pixels of an input
MAX_CLASSES = 100_000
OutputName = str | int  # name of an output, or its index
TOP_KEYS = ("model", "engine", "classes", "min_score", "nms_iou", "max_detections", "lower_case")
INPUT_KEYS = (
    "layout", "width", "height", "resize", "shortest", "longest", "resampling", "colours", "mean",
    "std", "dtype", "fill", "name", "size_name",
)  # fmt: skip
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
# Keys of [output] for each decoding.
OUTPUT_KEYS = {
    "boxes": (
        "boxes", "scores", "labels", "detections", "columns", "transposed", "box_format",
        "box_units", "activation", "background", "first_class",
    ),
    "detr": ("boxes", "scores", "activation", "background"),
    "ssd": ("boxes", "scores", "activation", "background", "box_order", "box_scales", "anchors"),
    "dfl": ("boxes", "scores", "strides", "distribution", "activation"),
    "mask": ("mask", "activation", "threshold", "min_area", "foreground"),
    "classes": ("scores", "activation", "top"),
}  # fmt: skip
ANCHOR_KEYS = ("strides", "min_scale", "max_scale", "ratios", "reduced_first")
COLUMNS = {
    "xyxy": ("x0", "y0", "x1", "y1"),
    "xywh": ("x", "y", "w", "h"),
    "cxcywh": ("cx", "cy", "w", "h"),
}
OTHER_COLUMNS = ("score", "objectness", "class", "classes")


class DescriptionError(GLaMMError):
    """The description of a model cannot be used. Names the file and the key, and says why."""


@dataclass(frozen=True)
class InputDescription:
    """What a model gets.

    Attributes:
        layout: "NCHW" or "NHWC".
        width: of the input in pixels; 0 for "shortest-edge", whose inputs have different sizes.
        height: of the input in pixels; 0 for "shortest-edge".
        resize: "stretch" to width and height; "letterbox": the proportions stay, and the rest at
            the right and the bottom has the value `fill`; "letterbox-centred": the rest is on both
            sides; "shortest-edge": to `shortest`, the longest at most `longest`; "centre-crop": the
            shortest edge to `shortest`, of which the centre is used.
        shortest: pixels of the shortest edge.
        longest: pixels of the longest edge; 0: any.
        resampling: Pillow's filter, which averages when it makes images smaller.
        colours: "RGB" or "BGR".
        mean: of each channel in the order of `colours`; of values from 0 to 255.
        std: of each channel in the order of `colours`; of values from 0 to 255.
        dtype: "float32", "float16" or "uint8".
        fill: of a letterbox, from 0 to 255.
        name: of the input; "": the first.
        size_name: of an input that gets [width, height] of the input in int64; "": there is none.
    """

    layout: str = "NCHW"
    width: int = 0
    height: int = 0
    resize: str = "stretch"
    shortest: int = 0
    longest: int = 0
    resampling: str = "bilinear"
    colours: str = "RGB"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    fill: int = 114
    name: str = ""
    size_name: str = ""


@dataclass(frozen=True)
class AnchorDescription:
    """Anchors of a single-shot detector, as TensorFlow's generator of SSD anchors makes them.

    Attributes:
        strides: of the feature maps; a map has ceil(side / stride) cells a side.
        min_scale: of the anchors of the first map, as a share of the input.
        max_scale: of those of the last map.
        ratios: width to height of the anchors of a cell.
        reduced_first: whether a cell of the first map has three anchors only: half of `min_scale`
            with ratio 1, then `min_scale` with ratios 2 and 1/2.
    """

    strides: tuple[int, ...]
    min_scale: float
    max_scale: float
    ratios: tuple[float, ...]
    reduced_first: bool


@dataclass(frozen=True)
class OutputDescription:
    """What a model returns; which attributes count depends on `decoding`, see `OUTPUT_KEYS`.

    Attributes:
        decoding: "boxes", "detr", "ssd", "dfl", "mask" or "classes".
        boxes: names of the outputs with boxes.
        scores: names of the outputs with scores, as many as `boxes`.
        labels: of the output with the classes' numbers; None: `scores` has a column for each class.
        detections: of an output that has everything in `columns`.
        columns: of `detections`; "classes", the last one, stands for a score of each class.
        transposed: whether `detections` has a row for each column.
        box_format: "xyxy", "xywh" or "cxcywh".
        box_units: "pixel" of the input, or "unit": shares of the input.
        activation: what makes probabilities of scores: "none", "sigmoid" or "softmax".
        background: index of the class that is no object, -1 for the last; None: there is none.
            `classes` has no name for it.
        first_class: number of the first name in `labels` and in the column "class".
        box_order: of an SSD's four numbers, "yxhw" or "xywh".
        box_scales: that they are divided by.
        anchors: of an SSD.
        strides: of the maps of "dfl".
        distribution: whether the boxes of "dfl" are "logits" or "probabilities".
        mask: of the output with a probability for each pixel.
        threshold: of a mask's probability.
        min_area: smallest share of the image that a part of a mask covers.
        foreground: channel of a mask with several.
        top: most tags of an image.
    """

    decoding: str
    boxes: tuple[OutputName, ...] = ()
    scores: tuple[OutputName, ...] = ()
    labels: OutputName | None = None
    detections: OutputName | None = None
    columns: tuple[str, ...] = ()
    transposed: bool = False
    box_format: str = "xyxy"
    box_units: str = "pixel"
    activation: str = "none"
    background: int | None = None
    first_class: int = 0
    box_order: str = "yxhw"
    box_scales: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    anchors: AnchorDescription | None = None
    strides: tuple[int, ...] = ()
    distribution: str = "logits"
    mask: OutputName | None = None
    threshold: float = 0.5
    min_area: float = 0.001
    foreground: int = 0
    top: int = 10

    @property
    def names(self) -> tuple[OutputName, ...]:
        """All outputs that the decoding reads."""
        single = (self.labels, self.detections, self.mask)
        return (*self.boxes, *self.scores, *(name for name in single if name is not None))


@dataclass(frozen=True)
class ModelDescription:
    """A model file and how it is used.

    Attributes:
        model: path of the file; None: the file of roles names it.
        engine: "onnxruntime", "opencv" or "litert"; "": by the file's ending and what is installed.
        classes: names in the order of the model's numbers; an empty one is never reported.
        min_score: of a detection or a tag.
        nms_iou: detections of one class that overlap a better one by more are dropped; None: all
            are used.
        max_detections: of an image, those with the highest scores.
        input: what the model gets.
        output: what it returns.
    """

    model: Path | None
    engine: str
    classes: tuple[str, ...]
    min_score: float
    nms_iou: float | None
    max_detections: int
    input: InputDescription
    output: OutputDescription


def read_description(path: Path) -> ModelDescription:
    """Read the description of a model.

    Raises:
        DescriptionError: it cannot be read, or a key of it cannot be used.
    """
    try:
        content = tomllib.loads(read_regular_file(path, MAX_BYTES).decode())
    except FileNotFoundError as error:
        raise DescriptionError(f"{path}: no such file") from error
    except OSError as error:
        raise DescriptionError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DescriptionError(f"{path}: not a TOML file: {error}") from error
    try:
        return _Reader(path).description(JSONObject(content, str(path)))
    except JSONError as error:
        raise DescriptionError(str(error)) from error


class _Reader:
    """Reads the tables of one file."""

    def __init__(self, path: Path):
        self._path = path

    def description(self, top: JSONObject) -> ModelDescription:
        """Return the description of the complete file."""
        _check_keys(top, (*TOP_KEYS, "input", "output"))
        output = self._output(top.object("output"))
        model = top.text("model", None)
        names = self._classes(top, needed=True)
        nms_iou = top.number("nms_iou", None, 0.0, 1.0)
        if output.decoding in ("mask", "classes") and nms_iou is not None:
            raise DescriptionError(f"{top.place('nms_iou')} is for detectors")
        return ModelDescription(
            model=None if model is None else self._path.parent / model,
            engine=_choice(top, "engine", ("", "onnxruntime", "opencv", "litert"), ""),
            classes=names,
            min_score=top.number("min_score", 0.0, 0.0, 1.0),
            nms_iou=nms_iou,
            max_detections=top.integer("max_detections", 300, 1),
            input=self._input(top.object("input")),
            output=output,
        )

    def _classes(self, top: JSONObject, *, needed: bool) -> tuple[str, ...]:
        value = top.value("classes", [])
        if isinstance(value, str):
            path = self._path.parent / value
            try:
                value = read_regular_file(path, MAX_BYTES).decode().splitlines()
            except (OSError, ValueError) as error:
                raise DescriptionError(f"{top.place('classes')}: {path}: {error}") from error
            while value and not value[-1].strip():
                value.pop()
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise DescriptionError(f"{top.place('classes')} is neither a file nor a list of names")
        if needed and not any(name.strip() for name in value):
            raise DescriptionError(f"{top.place('classes')}: there is no name")
        if len(value) > MAX_CLASSES:
            raise DescriptionError(f"{top.place('classes')}: more than {MAX_CLASSES} names")
        lower = top.boolean("lower_case", False)
        return tuple((x.lower() if lower else x).strip() for x in value)

    def _input(self, table: JSONObject) -> InputDescription:
        _check_keys(table, INPUT_KEYS)
        kinds = ("stretch", "letterbox", "letterbox-centred", "shortest-edge", "centre-crop")
        resize = _choice(table, "resize", kinds, "stretch")
        is_free = resize == "shortest-edge"
        has_shortest = is_free or resize == "centre-crop"
        unused = ["width", "height"] if is_free else ["longest"]
        unused += [] if has_shortest else ["shortest"]
        unused += [] if resize.startswith("letterbox") else ["fill"]
        for key in unused:
            if key in table:
                raise DescriptionError(f"{table.place(key)} is not used with resize = {resize!r}")
        width = 0 if is_free else table.integer("width", minimum=1, maximum=MAX_SIDE)
        height = 0 if is_free else table.integer("height", minimum=1, maximum=MAX_SIDE)
        shortest = table.integer("shortest", minimum=1, maximum=MAX_SIDE) if has_shortest else 0
        if resize == "centre-crop" and shortest < max(width, height):
            raise DescriptionError(
                f"{table.place('shortest')} = {shortest} is smaller than the crop, "
                f"{width} x {height}"
            )
        result = InputDescription(
            layout=_choice(table, "layout", ("NCHW", "NHWC"), "NCHW"),
            width=width,
            height=height,
            resize=resize,
            shortest=shortest,
            longest=table.integer("longest", 0, 1, MAX_SIDE),
            resampling=_choice(
                table, "resampling", ("bilinear", "bicubic", "box", "nearest"), "bilinear"
            ),
            colours=_choice(table, "colours", ("RGB", "BGR"), "RGB"),
            mean=_numbers(table, "mean", 3, (0.0, 0.0, 0.0)),
            std=_numbers(table, "std", 3, (1.0, 1.0, 1.0)),
            dtype=_choice(table, "dtype", ("float32", "float16", "uint8"), "float32"),
            fill=table.integer("fill", 114, 0, 255),
            name=table.text("name", ""),
            size_name=table.text("size_name", ""),
        )
        if any(value == 0 for value in result.std):
            raise DescriptionError(f"{table.place('std')} has a zero")
        if result.dtype == "uint8" and ("mean" in table or "std" in table):
            raise DescriptionError(f"{table.place('dtype')} = 'uint8' has neither mean nor std")
        return result

    def _output(self, table: JSONObject) -> OutputDescription:
        decoding = _choice(table, "decoding", tuple(OUTPUT_KEYS))
        _check_keys(table, ("decoding", *OUTPUT_KEYS[decoding]), f" of decoding = {decoding!r}")
        if decoding == "boxes":
            return _boxes(table)
        if decoding == "mask":
            return OutputDescription(
                decoding,
                mask=_output_name(table, "mask", 0),
                activation=_choice(table, "activation", ("none", "sigmoid", "softmax"), "none"),
                threshold=table.number("threshold", 0.5, 0.0, 1.0),
                min_area=table.number("min_area", 0.001, 0.0, 1.0),
                foreground=table.integer("foreground", 0, 0),
            )
        if decoding == "classes":
            return OutputDescription(
                decoding,
                scores=(_output_name(table, "scores", 0),),
                activation=_choice(table, "activation", ("none", "sigmoid", "softmax"), "softmax"),
                top=table.integer("top", 10, 1),
            )
        if decoding == "dfl":
            return _distribution_focal(table)
        default = "softmax" if decoding == "detr" else "sigmoid"
        activation = _choice(table, "activation", ("none", "sigmoid", "softmax"), default)
        last = -1 if decoding == "detr" and activation == "softmax" else None
        common: dict[str, Any] = {
            "boxes": (_output_name(table, "boxes"),),
            "scores": (_output_name(table, "scores"),),
            "activation": activation,
            "background": table.integer("background", last, -1),
        }
        if decoding == "detr":
            return OutputDescription(decoding, box_format="cxcywh", box_units="unit", **common)
        scales = _numbers(table, "box_scales", 4, (10.0, 10.0, 5.0, 5.0))
        if any(value <= 0 for value in scales):
            raise DescriptionError(f"{table.place('box_scales')}: a scale is above zero")
        return OutputDescription(
            decoding,
            box_order=_choice(table, "box_order", ("yxhw", "xywh"), "yxhw"),
            box_scales=scales,
            anchors=_anchors(table.object("anchors")),
            **common,
        )


def _boxes(table: JSONObject) -> OutputDescription:
    common: dict[str, Any] = {
        "box_units": _choice(table, "box_units", ("pixel", "unit"), "pixel"),
        "activation": _choice(table, "activation", ("none", "sigmoid", "softmax"), "none"),
        "background": table.integer("background", None, -1),
        "first_class": table.integer("first_class", 0, 0, MAX_CLASSES),
    }
    separate, combined = ("boxes", "scores", "labels", "box_format"), ("columns", "transposed")
    unused = separate if "detections" in table else combined
    for key in unused:
        if key in table:
            other = "together with detections" if unused is separate else "without detections"
            raise DescriptionError(f"{table.place(key)} is not used {other}")
    if "detections" not in table:
        labels = _output_name(table, "labels") if "labels" in table else None
        result = OutputDescription(
            "boxes",
            boxes=(_output_name(table, "boxes"),),
            scores=(_output_name(table, "scores"),),
            labels=labels,
            box_format=_choice(table, "box_format", BOX_FORMATS, "xyxy"),
            **common,
        )
        has_class = labels is not None
    else:
        columns = tuple(table.array("columns"))
        formats = [name for name, four in COLUMNS.items() if columns[:4] == four]
        rest = columns[4:]
        if len(formats) != 1 or len(set(rest)) != len(rest) or not {*rest} <= {*OTHER_COLUMNS}:
            raise DescriptionError(
                f"{table.place('columns')} begins with {' or '.join(map(str, COLUMNS.values()))}, "
                f"and goes on with names of {', '.join(OTHER_COLUMNS)}"
            )
        has_class = "class" in rest
        is_single = has_class and "score" in rest and "classes" not in rest
        if not is_single and not (rest[-1:] == ("classes",) and not {"class", "score"} & {*rest}):
            raise DescriptionError(
                f"{table.place('columns')} has either score and class, or ends with classes"
            )
        result = OutputDescription(
            "boxes",
            detections=_output_name(table, "detections"),
            columns=columns,
            transposed=table.boolean("transposed", False),
            box_format=formats[0],
            **common,
        )
    for key in ("background",) if has_class else ("first_class",):
        if key in table:
            raise DescriptionError(f"{table.place(key)} is not used by these outputs")
    if "objectness" in result.columns and result.activation != "none":
        raise DescriptionError(
            f"{table.place('activation')}: scores that are multiplied by objectness have none"
        )
    if has_class and result.activation == "softmax":
        raise DescriptionError(f"{table.place('activation')}: one score has no softmax")
    return result


def _distribution_focal(table: JSONObject) -> OutputDescription:
    strides = _whole_numbers(table, "strides")
    boxes, scores = _output_names(table, "boxes"), _output_names(table, "scores")
    if not len(boxes) == len(scores) == len(strides):
        raise DescriptionError(
            f"{table.where}: {len(strides)} strides, {len(boxes)} outputs of boxes and "
            f"{len(scores)} of scores; each stride has one of both"
        )
    return OutputDescription(
        "dfl",
        boxes=boxes,
        scores=scores,
        strides=strides,
        distribution=_choice(table, "distribution", ("logits", "probabilities"), "logits"),
        activation=_choice(table, "activation", ("none", "sigmoid"), "none"),
    )


def _anchors(table: JSONObject) -> AnchorDescription:
    _check_keys(table, ANCHOR_KEYS)
    ratios = tuple(_number(table, "ratios", x) for x in table.array("ratios"))
    if not ratios or any(ratio <= 0 for ratio in ratios):
        raise DescriptionError(f"{table.place('ratios')}: ratios above zero are due")
    low = table.number("min_scale", 0.2, 0.001, 1.0)
    return AnchorDescription(
        strides=_whole_numbers(table, "strides"),
        min_scale=low,
        max_scale=table.number("max_scale", max(0.95, low), low, 1.0),
        ratios=ratios,
        reduced_first=table.boolean("reduced_first", True),
    )


def _check_keys(table: JSONObject, names: Sequence[str], what: str = "") -> None:
    for key in table:
        if key not in names:
            near = get_close_matches(key, names, n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise DescriptionError(f"{table.where}: no key {key!r}{what}; {advice}")


def _choice(table: JSONObject, key: str, names: Sequence[str], default: str | None = None) -> str:
    value = table.text(key) if default is None else table.text(key, default)
    if value not in names:
        choices = ", ".join(repr(name) for name in names if name)
        raise DescriptionError(f"{table.place(key)} = {value!r}: choose from {choices}")
    return value


def _number(table: JSONObject, key: str, value: Any) -> float:
    return JSONObject({key: value}, table.where).number(key)


def _numbers(
    table: JSONObject, key: str, length: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    values = table.array(key, list(default))
    if len(values) != length:
        raise DescriptionError(f"{table.place(key)}: {length} numbers are due, got {show(values)}")
    return tuple(_number(table, key, value) for value in values)


def _whole_numbers(table: JSONObject, key: str) -> tuple[int, ...]:
    values = [
        JSONObject({key: x}, table.where).integer(key, minimum=1, maximum=MAX_SIDE)
        for x in table.array(key)
    ]
    if not values:
        raise DescriptionError(f"{table.place(key)} is empty")
    return tuple(values)


def _output_name(table: JSONObject, key: str, default: OutputName | None = None) -> OutputName:
    value = table.value(key) if default is None else table.value(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or value in ("",):
        raise DescriptionError(
            f"{table.place(key)} = {show(value)} is neither the name of an output nor its index"
        )
    if isinstance(value, int) and value < 0:
        raise DescriptionError(f"{table.place(key)} = {value}: an index is at least 0")
    return value


def _output_names(table: JSONObject, key: str) -> tuple[OutputName, ...]:
    values = table.array(key)
    return tuple(_output_name(JSONObject({key: x}, table.where), key) for x in values)
