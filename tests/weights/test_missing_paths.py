"""A missing model is explained: ids and URLs of the hub are downloaded and converted first."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.errors import FolderError
from glamm_jax.weights.checkpoint_files import open_checkpoint
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.safetensors import TensorFileError

ID = "MBZUAI/GLaMM-FullScope"


@pytest.mark.parametrize(
    "path", [ID, f"https://huggingface.co/{ID}", f"https:/huggingface.co/{ID}/tree/main"]
)
def test_an_id_or_url_of_the_hub_is_downloaded_and_converted_first(path: str) -> None:
    download = f"hf download {ID} --local-dir GLaMM-FullScope"
    with pytest.raises(FolderError, match="glamm-jax convert from-torch GLaMM-FullScope") as error:
        ModelFolder(path)
    assert download in str(error.value)
    with pytest.raises(TensorFileError, match=download):
        open_checkpoint(Path(path))


def test_other_missing_paths_are_not_those_of_a_hub(tmp_path: Path) -> None:
    for path in ("absent", "./a/b", "../a", str(tmp_path / "a"), "a/b/c"):
        with pytest.raises(FolderError, match=r"no such folder$"):
            ModelFolder(path)
    (tmp_path / "model.pth").touch()
    with pytest.raises(FolderError, match="a file, not a model folder"):
        ModelFolder(tmp_path / "model.pth")
    with pytest.raises(FolderError, match="a URL, not a folder"):
        ModelFolder("https://example.org/model.zip")
