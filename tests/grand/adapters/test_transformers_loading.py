"""Loading of models of transformers: options, folders, the Hub, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import transformers as hf  # noqa: E402
from huggingface_hub import constants  # noqa: E402

from glamm_jax.errors import ConfigError  # noqa: E402
from glamm_jax.grand.adapters.registry import adapter_class  # noqa: E402
from glamm_jax.grand.adapters.torch_models import model_files  # noqa: E402
from glamm_jax.grand.role_files import RoleFileError, read_roles  # noqa: E402
from glamm_jax.grand.roles import RoleError, RoleImage  # noqa: E402
from glamm_jax.weights.hub_files import HubError  # noqa: E402
from tests.hub_server import HubServer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
Folder = Callable[[str], Path]
IMAGE = RoleImage("a.png", np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def make(role: str, model: object, **options: Any) -> Any:
    """Return an adapter without its weights."""
    arguments = {"name": "model", "model": str(model), "device": "cpu"} | options
    return adapter_class("transformers", role)(**arguments)


@pytest.fixture
def copied(tiny_model: Folder, tmp_path: Path) -> Folder:
    """A function that returns a copy of a tiny model, to be damaged."""
    return lambda name: shutil.copytree(tiny_model(name), tmp_path / name)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("role", "line", "message"),
    [
        ("detectors.a", "threshold = 1.5", r"threshold = 1.5: it is in \[0.0, 1.0\]"),
        ("detectors.a", "threshold = nan", r"threshold = nan: it is in \[0.0, 1.0\]"),
        ("detectors.a", 'threshold = "a"', "threshold = .*a.*: it has the type float"),
        ("detectors.a", "threshold = true", "threshold = .*: it has the type float"),
        ("detectors.a", "labels = [1]", "not a list of texts"),
        ("detectors.a", "batch_size = 0", "batch_size = 0: it is at least 1"),
        ("detectors.a", "batch_size = 1.5", "batch_size = 1.5: it has the type int"),
        ("detectors.a", 'dtype = "float8"', "choose from auto, float32, bfloat16, float16"),
        ("detectors.a", 'device = "gpu"', "device = 'gpu': "),
        ("open_detectors.a", 'prompt = "a photo"', r"it has \{\} once, for the class"),
        ("taggers.a", 'prompt = "a photo"', r"it has \{\} once, for the word"),
        (
            "taggers.a",
            'vocabulary = "none.txt"',
            "vocabulary = 'none.txt': cannot be read",
        ),
        ("landmark_classifier", 'prompt = "Where?"', r"it has \{\} once, for the options"),
        ("region_proposer", "points_per_side = 1000", r"in \[1, 256\]"),
        ("llm", "temperature = -1", "temperature = -1: it is at least 0"),
        ("llm", "threshold = 0.5", "no key 'threshold'"),
        ("llm", 'model = "/nowhere/at/all"', "/nowhere/at/all: no such folder"),
    ],
)
def test_an_invalid_option_is_named(
    role: str, line: str, message: str, tmp_path: Path, unchecked: None
) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(f'[{role}]\nclass = "transformers"\n{line}\n')
    with pytest.raises(RoleFileError, match=message) as error:
        read_roles(path)
    assert f"[{role}]" in str(error.value)


def test_a_folder_and_a_vocabulary_beside_the_file_are_used(copied: Folder, tmp_path: Path) -> None:
    copied("siglip2")
    (tmp_path / "words.txt").write_text("tree\nhouse\n")
    path = tmp_path / "roles.toml"
    path.write_text(
        '[taggers.a]\nclass = "transformers"\nmodel = "siglip2"\nvocabulary = "words.txt"\n'
        'device = "cpu"\nthreshold = 0\n'
    )
    tagger = read_roles(path).taggers["a"]
    assert tagger.name == "a"
    (tags,) = tagger([IMAGE])
    assert not isinstance(tags, RoleError)
    assert {tag.text for tag in tags} == {"tree", "house"}
    (tmp_path / "words.txt").write_text("\n")
    with pytest.raises(RoleFileError, match="has no words"):
        read_roles(path)


def test_the_fingerprint_changes_with_everything_that_changes_results(
    tiny_model: Folder, copied: Folder, tmp_path: Path
) -> None:
    folder = tiny_model("siglip2")
    (tmp_path / "words.txt").write_text("tree")
    other = copied("siglip2")
    same = make("tagger", other).fingerprint
    assert same == make("tagger", folder).fingerprint
    unchanged = {"name": "b", "batch_size": 3, "device": "cuda"}
    assert make("tagger", folder, **unchanged).fingerprint == same
    assert make("tagger", folder, **unchanged).needs_device
    assert not make("tagger", folder).needs_device
    fingerprints = [
        same,
        make("tagger", folder, threshold=0.2).fingerprint,
        make("tagger", folder, prompt="{}").fingerprint,
        make("tagger", folder, dtype="bfloat16").fingerprint,
        make("tagger", folder, vocabulary=str(tmp_path / "words.txt")).fingerprint,
        make("region_classifier", folder).fingerprint,
        make("tagger", tiny_model("clip")).fingerprint,
        make("tagger", "org/name").fingerprint,
        make("tagger", "org/name@v1").fingerprint,
    ]
    config = json.loads((other / "processor_config.json").read_text())
    (other / "processor_config.json").write_text(json.dumps(config | {"x": 1}))
    fingerprints.append(make("tagger", other).fingerprint)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    fingerprints.append(make("tagger", other).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)


# ------------------------------------------------------------------ folders


def test_a_model_of_another_type_is_refused_with_the_types_that_fit(tiny_model: Folder) -> None:
    for role, model, message in [
        ("detector", "owlv2", "the type 'owlv2' cannot be a detector; types that can: .*rt_detr"),
        ("open_detector", "rt_detr", "open detector; types that can: owlv2, owlvit, grounding-"),
        ("depth_estimator", "sam", "types that can: depth_anything, dpt, glpn, zoedepth"),
        ("segmenter", "dpt", "types that can: sam, sam_hq"),
        ("phrase_grounder", "owlv2", "mm-grounding-dino, florence2"),
        ("dense_captioner", "llava", "types that can: florence2"),
        ("captioner", "llama", "cannot be a captioner; types that can: .*llava"),
        ("tagger", "sam", "types that can: siglip, siglip2, altclip, chinese_clip, clip"),
        ("llm", "florence", "cannot be a language model; types that can: .*llama"),
        ("landmark_classifier", "florence", "Florence-2 answers no questions about an image"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make(role, tiny_model(model)).setup()


def test_weights_that_are_no_safetensors_are_refused(copied: Folder) -> None:
    folder = copied("rt_detr")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"only safetensors are read, .* pickles, which run code"):
        make("detector", folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"neither model.safetensors nor model.safetensors.index"):
        make("detector", folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"the folder has no config.json"):
        make("detector", folder)


def test_a_damaged_folder_is_refused(copied: Folder) -> None:
    folder = copied("rt_detr")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"d_model": 32}))
    with pytest.raises(ConfigError, match=r"rt_detr: .*(lack|mismatch|size)"):
        make("detector", folder).setup()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "new_detr"}))
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*new_detr"):
        make("detector", folder).setup()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded: "):
        make("detector", folder).setup()


def test_weights_of_another_model_are_refused(copied: Folder) -> None:
    folder = copied("llama")
    config = hf.LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = 3
    config.save_pretrained(folder)
    with pytest.raises(ConfigError, match="LlamaForCausalLM lack 9 tensors, such as"):
        make("llm", folder).setup()


def test_code_of_a_model_is_never_run(copied: Folder, tmp_path: Path) -> None:
    folder = copied("llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        make("llm", folder).setup()
    assert not (tmp_path / "ran").exists()


def test_numbers_that_are_not_finite_are_errors_of_the_image(copied: Folder) -> None:
    for role, model, inputs in [
        ("detector", "rt_detr", []),
        ("open_detector", "owlv2", [[["a"]]]),
        ("depth_estimator", "dpt", []),
        ("segmenter", "sam", [[[(0.0, 0.0, 9.0, 9.0)]]]),
        ("region_proposer", "sam_hq", []),
        ("tagger", "clip", []),
        ("landmark_classifier", "llava", []),
    ]:
        adapter = make(role, copied(model))
        adapter.setup()
        with torch.no_grad():
            for parameter in adapter._network.parameters():
                parameter.fill_(torch.nan)
        (result,) = adapter([IMAGE], *inputs)
        assert result == RoleError("output", "the model's numbers are not finite"), role


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_compute_with_half_precision(dtype: str, tiny_model: Folder) -> None:
    for role, model, inputs in [
        ("detector", "rt_detr", []),
        ("open_detector", "grounding_dino", [[["a"]]]),
        ("tagger", "siglip2", []),
        ("depth_estimator", "depth_anything", []),
        ("segmenter", "sam_hq", [[[(0.0, 0.0, 9.0, 9.0)]]]),
        ("captioner", "llava", []),
    ]:
        adapter = make(role, tiny_model(model), dtype=dtype)
        (result,) = adapter([IMAGE], *inputs)
        assert adapter._network.dtype == getattr(torch, dtype)
        assert not isinstance(result, RoleError), result


def test_a_dtype_that_the_device_lacks_is_an_error_that_says_what_to_do(
    tiny_model: Folder,
) -> None:
    adapter = make("detector", tiny_model("rt_detr"))
    adapter.setup()

    def forward(**inputs: Any) -> None:
        raise RuntimeError("\"upsample_bicubic2d_out_frame\" not implemented for 'Half'")

    adapter._network.forward = forward
    with pytest.raises(ConfigError, match='set dtype = "float32"'):
        adapter([IMAGE])


# ------------------------------------------------------------------ the Hub


def test_a_repository_is_downloaded_once_and_only_what_is_needed(
    tiny_model: Folder, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/owl", tiny_model("owlv2"))
    hub.repositories["org/owl"] |= {
        "pytorch_model.bin": b"a pickle",
        "README.md": b"text",
        "modeling_owl.py": b"raise SystemExit",
    }
    adapter = make("open_detector", "org/owl")
    assert not hub.fetched
    (expected,) = make("open_detector", tiny_model("owlv2"), threshold=0.0)([IMAGE], [["dog"]])
    adapter = make("open_detector", "org/owl", threshold=0.0)
    assert adapter([IMAGE], [["dog"]]) == [expected]
    names = {name for name, _ in hub.fetched}
    assert names == {path.name for path in tiny_model("owlv2").iterdir()}
    hub.fetched.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert make("open_detector", "org/owl", threshold=0.0)([IMAGE], [["dog"]]) == [expected]
    assert not hub.fetched
    with pytest.raises(HubError, match="org/absent: neither a folder of this machine nor in the c"):
        make("open_detector", "org/absent").setup()


def test_a_repository_without_safetensors_is_refused_before_the_download(
    tiny_model: Folder, hub: HubServer
) -> None:
    hub.add_folder("org/owl", tiny_model("owlv2"))
    weights = hub.repositories["org/owl"].pop("model.safetensors")
    hub.repositories["org/owl"]["pytorch_model.bin"] = weights
    with pytest.raises(HubError, match=r"org/owl: .* only safetensors are read"):
        make("open_detector", "org/owl").setup()
    assert "pytorch_model.bin" not in {name for name, _ in hub.fetched}
    hub.repositories["org/owl"].pop("config.json")
    with pytest.raises(HubError, match=r"it has no config.json"):
        make("open_detector", "org/owl").setup()
    assert model_files.model_identity("org/owl@v1") == "org/owl@v1"
