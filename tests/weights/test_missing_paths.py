"""A missing model is explained; names and URLs of the Hub are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.errors import FolderError
from glamm_jax.weights.checkpoint_files import open_checkpoint
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.missing_paths import hub_repository
from glamm_jax.weights.safetensors import TensorFileError

ID = "MBZUAI/GLaMM-FullScope"


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        (ID, ID),
        (f"{ID}@v1.0", f"{ID}@v1.0"),
        (f"https://huggingface.co/{ID}", ID),
        (f"https:/huggingface.co/{ID}/", ID),
        (f"https://hf.co/{ID}/tree/main", f"{ID}@main"),
        (f"https://huggingface.co/{ID}/tree/refs/pr/1?x=y", f"{ID}@refs/pr/1"),
        (f"https://huggingface.co/{ID}/blob/main/config.json", None),
        ("tests/absent", None),  # in a folder of this machine
        ("./a/b", None),
        ("a/b/c", None),
        ("a/b@", None),
    ],
)
def test_names_and_urls_of_the_hub_are_recognized(path: str, repository: str | None) -> None:
    assert hub_repository(path) == repository


def test_without_a_connection_and_a_cache_the_message_says_what_to_do() -> None:
    with pytest.raises(FolderError, match="With a connection the same command downloads it"):
        ModelFolder(ID)  # HF_HUB_OFFLINE is set in the tests


def test_other_missing_paths_are_not_those_of_a_hub(tmp_path: Path) -> None:
    for path in ("absent", "./a/b", "../a", str(tmp_path / "a"), "a/b/c"):
        with pytest.raises(FolderError, match=r"no such folder$"):
            ModelFolder(path)
    (tmp_path / "model.pth").touch()
    with pytest.raises(FolderError, match="a file, not a model folder"):
        ModelFolder(tmp_path / "model.pth")
    url = "https://example.org/model.zip"
    with pytest.raises(FolderError, match="a URL, not a folder"):
        ModelFolder(url)
    with pytest.raises(TensorFileError, match="a URL, not a folder"):
        open_checkpoint(Path(url))
