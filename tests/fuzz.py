"""Read damaged and invented input of every kind, and report what is neither read nor rejected.

    python -m tests.fuzz --seconds 180 [--seed 0] [--kind rle]

A valid input of each kind is mutated (bytes changed, removed, repeated; values of JSON replaced)
and read as in production, in a child process with bounded memory. A failure
is an exception that is not a GLaMMError, the end of the process, or more than `MAX_SECONDS`. The
input of the first failure of each kind and exception is kept in --out. Prints a table; exit status
1 if there are failures.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from glamm_jax.errors import GLaMMError

MAX_SECONDS = 10  # of one try
MAX_BYTES = 12 << 30  # address space of the child process
VALUES = [
    *(None, True, 0, -1, 1.5, 1 << 31, 1 << 63, 10**400, 1e308, "", "a", "\ud800", "../../x", "/"),
    *([], {}, [[]], [None], {"a": 1}, "x" * 300, [0] * 50),
]


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        make: writes a valid input below a folder, and returns its path (a file or a folder).
        read: reads it as the library does.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, insert or repeat some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        at = rng.randrange(len(out) + 1)
        length = rng.choice([1, 1, 2, 4, 8, 100])
        action = rng.randrange(6)
        if action == 0:
            del out[at : at + length]
        elif action == 1:
            out[at:at] = rng.randbytes(length)
        elif action == 2:
            out[at:at] = out[at : at + length] * rng.choice([1, 3, 50])
        elif action == 3:
            del out[at:]
        elif action == 4:
            out[at : at + length] = rng.choice([b"\0", b"\xff"]) * length
        else:
            out[at : at + length] = rng.randbytes(length)
    return bytes(out)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Replace, remove or add values at random places."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = [*_places(value)]
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        container, key = rng.choice(places)
        action = rng.randrange(4)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(["a", "", "\ud800", "x" * 200])] = container.pop(key)
        elif action == 2:
            deep: Any = []
            for _ in range(rng.choice([50, 500, 5000])):
                deep = [deep]
            container[key] = rng.choice([deep, container[key], [container[key]] * 3])
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))  # it may be changed in turn
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    places, stack = [], [value]
    while stack:
        item = stack.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, inner in pairs if isinstance(item, dict | list) else ():
            places.append((item, key))
            if isinstance(inner, dict | list):
                stack.append(inner)
    return places


def dump(value: Any) -> bytes:
    """Return JSON, also of values that are nested too deeply for Python's encoder."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 5000 + b"]" * 5000


def mutate(path: Path, rng: random.Random) -> None:
    """Mutate a file, or a random one of a folder."""
    if path.is_dir():
        path = rng.choice(sorted(x for x in path.rglob("*") if x.is_file()))
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        lines = data.splitlines() if path.suffix == ".jsonl" else [data]
        i = rng.randrange(len(lines))
        lines[i] = dump(mutate_json(json.loads(lines[i]), rng))
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(mutate_bytes(data, rng))


# ---------------------------------------------------------------------------------------- kinds


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


def _make_image(kind: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"image.{kind}"
        Image.fromarray(_pixels()).save(path, kind, **options)
        return path

    return make


def _read_image(path: Path) -> None:
    from glamm_jax.data.preprocess import clip_image, open_image

    clip_image(open_image(path), 32)


def _make_json(name: str, value: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dump(value))
        return path

    return make


def _runs() -> dict[str, Any]:
    from glamm_jax.data import rle

    return rle.encode(_pixels()[:, :, 0] > 127)


def _read_rle(path: Path) -> None:
    from glamm_jax.data import rle
    from glamm_jax.json_files import parse_json

    runs = parse_json(path.read_bytes(), "runs")
    rle.check(runs)
    rle.decode_into(runs, np.zeros((7, 9), np.uint8))
    rle.compress(runs)
    rle.decode(runs)


def _read_polygons(path: Path) -> None:
    from glamm_jax.data.sources.defects import DefectLog
    from glamm_jax.data.sources.mask_annotations import read_mask
    from glamm_jax.json_files import parse_json

    read_mask(parse_json(path.read_bytes(), "mask"), 40, 30, DefectLog(""), "mask")


def _read_answer(path: Path) -> None:
    from glamm_jax.text.answer_parser import parse_answer, stable_text

    text = path.read_bytes().decode("utf-8", "replace")
    parse_answer(text)
    stable_text(text)


def _make_answer(folder: Path) -> Path:
    (folder / "answer.txt").write_text("<p> A dog </p> [SEG] near <p> a cat </p> [SEG] [SEG].</s>")
    return folder / "answer.txt"


def _make_safetensors(folder: Path) -> Path:
    from glamm_jax.weights.safetensors import TensorInfo, TensorWriter

    arrays = {f"t{i}": np.arange(6, dtype=np.float32).reshape(2, 3) for i in range(8)}
    infos = {name: TensorInfo(x.dtype, x.shape) for name, x in arrays.items()}
    target = folder / "weights"
    target.mkdir()
    with TensorWriter(target, shard_bytes=100).open(infos) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return target


def _read_safetensors(path: Path) -> None:
    from glamm_jax.weights.safetensors import map_tensor, read_folder

    for location in read_folder(path).values():
        map_tensor(location).sum()


def _make_bin(folder: Path) -> Path:
    import torch

    path = folder / "model.bin"
    torch.save({"a": torch.arange(50.0).reshape(5, 10), "b": torch.ones(4)[::2]}, path)
    return path


def _read_bin(path: Path) -> None:
    from glamm_jax.weights.torch_files import PickledSource

    source = PickledSource(path)
    for name in source.infos:
        source.read(name).sum()


def _make_lmdb(folder: Path) -> Path:
    import lmdb

    with (
        lmdb.open(str(folder / "db"), map_size=1 << 24) as database,
        database.begin(write=True) as transaction,
    ):
        for i in range(300):
            transaction.put(f"k{i}".encode(), b"x" * (i * 31 % 9000))
    return folder / "db" / "data.mdb"


def _read_lmdb(path: Path) -> None:
    from glamm_jax.data.sources.lmdb_file import LMDBFile

    with LMDBFile(path) as database:
        for key in [f"k{i}".encode() for i in range(0, 300, 7)]:
            database.get(key)
        list(database)


def _make_jsonl(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    Image.fromarray(_pixels()).save(data / "dog.png")
    line = {
        "image": "dog.png",
        "captions": ["A dog."],
        "grounded_captions": [{"text": "<p>A dog</p> [SEG] runs", "masks": [_runs()]}],
        "expressions": [{"text": "dog", "masks": [[[1, 1, 9, 1, 9, 9]]]}],
        "regions": [{"description": "dog", "box": [1, 1, 9, 9]}],
        "conversations": [["What is it?", "A dog."]],
    }
    (data / "own.jsonl").write_text(json.dumps(line) + "\n")
    return data


def _source(path: Path) -> Any:
    from glamm_jax.data.conversion import SourceReader
    from glamm_jax.data.sources.jsonl import JsonlSource

    return SourceReader(JsonlSource, path / "own.jsonl", "train", 1)


def _read_jsonl(path: Path) -> None:
    source = _source(path).source
    for key in source.keys:
        source.read(key)


def _make_shards(folder: Path) -> Path:
    from glamm_jax.cli.convert import dataset

    data = _make_jsonl(folder)
    parser = argparse.ArgumentParser()
    dataset.add_arguments(parser)
    words = ["jsonl", "--source", str(data / "own.jsonl"), "--out", str(folder / "shards")]
    dataset.run(parser.parse_args([*words, "--workers", "1"]))
    return folder / "shards" / "glamm_own" / "1.0.0"


def _read_shards(path: Path) -> None:
    from glamm_jax.data.record_shards import RecordShards

    for record in RecordShards(path, "train"):
        assert record.image is not None


def _predictions() -> list[dict[str, Any]]:
    entry = {"caption": "A dog.", "phrases": ["dog"], "pred_masks": [_runs()]}
    return [{"image_id": "1", **entry}, {"image_id": 2, **entry}]


def _read_predictions(path: Path) -> None:
    from glamm_jax.evaluation.benchmarks import gcg
    from glamm_jax.evaluation.benchmarks.base import Item
    from glamm_jax.evaluation.prediction_files import read_predictions

    result = read_predictions(path, [Item(str(i), str(i), i, "?") for i in (1, 2)])
    gcg.export(path.parent / "out" / "a", [*result.predictions.values()])
    assert {x.name for x in path.parent.iterdir()} == {path.name, "out"}


def _make_scores(folder: Path) -> Path:
    from glamm_jax.evaluation.scores import RunScores, save_scores
    from glamm_jax.metrics.result import MetricResult

    result = MetricResult({"a": 0.5}, {"1": {"a": 1.0}}, {"a": ("a", "a")}, {"kind": ("1",)})
    modes: Any = {"compat": result, "strict": result}
    scores = RunScores("gcg", "val", modes, "hash", "words", {"items": 1})
    save_scores(folder / "scores.json", scores)
    return folder / "scores.json"


def _read_scores(path: Path) -> None:
    from glamm_jax.evaluation.scores import load_scores

    load_scores(path)


def _make_config(folder: Path) -> Path:
    from glamm_jax.config import LlamaConfig
    from glamm_jax.weights.config_file import write_config

    (folder / "model").mkdir()
    write_config(folder / "model", LlamaConfig())
    return folder / "model"


def _read_config(path: Path) -> None:
    from glamm_jax.weights.config_file import read_config

    read_config(path)


def _make_coco(folder: Path) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 30} for i in (1, 2)]
    base = folder / "gcg"
    base.mkdir()
    for image in images:
        Image.fromarray(_pixels()).save(base / str(image["file_name"]))
    captions = [{"id": i, "image_id": i, "caption": "A dog", "labels": ["dog"]} for i in (1, 2)]
    masks = [{"id": i, "image_id": i, "segmentation": _runs()} for i in (1, 2)]
    for name, entries in (("caption", captions), ("mask", masks)):
        content = {"images": images, "annotations": entries}
        (base / f"val_gcg_coco_{name}_gt.json").write_bytes(dump(content))
    return base


def _read_coco(path: Path) -> None:
    from glamm_jax.data.record import RecordError
    from glamm_jax.evaluation.benchmarks import BENCHMARKS
    from glamm_jax.evaluation.items import EvaluationData, open_items

    benchmark = BENCHMARKS["gcg"]
    items = open_items(benchmark, EvaluationData(str(path), "val"), benchmark.prompt_template())
    for item in items.items:
        try:
            items.records[item.record]
        except RecordError:
            continue


POLYGONS = [[1, 1, 9.5, 1, 9, 9], [20, 20, 25, 20, 25, 25, 20, 25]]


def _make_decisions(folder: Path) -> Path:
    from etils import epath

    from glamm_jax.grand.review.correction import Correction
    from glamm_jax.grand.review.decisions import DecisionLog, DecisionRequest

    caption = {"caption": "A dog.", "phrases": [{"start": 0, "end": 5, "ids": [1]}]}
    item = {"id": 1, "box": [0, 0, 5, 5], "label": "dog", "attributes": ["brown"]}
    fields = {"objects": [{**item, "mask": _runs()}], "removed": [2], "dense_caption": caption}
    correction = Correction.from_json(fields, "x")
    log, record = DecisionLog(epath.Path(folder)), "0" * 64
    log.append(DecisionRequest("a.jpg", 0, "ann", "correct", record, correction))
    log.append(DecisionRequest("a.jpg", 1, "bob", "discard", record))
    log.append(DecisionRequest("a.jpg", 2, "ann", "undo", record))
    return folder / "review" / "decisions.jsonl"


def _read_decisions(path: Path) -> None:
    from etils import epath

    from glamm_jax.grand.review.decisions import DecisionLog

    log = DecisionLog(epath.Path(path.parent.parent))
    for name in log.image_ids:
        log.review(name, "0" * 64)
        log.correction(name, "0" * 64)


KINDS: Mapping[str, Kind] = {
    "image png": Kind(_make_image("png"), _read_image),
    "image jpeg": Kind(_make_image("jpeg"), _read_image),
    "image progressive": Kind(_make_image("jpeg", progressive=True), _read_image),
    "image webp": Kind(_make_image("webp"), _read_image),
    "image tiff": Kind(_make_image("tiff", compression="tiff_lzw"), _read_image),
    "image gif": Kind(_make_image("gif"), _read_image),
    "rle": Kind(lambda folder: _make_json("runs.json", _runs())(folder), _read_rle),
    "polygons": Kind(_make_json("mask.json", POLYGONS), _read_polygons),
    "answer": Kind(_make_answer, _read_answer),
    "safetensors": Kind(_make_safetensors, _read_safetensors),
    "bin": Kind(_make_bin, _read_bin),
    "lmdb": Kind(_make_lmdb, _read_lmdb),
    "jsonl": Kind(_make_jsonl, _read_jsonl),
    "record shards": Kind(_make_shards, _read_shards),
    "predictions": Kind(
        lambda folder: _make_json("list/p.json", _predictions())(folder), _read_predictions
    ),
    "scores": Kind(_make_scores, _read_scores),
    "config": Kind(_make_config, _read_config),
    "evaluation files": Kind(_make_coco, _read_coco),
    "review decisions": Kind(_make_decisions, _read_decisions),
}


# ---------------------------------------------------------------------------------------- runner


def _run_kind(name: str, seconds: float, seed: int, folder: Path, connection: Any) -> None:
    """Try one kind in this process; sends (try, outcome) before and after every try."""
    faulthandler.enable()
    kind, rng = KINDS[name], random.Random(f"{name} {seed}")
    base = kind.make(folder)
    kind.read(base)  # the valid input
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    relative = base.relative_to(folder)
    top = folder / relative.parts[0]
    pristine = folder.parent / "valid"
    shutil.copytree(folder, pristine)
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
        mutate(base, rng)
        number += 1
        connection.send(("started", number, ""))
        start = time.monotonic()
        try:
            kind.read(base)
            outcome = "read"
        except GLaMMError:
            outcome = "rejected"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        if time.monotonic() - start > MAX_SECONDS:
            outcome = f"took more than {MAX_SECONDS} s"
        connection.send(("ended", number, outcome))
    assert top.exists()
    connection.send(("finished", number, ""))


def try_kind(name: str, seconds: float, seed: int, keep: Path) -> Counter[str]:
    """Try one kind in child processes, a new one after each that dies; returns the outcomes.

    Args:
        name: of the kind.
        seconds: for all tries.
        seed: of the mutations.
        keep: folder for the inputs of failures.
    """
    outcomes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "input"
            folder.mkdir()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run_kind, args=(name, left, seed, folder, sender))
            process.start()
            sender.close()
            event, outcome = "starting", ""
            while event != "finished":
                try:
                    if not receiver.poll(300 if event == "starting" else 3 * MAX_SECONDS):
                        process.kill()
                        outcome = "does not end"
                    else:
                        event, _, outcome = receiver.recv()
                        if event != "ended":
                            continue
                except EOFError:
                    process.join()
                    outcome = f"the process ended with {process.exitcode}"
                if outcome not in ("read", "rejected") and not outcomes[outcome]:
                    target = keep / f"{name} {outcome[:40]}".replace(" ", "_").replace("/", "_")
                    shutil.rmtree(target, ignore_errors=True)
                    shutil.copytree(folder, target)
                outcomes[outcome] += 1
                if outcome.startswith(("does not end", "the process ended")):
                    break
            process.join()
        seed += 1
        if event == "starting":  # the valid input fails
            break
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180, help="of all kinds (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="inputs of failures")
    options = parser.parse_args(arguments)
    kinds = options.kind or [*KINDS]
    options.out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, Counter[str]] = {}
    print(f"{'kind':20} {'tries':>7} {'read':>7} {'rejected':>8} {'failures':>8}", flush=True)
    for name in kinds:
        outcomes = try_kind(name, options.seconds / len(kinds), options.seed, options.out)
        read, rejected = outcomes.pop("read", 0), outcomes.pop("rejected", 0)
        failed = outcomes.total()
        tries = read + rejected + failed
        print(f"{name:20} {tries:7} {read:7} {rejected:8} {failed:8}", flush=True)
        if failed:
            failures[name] = outcomes
        if not tries:
            failures[name] = Counter({"no try at all": 1})
    for name, outcomes in failures.items():
        for outcome, count in outcomes.most_common():
            print(f"{name}: {count} x {outcome}")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
