"""Messages about models that do not exist on this machine: ids and URLs of a model hub."""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[\w.-]*\w/\w[\w.-]*")
HUB_URL = re.compile(r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/+([^/]+/[^/?#]+).*")
URL = re.compile(r"(?:https?|s3|hf):/+.*")  # `Path` makes one of two slashes
CLIP = "openai/clip-vit-large-patch14-336"


def hub_repository(path: str) -> str | None:
    """Return ORG/NAME if a path looks like a model's id or URL on the Hugging Face hub."""
    url = HUB_URL.fullmatch(path)
    if url:
        return url[1]
    return path if HUB_ID.fullmatch(path) and not Path(path).parent.exists() else None


def missing_model(path: str) -> str:
    """Return a message about a missing model folder: how to download and convert a model."""
    if Path(path).is_file():
        return (
            f"{path}: a file, not a model folder; to convert a PyTorch checkpoint: "
            f"glamm-jax convert from-torch {path} --clip CLIP --out MODEL"
        )
    download = missing_checkpoint(path)
    if download is None:
        return f"{path}: no such folder"
    name = (hub_repository(path) or "CHECKPOINT").rpartition("/")[2]
    return (
        f"{download}; then convert it: glamm-jax convert from-torch {name} --clip CLIP --out MODEL "
        f"(CLIP: a folder with {CLIP}); then name the folder MODEL"
    )


def missing_checkpoint(path: str) -> str | None:
    """Return how to download a missing checkpoint; None if the path does not look like a hub's."""
    repository = hub_repository(path)
    if repository is not None:
        name = repository.rpartition("/")[2]
        return (
            f"{path}: no such folder. If it is a model of the Hugging Face hub, download it first: "
            f"hf download {repository} --local-dir {name}"
        )
    if URL.fullmatch(path):
        return f"{path}: a URL, not a folder of this machine; download the files first"
    return None
