"""Models in ONNX files: descriptions, inputs, decodings, engines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.adapters.onnx_models.decoding import (
    OutputShapeError,
    decode_boxes,
    ssd_anchors,
    suppress_classes,
)
from glamm_jax.grand.adapters.onnx_models.described_model import DescribedModel
from glamm_jax.grand.adapters.onnx_models.description import (
    DescriptionError,
    InputDescription,
    read_description,
)
from glamm_jax.grand.adapters.onnx_models.detector import ONNXDetector
from glamm_jax.grand.adapters.onnx_models.images import InputImageError, prepare
from glamm_jax.grand.adapters.onnx_models.tagger import ONNXTagger
from glamm_jax.grand.role_files import RoleFileError, read_roles
from glamm_jax.grand.roles import RoleError, RoleImage, Tag
from tests.grand.adapters.tiny_onnx import (
    photographs,
    write_brightness_model,
    write_constant_model,
)

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "configs/annotate/onnx").glob("*.toml"))
HEAD = 'model = "m.onnx"\nclasses = ["dog", "cat"]\nmin_score = 0.5\n'
INPUT = "[input]\nwidth = 64\nheight = 32\n"
PHOTO = RoleImage("photo", np.full((100, 200, 3), 90, np.uint8))


def detector(folder: Path, output: str, arrays: dict[str, Any], head: str = HEAD) -> ONNXDetector:
    """Return a detector with a model that returns the arrays for every image."""
    write_constant_model(
        folder / "m.onnx", (1, 3, 32, 64), {k: np.asarray(v) for k, v in arrays.items()}
    )
    (folder / "m.toml").write_text(f"{head}{INPUT}[output]\n{output}")
    return ONNXDetector(str(folder / "m.toml"), "m")


def found(adapter: ONNXDetector) -> list[tuple[Any, ...]]:
    """Return box, score and label of each detection in a photograph of 200 x 100."""
    adapter.setup()
    (result,) = adapter([PHOTO])
    assert isinstance(result, list), result
    return [(*np.round(x.box, 3).tolist(), round(x.score, 4), x.label) for x in result]


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


# A box of the input of 64 x 32 and the same box in the photograph of 200 x 100.
BOX, IN_PHOTO = (8.0, 4.0, 40.0, 28.0), (25.0, 12.5, 125.0, 87.5)


# ------------------------------------------------------------------ decodings


@pytest.mark.parametrize(
    ("output", "arrays"),
    [
        (
            'decoding="boxes"\nboxes="b"\nscores="s"\nlabels="l"\nfirst_class=1',
            {"b": [BOX, BOX], "s": [0.9, 0.2], "l": [2, 1]},
        ),
        (
            'decoding="boxes"\nboxes=0\nscores=1\nbox_format="cxcywh"\nbox_units="unit"',
            {"b": [(24 / 64, 16 / 32, 32 / 64, 24 / 32)], "s": [[0.3, 0.9]]},
        ),
        (
            'decoding="boxes"\nboxes="b"\nscores="s"\nbox_format="xywh"\nactivation="sigmoid"',
            {"b": [(8, 4, 32, 24)], "s": [[-5, logit(0.9)]]},
        ),
        (
            'decoding="boxes"\ndetections="d"\ncolumns=["x0","y0","x1","y1","score","class"]',
            {"d": [(*BOX, 0.9, 1), (*BOX, 0.1, 0)]},
        ),
        (
            'decoding="boxes"\ndetections="d"\ntransposed=true\n'
            'columns=["cx","cy","w","h","classes"]',
            {"d": np.asarray([(24, 16, 32, 24, 0.1, 0.9), (1, 1, 1, 1, 0.0, 0.1)]).T},
        ),
        (
            'decoding="boxes"\ndetections="d"\ncolumns=["x","y","w","h","objectness","classes"]',
            {"d": [(8, 4, 32, 24, 0.95, 0.1, 0.9 / 0.95)]},
        ),
        (
            'decoding="detr"\nboxes="b"\nscores="s"',
            {
                "b": [(24 / 64, 0.5, 0.5, 0.75), (0.5, 0.5, 0.1, 0.1)],
                "s": [np.log([0.04, 0.9, 0.06]), np.log([0.3, 0.2, 0.5])],
            },
        ),
        (
            'decoding="detr"\nboxes="b"\nscores="s"\nactivation="sigmoid"',
            {"b": [(24 / 64, 0.5, 0.5, 0.75)], "s": [[-3, logit(0.9)]]},
        ),
    ],
)
def test_boxes_of_each_form_are_those_of_the_photograph(
    output: str, arrays: dict[str, Any], tmp_path: Path
) -> None:
    assert found(detector(tmp_path, output, arrays)) == [(*IN_PHOTO, 0.9, "cat")]


def test_an_ssd_decodes_offsets_from_its_anchors(tmp_path: Path) -> None:
    # One map of stride 32: cells with centres (16, 16) and (48, 16), 2 anchors each.
    codes, scores = np.zeros((4, 4)), np.full((4, 3), -9.0)
    scores[:, 0] = 5.0  # background
    # The second cell's first anchor has 0.5 x 0.5 of the input: 32 x 16 pixels at (48, 16).
    x, y, w, h = (24 - 48) / 32 * 10, 0.0, np.log(32 / 32) * 5, np.log(24 / 16) * 5
    codes[2] = (y, x, h, w)
    scores[2] = (-9, -9, logit(0.9))
    output = (
        'decoding="ssd"\nboxes="b"\nscores="s"\nbackground=0\n[output.anchors]\nstrides=[32]\n'
        "min_scale=0.5\nmax_scale=0.5\nratios=[1.0]\nreduced_first=false"
    )
    assert found(detector(tmp_path, output, {"b": codes, "s": scores})) == [(*IN_PHOTO, 0.9, "cat")]


def test_the_anchors_of_the_published_ssd() -> None:
    options = read_description(ROOT / "configs/annotate/onnx/ssd_oidv4.toml").output.anchors
    assert options is not None
    anchors = ssd_anchors(options, (300, 300))
    assert anchors.shape == (1917, 4)
    half = 0.5 / 19
    np.testing.assert_allclose(anchors[0], [half, half, 0.1, 0.1], atol=1e-7)
    np.testing.assert_allclose(anchors[1], [half, half, 0.2 * 2**0.5, 0.2 / 2**0.5], atol=1e-7)
    np.testing.assert_allclose(anchors[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5], atol=1e-7)
    np.testing.assert_allclose(anchors[19 * 19 * 3], [0.05, 0.05, 0.35, 0.35], atol=1e-7)


@pytest.mark.parametrize("distribution", ["logits", "probabilities"])
def test_distribution_focal_loss(distribution: str, tmp_path: Path) -> None:
    # Strides 8 and 16: maps of 8 x 4 and 4 x 2 cells. Cell (1, 0) of the second: centre (24, 8).
    arrays: dict[str, Any] = {
        "s8": np.zeros((32, 2)), "s16": np.zeros((8, 2)),
        "b8": np.full((32, 4, 3), 1 / 3), "b16": np.full((8, 4, 3), 1 / 3),
    }  # fmt: skip
    arrays["s16"][1, 1] = 0.9
    for side, distance in enumerate((16, 4, 16, 20)):  # left, top, right, bottom
        share = distance / 16
        low = int(share)
        arrays["b16"][1, side] = 1e-9
        arrays["b16"][1, side, low] += 1 - (share - low)
        if share > low:
            arrays["b16"][1, side, low + 1] += share - low
    for name in ("b8", "b16"):
        array = arrays[name].reshape(len(arrays[name]), -1)
        arrays[name] = np.log(array) if distribution == "logits" else array
    output = (
        f'decoding="dfl"\nstrides=[8, 16]\nboxes=["b8","b16"]\nscores=["s8","s16"]\n'
        f'distribution="{distribution}"'
    )
    assert found(detector(tmp_path, output, arrays)) == [(*IN_PHOTO, 0.9, "cat")]


def test_suppression_is_within_a_class_and_keeps_the_best(tmp_path: Path) -> None:
    near = (8.0, 4.0, 40.0, 27.0)
    rows = [(*near, 0.6, 1), (*BOX, 0.9, 1), (*near, 0.7, 0), (50, 4, 60, 9, 0.65, 1)]
    output = 'decoding="boxes"\ndetections="d"\ncolumns=["x0","y0","x1","y1","score","class"]'
    adapter = detector(tmp_path, output, {"d": rows}, f"{HEAD}nms_iou = 0.8\n")
    assert [(row[4], row[5]) for row in found(adapter)] == [
        (0.9, "cat"), (0.7, "dog"), (0.65, "cat"),
    ]  # fmt: skip
    assert suppress_classes(np.zeros((3, 4)), np.zeros(3, int), 0.5) == [0, 1, 2]


def test_what_is_outside_is_cut_and_what_has_no_name_is_left_out(tmp_path: Path) -> None:
    rows = [
        (-9, -9, 32, 16, 0.9, 0), (70, 40, 90, 50, 0.9, 0), (9, 9, 9, 20, 0.8, 0),
        (1, 1, 9, 9, 0.7, 1),
    ]  # fmt: skip
    output = 'decoding="boxes"\ndetections="d"\ncolumns=["x0","y0","x1","y1","score","class"]'
    head = HEAD.replace('"cat"', '""')
    assert found(detector(tmp_path, output, {"d": rows}, head)) == [
        (0.0, 0.0, 100.0, 50.0, 0.9, "dog")
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(*BOX, 7.5, 0)], "7.5 are no probabilities; the description needs an activation"),
        ([(*BOX, 0.9, 2)], "classes 2 to 2, and the description has names for 2"),
        ([(*BOX, np.nan, 0)], "a score is not finite"),
        ([(np.inf, 1, 2, 3, 0.9, 0)], "a box has numbers that are not finite"),
        ([(*BOX, 0.9)], r"output 'd' has the shape \(1, 5\), and columns are x0"),
    ],
)
def test_outputs_that_contradict_the_description_are_refused_when_it_is_loaded(
    rows: Any, message: str, tmp_path: Path
) -> None:
    output = 'decoding="boxes"\ndetections="d"\ncolumns=["x0","y0","x1","y1","score","class"]'
    with pytest.raises(GLaMMError, match=message):
        detector(tmp_path, output, {"d": rows}).setup()


def test_numbers_that_are_none_are_an_error_of_one_image(tmp_path: Path) -> None:
    path = ROOT / "configs/annotate/onnx/centernet.toml"
    outputs = {"tower_0/detections:0": np.full((1, 100, 6), np.nan)}
    with pytest.raises(OutputShapeError, match="not finite"):
        decode_boxes(outputs, read_description(path), (512, 512))

    class Broken(ONNXDetector):
        def answer(self, outputs: Any, image: Any) -> Any:
            if image.size == (70, 40):
                raise OutputShapeError("a score is not finite")
            return super().answer(outputs, image)

    output = 'decoding="boxes"\ndetections="d"\ncolumns=["x0","y0","x1","y1","score","class"]'
    detector(tmp_path, output, {"d": [(*BOX, 0.9, 1)]})
    results = Broken(str(tmp_path / "m.toml"))(photographs())
    assert isinstance(results[0], RoleError)
    assert results[0].kind == "output"
    assert not any(isinstance(result, RoleError) for result in results[1:])


# ------------------------------------------------------------------ inputs


def test_an_input_is_normalised_in_the_order_of_its_channels() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:] = (10, 20, 30)
    options = InputDescription(
        width=4, height=4, colours="BGR", mean=(30.0, 10.0, 0.0), std=(1.0, 2.0, 5.0)
    )
    array = prepare(pixels, options).array
    assert (array.shape, array.dtype) == ((3, 4, 4), np.float32)
    assert array[:, 0, 0].tolist() == [0.0, 5.0, 2.0]
    plain = prepare(pixels, InputDescription("NHWC", 4, 4, dtype="uint8")).array
    assert (plain.shape, plain.dtype, plain[0, 0].tolist()) == ((4, 4, 3), np.uint8, [10, 20, 30])


@pytest.mark.parametrize(
    "options",
    [
        InputDescription(width=64, height=48),
        InputDescription(width=64, height=64, resize="letterbox"),
        InputDescription(width=64, height=64, resize="letterbox-centred"),
        InputDescription(resize="shortest-edge", shortest=40),
        InputDescription(resize="shortest-edge", shortest=40, longest=50),
        InputDescription(width=32, height=32, resize="centre-crop", shortest=40),
    ],
    ids=lambda options: options.resize,
)
@pytest.mark.parametrize("size", [(120, 90), (50, 77)])
def test_a_bright_part_of_the_input_is_at_its_place_in_the_photograph(
    options: InputDescription, size: tuple[int, int]
) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box = (width * 0.4, height * 0.4, width * 0.65, height * 0.55)
    pixels[round(y0) : round(y1), round(x0) : round(x1)] = 255
    prepared = prepare(pixels, options)
    is_bright = prepared.array[0] > 127
    is_bright &= ~(prepared.array[0] == options.fill)
    rows, columns = np.flatnonzero(is_bright.any(1)), np.flatnonzero(is_bright.any(0))
    seen = np.asarray([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], float)
    pixel = max(width / prepared.resized[0], height / prepared.resized[1])
    np.testing.assert_allclose(prepared.to_image(seen)[0], box, atol=1 + pixel)
    back = prepared.map_to_image((prepared.array[0] / 255).astype(np.float32))
    assert back.shape == (height, width)
    if options.resize != "centre-crop":
        assert ((back > 0.6) != (pixels[:, :, 0] > 127)).mean() < 0.05
    expected = {"shortest-edge": None}.get(options.resize, (options.height, options.width))
    assert expected in (None, prepared.array.shape[1:])
    if options.resize == "shortest-edge" and not options.longest:
        assert min(prepared.array.shape[1:]) == 40
    if options.longest:
        assert max(prepared.array.shape[1:]) <= 50


def test_what_is_no_image_is_an_error() -> None:
    options = InputDescription(resize="shortest-edge", shortest=800)
    with pytest.raises(InputImageError, match="0 x 4 pixels are no image"):
        prepare(np.zeros((4, 0, 3), np.uint8), options)
    with pytest.raises(InputImageError, match="1 x 2000 pixels would be resized to 800 x 1600000"):
        prepare(np.zeros((2000, 1, 3), np.uint8), options)


# ------------------------------------------------------------------ masks and tags


def test_each_part_of_a_mask_is_a_region(tmp_path: Path) -> None:
    write_brightness_model(tmp_path / "m.onnx", (1, 3, 100, 200))
    (tmp_path / "m.toml").write_text(
        'model = "m.onnx"\nclasses = ["person"]\nmin_score = 0.6\n'
        "[input]\nwidth = 200\nheight = 100\n"
        '[output]\ndecoding = "mask"\nmin_area = 0.01\n'
    )
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[10:20, 10:40] = 255  # 300 pixels
    pixels[50:90, 100:150] = 204  # 2000
    pixels[5:7, 180:190] = 255  # too small
    pixels[70:90, 10:40] = 140  # too low a score
    (result,) = ONNXDetector(str(tmp_path / "m.toml"))([RoleImage("a", pixels)])
    assert [x.box for x in result] == [(100.0, 50.0, 150.0, 90.0), (10.0, 10.0, 40.0, 20.0)]
    assert [round(x.score, 2) for x in result] == [0.8, 1.0]
    assert {x.label for x in result} == {"person"}


def test_a_tagger_returns_the_best_classes(tmp_path: Path) -> None:
    write_constant_model(
        tmp_path / "m.onnx", (1, 3, 32, 64), {"s": np.log(np.asarray([0.1, 0.6, 0.05, 0.25]))}
    )
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "m.toml").write_text(
        f'model = "m.onnx"\nclasses = "names.txt"\nmin_score = 0.2\n{INPUT}'
        '[output]\ndecoding = "classes"\n'
    )
    (tags,) = ONNXTagger(str(tmp_path / "m.toml"))([PHOTO])
    assert [tag.text for tag in tags] == ["b", "d"]
    assert isinstance(tags[0], Tag)
    assert tags[0].score == pytest.approx(0.6, abs=1e-6)


# ------------------------------------------------------------------ descriptions and engines


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_descriptions_can_be_read(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path.parent, tmp_path / "onnx")
    (tmp_path / "models").mkdir()  # written by examples/photographs
    (tmp_path / "models" / "imagenet.txt").write_text("tench\ngoldfish\n")
    description = read_description(tmp_path / "onnx" / path.name)
    assert all(description.classes)


BOXES = '[output]\ndecoding = "boxes"\nboxes = 0\nscores = 1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input", "not a TOML file"),
        (f"nms = 0.5\n{HEAD}{INPUT}{BOXES}", "no key 'nms'; did you mean nms_iou?"),
        (f"{HEAD}{INPUT}colour = 'RGB'\n{BOXES}", "input: no key 'colour'; did you mean colours?"),
        (f"{HEAD}{INPUT}{BOXES}strides = [8]", "no key 'strides' of decoding = 'boxes'"),
        (f"{HEAD}{BOXES}", "no field 'input'"),
        (f"{HEAD}{INPUT}", "no field 'output'"),
        (f"{HEAD}{INPUT}[output]\ndecoding = 'yolo'", "decoding = 'yolo': choose from 'boxes'"),
        (f"{HEAD}[input]\nwidth = 0\nheight = 3\n{BOXES}", "width = 0: at least 1"),
        (f"{HEAD}{INPUT}longest = 9\n{BOXES}", "longest is not used with resize = 'stretch'"),
        (f"{HEAD}{INPUT}fill = 9\n{BOXES}", "fill is not used with resize = 'stretch'"),
        (f"{HEAD}{INPUT}std = [1, 0, 1]\n{BOXES}", "std has a zero"),
        (f"{HEAD}{INPUT}std = [1, 1]\n{BOXES}", "std: 3 numbers are due"),
        (f"{HEAD}{INPUT}layout = 'CHW'\n{BOXES}", "layout = 'CHW': choose from 'NCHW', 'NHWC'"),
        (f"{HEAD}{INPUT}dtype = 'uint8'\nstd = [2, 2, 2]\n{BOXES}", "neither mean nor std"),
        (
            f"{HEAD}[input]\nwidth = 64\nheight = 64\nresize = 'centre-crop'\nshortest = 60\n"
            + BOXES,
            "shortest = 60 is smaller than the crop",
        ),
        (f"{HEAD}{INPUT}{BOXES}columns = ['x0']", "columns is not used without detections"),
        (f"{HEAD}{INPUT}{BOXES}first_class = 1", "first_class is not used by these outputs"),
        (f"{HEAD}{INPUT}{BOXES}labels = -1", "labels = -1: an index is at least 0"),
        (
            f"{HEAD}{INPUT}[output]\ndecoding = 'boxes'\ndetections = 0\ncolumns = ['x0', 'y0']",
            "columns begins with",
        ),
        (
            f"{HEAD}{INPUT}[output]\ndecoding = 'dfl'\nstrides = [8, 16]\n"
            "boxes = [0]\nscores = [1]",
            "2 strides, 1 outputs of boxes and 1 of scores",
        ),
        (f"max_detections = 0\n{HEAD}{INPUT}{BOXES}", "max_detections = 0: at least 1"),
        (f"model = 'm.onnx'\n{INPUT}{BOXES}", "classes: there is no name"),
        (f"model = 'm.onnx'\nclasses = 'none.txt'\n{INPUT}{BOXES}", "none.txt"),
        (f"model = 'm.onnx'\nclasses = [1]\n{INPUT}{BOXES}", "neither a file nor a list"),
    ],
)
def test_a_mistake_in_a_description_names_file_and_key(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(DescriptionError, match=message) as error:
        read_description(path)
    assert str(path) in str(error.value)


def test_a_model_that_does_not_fit_its_description_is_named(tmp_path: Path) -> None:
    arrays = {"b": [BOX], "s": [[0.1, 0.9]]}
    output = 'decoding="boxes"\nboxes="b"\nscores="s"'
    with pytest.raises(GLaMMError, match=r"has no output 'boxes'; there are: b, s"):
        detector(tmp_path, output.replace('"b"', '"boxes"'), arrays).setup()
    with pytest.raises(GLaMMError, match="has no output 7"):
        detector(tmp_path, output.replace('"b"', "7"), arrays).setup()
    detector(tmp_path, output, arrays)
    text = (tmp_path / "m.toml").read_text()
    for old, new, message in (
        ("width = 64", "width = 65", r"input has the shape \[1, 3, 32, 64\], that of the descr"),
        ("height = 32", 'height = 32\nlayout = "NHWC"', r"check layout, width and height"),
        ("height = 32", 'height = 32\nname = "pixels"', "has no input 'pixels'|also needs"),
        ("height = 32", 'height = 32\nsize_name = "sizes"', "has no input 'sizes'"),
        ('["dog", "cat"]', '["dog"]', "2 scores for each box; the description has 1 names"),
    ):
        (tmp_path / "m.toml").write_text(text.replace(old, new))
        with pytest.raises(GLaMMError, match=message):
            ONNXDetector(str(tmp_path / "m.toml")).setup()
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(GLaMMError, match="this onnxruntime has no CUDAExecutionProvider"):
        ONNXDetector(str(tmp_path / "m.toml"), device="cuda").setup()
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(GLaMMError, match="cannot be loaded"):
        ONNXDetector(str(tmp_path / "m.toml")).setup()


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    arrays = {"b": [BOX], "s": [[0.1, 0.9]]}
    first = detector(tmp_path, 'decoding="boxes"\nboxes="b"\nscores="s"', arrays)
    other = tmp_path / "elsewhere"
    other.mkdir()
    second = detector(other, 'decoding="boxes"\nboxes="b"\nscores="s"', arrays)
    assert first.fingerprint == second.fingerprint
    changed = detector(
        other, 'decoding="boxes"\nboxes="b"\nscores="s"', arrays | {"b": [PHOTO.pixels[0, :4, 0]]}
    )
    assert changed.fingerprint != first.fingerprint
    (tmp_path / "m.toml").write_text((tmp_path / "m.toml").read_text().replace("0.5", "0.4"))
    assert ONNXDetector(str(tmp_path / "m.toml")).fingerprint != first.fingerprint


def test_a_file_of_roles_names_models_by_their_descriptions(tmp_path: Path) -> None:
    detector(tmp_path, 'decoding="boxes"\nboxes="b"\nscores="s"', {"b": [BOX], "s": [[0.1, 0.9]]})
    path = tmp_path / "roles.toml"
    path.write_text('[detectors.mine]\nclass = "onnx"\ndescription = "m.toml"\n')
    role = read_roles(path).detectors["mine"]
    assert isinstance(role, DescribedModel)
    assert (role.name, role.needs_device) == ("mine", False)
    (result,) = role([PHOTO])
    assert [x.label for x in result] == ["cat"]
    for line, message in (
        ('description = "none.toml"', r"\[detectors.mine\]: .*none.toml: no such file"),
        ('description = "m.toml"\nmodel = "none.onnx"', "none.onnx: no such file"),
        ('description = "m.toml"\nmodel = "m.pb"', "ends with .onnx or .tflite"),
        ('description = "m.toml"\ndevice = "gpu"', "device = 'gpu': choose from cpu, cuda"),
        ('description = "m.toml"\nbatch_size = 0', "batch_size = 0 is not a whole number"),
        ('description = "m.toml"\nbatches = 2', "no key 'batches'; did you mean batch_size?"),
    ):
        path.write_text(f'[detectors.mine]\nclass = "onnx"\n{line}\n')
        with pytest.raises(RoleFileError, match=message):
            read_roles(path)
    path.write_text('[taggers.mine]\nclass = "onnx"\ndescription = "m.toml"\n')
    with pytest.raises(RoleFileError, match="decoding = 'boxes' is not for this role, but classes"):
        read_roles(path)
