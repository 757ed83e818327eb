"""Models of the Hugging Face Hub, over its protocol, with a server on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

import glamm_jax
from glamm_jax.cli.main import main
from glamm_jax.errors import ConfigError
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.hub import (
    HubError,
    download_checkpoint,
    download_model,
    save_pretrained,
    upload_model,
)
from glamm_jax.weights.missing_paths import CLIP
from tests.hub_server import HubServer

MODEL = Path("checkpoints/miniworld-tiny")
WANTED = ["README.md", "added_tokens.json", "config.json", "model.safetensors", "source.json"]
WANTED += ["tokenizer.model", "tokenizer_config.json"]
# huggingface_hub gives its client the parts of an upload in a form that the client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def repositories(hub: HubServer) -> None:
    hub.add_folder("org/shapes", MODEL)
    hub.repositories["org/shapes"] |= {
        "README.md": b"# shapes",
        "optimizer.bin": b"not needed",
        "other/model.safetensors": b"of another folder",
    }


def names(hub: HubServer) -> list[str]:
    return sorted(name for name, _ in hub.fetched)


def test_a_model_is_downloaded_once_and_only_what_it_needs(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = glamm_jax.load("org/shapes")
    assert names(hub) == WANTED
    hub.fetched.clear()
    assert glamm_jax.load("org/shapes").folder == assistant.folder
    assert not hub.fetched
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ModelFolder("org/shapes").config == assistant.config
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody answers
    assert ModelFolder("org/shapes").config == assistant.config


def test_addresses_and_revisions_are_understood(hub: HubServer) -> None:
    folder = download_model("org/shapes@v1.0")
    assert download_model("https://huggingface.co/org/shapes/tree/v1.0") == folder
    with pytest.raises(HubError, match="no such branch, tag or commit"):
        download_model("org/shapes@v2.0")
    with pytest.raises(HubError, match="org/absent: neither a folder of this machine nor a repo"):
        download_model("org/absent")
    with pytest.raises(HubError, match="not the name of a repository"):
        download_model("shapes")
    assert hub.fetched


def test_an_interrupted_download_resumes(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    weights = (MODEL / "model.safetensors").read_bytes()
    hub.cut_after, hub.num_cuts = 100_000, 1
    folder = download_model("org/shapes")
    starts = [start for name, start in hub.fetched if name == "model.safetensors"]
    assert len(starts) == 2
    assert starts[1] >= 100_000
    assert (folder / "model.safetensors").read_bytes() == weights

    hub.repositories["org/other"] = {**hub.repositories["org/shapes"], "source.json": b"{}"}
    hub.cut_after, hub.num_cuts = len(weights) - 1, 1_000  # only the weights are that long
    hub.repositories["org/other"]["model.safetensors"] = weights[::-1]
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2 * len(weights))
    with pytest.raises(HubError, match="the same command resumes"):
        download_model("org/other")
    hub.num_cuts = 0
    hub.fetched.clear()
    download_model("org/other")
    assert names(hub) == ["model.safetensors"]  # complete files are kept


def test_a_model_that_the_cache_lacks_needs_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="With a connection the same command downloads it"):
        ModelFolder("org/shapes")


def test_a_checkpoint_of_torch_is_to_be_converted_before_its_weights_are_downloaded(
    hub: HubServer,
) -> None:
    hub.repositories["org/torch"] = {"config.json": b"{}", "model.safetensors": b"weights"}
    message = "convert a PyTorch checkpoint: glamm-jax convert from-torch org/torch --clip"
    with pytest.raises(ConfigError, match=message):
        ModelFolder("org/torch")
    assert names(hub) == ["config.json"]


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["a.safetensors", "b.safetensors", "model.safetensors.index.json", "pytorch_model.bin"],
            ["a.safetensors", "b.safetensors", "model.safetensors.index.json"],
        ),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (
            ["adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin"],
            ["adapter_model.safetensors", "non_lora_trainables.bin"],
        ),
    ],
)
def test_of_a_checkpoint_one_copy_of_the_weights_is_downloaded(
    hub: HubServer, files: list[str], weights: list[str]
) -> None:
    index = b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
    # Files of the same content are downloaded once, so that each has its own.
    content = {name: index if name.endswith("index.json") else name.encode() for name in files}
    hub.repositories["org/torch"] = {"config.json": b"{}", "tokenizer.json": b"{ }", **content}
    folder = download_checkpoint("org/torch")
    expected = ["config.json", "tokenizer.json", *weights]
    assert names(hub) == sorted(expected)
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)


def test_a_model_is_uploaded_with_a_card_and_replaces_older_shards(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.repositories["org/new"] = {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    address = upload_model(MODEL, "org/new", license_id="apache-2.0")
    assert address.startswith(f"{hub.url}/org/new/commit/")
    files = hub.repositories["org/new"]
    assert {*files} == {*WANTED, "notes.txt"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict()["license"] == "apache-2.0"
    assert card.data.pipeline_tag == "image-text-to-text"
    loaded = glamm_jax.load("org/new")
    with pytest.raises(HubError, match="write ORG/NAME"):
        loaded.push_to_hub("../elsewhere")
    loaded.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_bytes() == files["README.md"]
    assert ModelFolder(tmp_path / "copy").config == loaded.config


def test_a_card_that_the_hub_refuses_stops_the_upload(hub: HubServer, tmp_path: Path) -> None:
    save_pretrained(MODEL, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(HubError, match="refuses it"):
        upload_model(tmp_path / "model", "org/new")
    assert "org/new" not in hub.repositories


def test_the_programs_take_names_of_the_hub(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(MODEL), "org/pushed", "--private"]) == 0
    assert hub.private["org/pushed"]
    assert main(["convert", "to-torch", "org/pushed", "--out", str(tmp_path / "torch")]) == 0
    clip = ["--part", "clip", "--out", str(tmp_path / "clip")]
    assert main(["convert", "to-torch", "org/pushed", *clip]) == 0
    shutil.rmtree(tmp_path / "cache")
    hub.add_folder("org/torch", tmp_path / "torch")
    hub.add_folder(CLIP, tmp_path / "clip")  # the config.json names it
    hub.fetched.clear()
    out = tmp_path / "back"
    assert main(["convert", "from-torch", "org/torch", "--out", str(out)]) == 0, capsys.readouterr()
    tokenizer = ["added_tokens.json", "tokenizer.model", "tokenizer_config.json"]
    assert names(hub) == sorted([*tokenizer, *2 * ["config.json", "model.safetensors"]])
    assert ModelFolder(out).config == ModelFolder(MODEL).config
