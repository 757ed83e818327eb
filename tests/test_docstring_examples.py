"""The usage examples in the docstrings of the library run; those of the evaluation: see there."""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from PIL import Image

import glamm_jax
from configs import learn
from glamm_jax.config import GLaMMConfig
from glamm_jax.data.conversion import SourceReader, write_shard
from glamm_jax.data.loader import open_batches
from glamm_jax.data.record import Region
from glamm_jax.data.sources.defects import DefectLog
from glamm_jax.grand import options as grand_options
from glamm_jax.grand.adapters import NOISE
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.images import image_stage, scan_images
from glamm_jax.grand.phrases import PhraseBox
from glamm_jax.grand.record import Detection, GrandCaption, GrandObject, GrandRecord, PhraseLink
from glamm_jax.grand.review.correction import Correction
from glamm_jax.grand.roles import Landmark, LLMAnswer, ParsedText, RoleImage
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.inference.chat import load
from glamm_jax.inference.generate import Generator
from glamm_jax.inference.sam_predictor import SAMPredictor
from glamm_jax.inference.text_chat import TextChat
from glamm_jax.miniworld import EASY, render_scene, scene_record
from glamm_jax.miniworld.grand_folder import write_grand
from glamm_jax.miniworld.grandf_folder import write_grandf
from glamm_jax.miniworld.refcoco_folder import write_refcoco
from glamm_jax.miniworld.source import MiniWorldSource
from glamm_jax.miniworld.truth_folder import open_truth, write_scenes
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import parse_mesh
from glamm_jax.serving.jobs import EngineOptions
from glamm_jax.training.parameter_groups import trainable_filter, used_parts
from tests.docstring_example import example_of, example_of_module, unknown_names
from tests.evaluation.test_docstring_examples import MODULES as EVALUATION_MODULES
from tests.evaluation.test_docstring_examples import PACKAGE as EVALUATION
from tests.small_experiment import get_config

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "miniworld-tiny"
MASK = np.ones((480, 640), bool)
IMAGE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
Variables = dict[str, Any]


def _record_shards(out: Path) -> Path:
    """Convert a mini-world, by the calls of the example of data.conversion."""
    reader = SourceReader(partial(MiniWorldSource, size=64, ids=range(4)), out, "train")
    target = reader.target(out)
    target.begin(reader.description())
    for index in range(target.num_shards):
        write_shard(reader, target, index)
    target.publish(target.summarize(len(reader.keys)))
    return target.folder


def _batch(config: GLaMMConfig) -> Any:
    data = get_config().data
    batches = open_batches(data, config)
    batch = next(batches).batch
    batches.close()
    return batch


def _generation() -> Variables:
    config = get_config().model
    return {
        "generator": Generator(GLaMM(config, rngs=nnx.Rngs(0))),
        "batch": _batch(config),
    }


def _optimization() -> Variables:
    config = get_config()
    model = GLaMM(config.model, rngs=nnx.Rngs(0))
    is_trained = trainable_filter(config.optim.trainable)
    # A few parameters: every operation on each is compiled.
    trainable = nnx.state(model, nnx.All(is_trained, nnx.PathContains("text_projection")))
    return {
        "config": config,
        "trainable": trainable,
        "gradients": trainable,
        "batch": _batch(config.model),
        "used_parts": used_parts,
    }


def _mixture(folder: Path) -> Variables:
    _record_shards(folder / "shards")
    return {"config": learn.get_config(), "replace": replace}


def _oracle() -> Variables:
    return {
        "write_scenes": lambda name, world, **_: write_scenes(name, EASY, count=1, size=64),
        "FULL": EASY,
        "pixels": np.zeros((64, 64, 3), np.uint8),
        "NOISE": {"easy": NOISE["none"]},
        "RoleImage": RoleImage,
    }


def _records(folder: Path) -> Variables:
    write_scenes(folder / "scenes", EASY, count=1, size=64)
    truth = open_truth(folder / "scenes")
    return {
        "records": [(image_id, GrandRecord()) for image_id in truth.image_ids],
        "truth": truth,
    }


class CaptionLLM:
    """A language model with one answer."""

    name, fingerprint, needs_device = "one answer", "1", False

    def setup(self) -> None: ...

    def __call__(self, requests: Any) -> Any:
        return [LLMAnswer("A dog sits there.", "stop") for _ in requests]


def _grand_steps() -> Variables:
    """Return what the steps of the annotation need: a cup that everything agrees on."""
    box, mask = (0.0, 0.0, 9.0, 9.0), {"size": [480, 640], "counts": "1"}
    item = GrandObject(0, box, ("cup",), 0.9, ("a red cup",), label="cup", depth=1.0, mask=mask)
    words, flags = ("a", "red", "cup"), (False, False, False)
    parsed = ParsedText(words, ("DET", "ADJ", "NOUN"), words, flags, flags, (2, 2, -1))
    short = GrandCaption("a red cup")
    return {
        **{name: getattr(grand_options, name) for name in dir(grand_options) if "Options" in name},
        "Landmark": lambda category, fine: Landmark(category, fine)._asdict(),
        "Detection": Detection,
        "GrandObject": GrandObject,
        "box": box,
        "caption": "a red cup",
        "depth": np.ones((480, 640), np.float32),
        "detections": {"co_detr": [Detection(box, 0.9, "cup", mask=mask)]},
        "detections_of_each_phrase": [[Detection(box, 0.9)]],
        "merge_detections": lambda found, options: {"co_detr": [Detection(box, 0.9, "cup")]},
        "options": grand_options.PRESETS["paper"].phrases,
        "parse": lambda text: RuleParser()([text])[0],
        "parser": lambda texts: [parsed for _ in texts],
        "phrase_boxes": [PhraseBox(box, ("cup",), "a red cup")],
        "proposals": [Detection(box, 1.0, mask=mask)],
        "record": GrandRecord(
            (item,), links=(PhraseLink("a red cup", (0,)),), short_captions=(short,)
        ),
        "segmenter": lambda jobs: [mask for _ in jobs],
    }


# Module -> the variables that its example uses and does not define.
def _annotation(folder: Path) -> Variables:
    Path("photos").mkdir()
    Image.fromarray(IMAGE).save("photos/dog.jpg")
    run = AnnotationRun.create("out/run", scan_images("photos"), root="photos")
    graph = StageGraph([image_stage()])
    run_local(run, graph, processes=1)
    return {
        "run": run,
        "graph": graph,
        "scan_images": scan_images,
        "StageGraph": StageGraph,
        "AnnotationRun": AnnotationRun,
    }


VARIABLES: dict[str, Callable[[Path], Variables]] = {
    "": lambda folder: {"glamm_jax": glamm_jax, "path": MODEL},
    "aot.plan": lambda folder: {
        "config": replace(get_config(), data=replace(get_config().data, batch_slices=8))
    },
    "data.conversation_sampler": lambda folder: {"record": scene_record(_scene())},
    "data.conversion": lambda folder: {
        "make_source": partial(MiniWorldSource, size=64, ids=range(4)),
        "out": folder,
        "root": folder,
    },
    "data.dataset_mixture": _mixture,
    "data.loader": lambda folder: {"config": get_config()},
    "data.preprocess": lambda folder: {},
    "data.record": lambda folder: {
        "jpeg": b"",
        "dog": Region((0.0, 0.0, 5.0, 5.0), None),
        "ball": Region((5.0, 0.0, 9.0, 5.0), None),
    },
    "data.record_shards": lambda folder: {"record": scene_record(_scene())},
    "data.record_sources": lambda folder: {
        "open_synthetic": lambda name, split, seed: [scene_record(_scene())]
    },
    "data.resample": lambda folder: {"image": IMAGE},
    "data.sources.phrase_spans": lambda folder: {"log": DefectLog("image 7")},
    "grand.drivers.local": lambda folder: {},
    "grand.execution": _annotation,
    "grand.images": _annotation,
    "grand.run_folder": _annotation,
    "grand.review.confidence": lambda folder: {"record": GrandRecord()},
    "grand.review.decisions": lambda folder: {
        "run": SimpleNamespace(path=epath.Path(folder)),
        "sha256": "0" * 64,
    },
    "grand.review.reviewed_record": lambda folder: {
        "record": GrandRecord(),
        "correction": Correction(),
        "height": 4,
        "width": 4,
    },
    "grand.stages": lambda folder: {
        "image_stage": image_stage,
        "find_tags": lambda images: [],
        "count_tags": lambda images: [],
    },
    "grand.relations": lambda folder: {"PhraseLink": PhraseLink},
    "grand.option_list": lambda folder: {},
    "grand.answer_checks": lambda folder: {},
    "grand.lexicon": lambda folder: {},
    "grand.phrase_matching": lambda folder: {
        "ObjectFacts": ObjectFacts,
        "RuleParser": RuleParser,
    },
    "grand.prompts": lambda folder: {},
    "grand.text_parser": lambda folder: {},
    "grand.adapters.noise": lambda folder: {},
    "grand.adapters.oracle": lambda folder: _oracle(),
    "grand.scoring": lambda folder: _records(folder),
    "grand.verification": lambda folder: {
        "graphs": [GraphText("7", "Foreground:\nGroup 0: dog", (ObjectFacts(0, ("dog",)),))],
        "llm": CaptionLLM(),
        "checker": None,
    },
    "grand.grandf.caption_rewriting": lambda folder: {"llm": CaptionLLM()},
    "grand.affordances": lambda folder: _grand_steps(),
    "grand.attributes": lambda folder: _grand_steps(),
    "grand.caption_grounding": lambda folder: _grand_steps(),
    "grand.fusion": lambda folder: _grand_steps(),
    "grand.geometry": lambda folder: _grand_steps(),
    "grand.labels": lambda folder: _grand_steps(),
    "grand.links": lambda folder: _grand_steps(),
    "grand.masks": lambda folder: _grand_steps(),
    "grand.phrases": lambda folder: _grand_steps(),
    "grand.prediction_files": lambda folder: _grand_steps(),
    "grand.record": lambda folder: _grand_steps(),
    "grand.released_export": lambda folder: _grand_steps(),
    "grand.roles": lambda folder: _grand_steps(),
    "grand.scene_graph": lambda folder: _grand_steps(),
    "inference.chat": lambda folder: {"glamm_jax": glamm_jax},
    "serving.engine": lambda _: {
        "MODEL": MODEL,
        "load": load,
        "image": IMAGE[:64, :64],
        "EngineOptions": lambda slots: EngineOptions(slots // 8, warm_up_size=None),
    },
    "inference.generate": lambda folder: _generation(),
    "inference.placement": lambda folder: {"path": MODEL, "load": load, "parse_mesh": parse_mesh},
    "inference.sam_predictor": lambda folder: {
        "SAMPredictor": lambda path: SAMPredictor(MODEL),
        "pixels": IMAGE,
    },
    "inference.text_chat": lambda folder: {"TextChat": lambda path: TextChat(MODEL)},
    "json_files": lambda folder: {"Path": Path},
    "miniworld": lambda folder: {},
    "miniworld.folders": lambda folder: {
        "folder": folder,
        "scenes": [_scene()],
        "write_grand": write_grand,
        "write_grandf": write_grandf,
        "write_refcoco": write_refcoco,
    },
    "miniworld.mentions": lambda folder: {},
    "miniworld.truth_folder": lambda folder: {
        "write_scenes": lambda name, world, **_: write_scenes(name, EASY, count=1, size=64)
    },
    "nn.attention": lambda folder: {
        **dict.fromkeys("qkv", jnp.ones((1, 3, 2, 4))),
        "token_valid": jnp.ones((1, 3), bool),
    },
    "nn.attention_kernels": lambda folder: {},
    "parallel": lambda folder: {"state": nnx.state(GLaMM(get_config().model, rngs=nnx.Rngs(0)))},
    "report.html_page": lambda folder: {"Path": Path, "image": IMAGE, "dog": MASK},
    "report.mask_overlay": lambda folder: {"image": IMAGE, "mask": MASK},
    "storage": lambda folder: {},
    "training.optimizer": lambda folder: _optimization(),
    "weights.rules": lambda folder: {},
}
# Module whose example cannot run here -> the variables that it does not define, and why.
NAMES_ONLY: dict[str, tuple[set[str], str]] = {
    "aot.compile_step": ({"config"}, "needs libtpu"),
    "data.block_cache": (
        {"Path", "path", "info", "start", "end"},
        "needs a bucket; tests/data/test_bucket_shards.py makes these calls",
    ),
    "http_server": (
        {"app", "listener"},
        "waits for a signal; tests/programs/test_serve_program.py makes these calls",
    ),
    "cli.steps": ({"out"}, "tests/programs/test_demo.py makes these calls"),
    "grand.grandf.build_files": (
        {"data", "llm", "segmenter", "out"},
        "needs datasets; tests/grand/grandf/test_build_files.py makes these calls",
    ),
    "grand.export.fiftyone": (
        {"fo"},
        "needs FiftyOne; tests/grand/export/test_fiftyone.py makes these calls",
    ),
    "grand.adapters.endpoint.client": (
        {"EndpointClient", "EndpointOptions", "ChatCall"},
        "needs a server; tests/grand/adapters/test_endpoint.py makes these calls",
    ),
    "grand.adapters.onnx_models.decoding": (
        {"outputs", "description"},
        "needs a model; tests/grand/adapters/test_onnx_models.py makes these calls",
    ),
    "grand.adapters.onnx_models.mask": (
        {"pixels"},
        "needs a model; tests/grand/adapters/test_onnx_models.py makes these calls",
    ),
    "grand.adapters.onnx_models.session": (
        {"description"},
        "needs a model; tests/grand/adapters/test_onnx_models.py makes these calls",
    ),
    "grand.adapters.prediction_roles.sources": (
        {"source"},
        "needs files; tests/grand/adapters/test_prediction_roles.py makes these calls",
    ),
    "grand.drivers.beam": ({"run", "graph"}, "needs Apache Beam"),
    "image_answers.questions": (
        {"template"},
        "needs files; tests/image_answers/test_ask_folder.py makes these calls",
    ),
    "image_answers.run": (
        {"assistant", "questions"},
        "tests/image_answers/test_ask_folder.py makes these calls",
    ),
    "weights.hub": (set(), "needs a hub; tests/weights/test_hub.py makes these calls"),
    "weights.hub_files": (set(), "needs a hub; tests/weights/test_hub.py makes these calls"),
    "grand.inspection_page": (
        {"run", "Path", "find_image"},
        "see tests/programs/test_annotate_program.py",
    ),
    "grand.record_cards": (
        {"pixels", "record", "page"},
        "see tests/programs/test_annotate_program.py",
    ),
    "grand.run_page": ({"Path"}, "see tests/programs/test_annotate_program.py"),
    "grand.run_records": (set(), "see tests/programs/test_annotate_program.py"),
    "grand.pipeline": (
        {"roles", "AnnotationRun", "scan_images", "run_local"},
        "needs models; tests/grand/test_pipeline.py makes these calls",
    ),
    "grand.drivers.ray": ({"run", "graph"}, "needs Ray"),
    "training.metric_writers": ({"run", "config", "train", "asdict"}, "needs an account"),
    "training.placement": (
        {
            *("model", "is_trained", "optimizer", "dtype", "config", "step"),
            *("make_mesh", "use_mesh", "open_batches"),
        },
        "compiles for a minute; tests/training/test_placement.py makes these calls",
    ),
    "app.server_client": (
        {"request"},
        "needs a server; tests/app/test_server_client.py makes these calls",
    ),
    "process_group": (
        {"identity", "on_loss"},
        "needs several processes; tests/test_process_group.py makes these calls",
    ),
    "grand.metric_notes": (
        {"run"},
        "needs a run; tests/programs/test_annotate_program.py makes this call",
    ),
    "grand.photograph_changes": (
        {"run", "fingerprint", "chunk", "files", "graph"},
        "needs a run; tests/grand/test_photograph_changes.py makes these calls",
    ),
    "grand.review.queue": (
        {"run", "DecisionLog"},
        "needs a run; tests/grand/review/test_confidence.py makes these calls",
    ),
    "grand.review.reviewing": (
        {"run", "fields", "DecisionLog"},
        "needs a run; tests/grand/review/desk.py makes these calls",
    ),
    "grand.review.server": (
        {"desk", "listener"},
        "needs a run; tests/grand/review/test_review_server.py makes these calls",
    ),
    "training.learning_checks": (
        {"config", "records", "record", "checks"},
        "needs a run; tests/training/test_learning_checks.py makes these calls",
    ),
    "training.prefetch": (
        {"closing", "batches", "config", "mesh", "metrics"},
        "needs a step on a device; tests/training/test_prefetch.py makes these calls",
    ),
    "weights.transfer": (
        {"table", "source", "leaves", "model", "folder", "out", "TensorWriter"},
        "needs a checkpoint; tests/weights/test_transfer.py makes these calls",
    ),
}
# Examples that need packages outside of the test environment.
NOT_IMPORTED = {
    "app.page": "gradio",
    "data.beam": "apache_beam",
    "evaluation.bert_similarity": "torch and a BERT",
}


def _scene() -> Any:
    return render_scene(0, 7, 64, EASY)


def _modules_with_examples() -> list[str]:
    names = []
    for path in sorted((ROOT / "glamm_jax").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        if example_of(docstring):
            parts = path.relative_to(ROOT / "glamm_jax").with_suffix("").parts
            names.append(".".join(parts).removesuffix("__init__").removesuffix("."))
    return names


def _import(name: str) -> Any:
    return importlib.import_module(f"glamm_jax.{name}".rstrip("."))


def test_every_example_is_tested() -> None:
    evaluation = {f"{EVALUATION}.{x}".removeprefix("glamm_jax.") for x in EVALUATION_MODULES}
    tested = {*VARIABLES, *NAMES_ONLY, *NOT_IMPORTED, *evaluation}
    assert {*_modules_with_examples()} == tested


@pytest.mark.parametrize("name", VARIABLES)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGE).save("dog.jpg")
    Path("config.json").write_text('{"hidden_size": 8, "rope_theta": 5e5}')
    module = _import(name)
    code = example_of_module(module).replace("path/to/model", str(MODEL))
    if "glamm_grandf" in code:
        folder = _record_shards(tmp_path / "out")
        code = code.replace("out/glamm_grandf_ha/1.0.0", str(folder))
        code = code.replace("shards/glamm_grandf/1.0.0", str(folder))
        code = code.replace("glamm_grandf_ha", folder.parent.name)
    code = code.replace("data=2, fsdp=2, tensor=2", "data=2, fsdp=2, tensor=1")
    namespace = {**vars(module), **VARIABLES[name](tmp_path)}
    exec(compile(code, f"<docstring of {name}>", "exec"), namespace)


@pytest.mark.parametrize("name", NAMES_ONLY)
def test_the_names_of_the_example_exist(name: str) -> None:
    module = _import(name)
    variables, _ = NAMES_ONLY[name]
    known = {*vars(module), *vars(builtins)}
    assert unknown_names(example_of_module(module), known) <= variables
