"""Paths of models that do not exist on this machine: names and URLs of the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

REVISION = "@"  # between the name of a repository and a branch, tag or commit
HUB_ID = re.compile(r"[\w.-]*\w/\w[\w.-]*(@\w[\w./-]*)?")
HUB_URL = re.compile(
    r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/+([^/]+/[^/?#]+)(?:/tree/([^?#]+?))?/?(?:[?#].*)?"
)
URL = re.compile(r"(?:https?|s3|hf):/+.*")  # `Path` makes one of two slashes
CLIP = "openai/clip-vit-large-patch14-336"


def hub_repository(path: str) -> str | None:
    """Return ORG/NAME or ORG/NAME@REVISION if a path looks like a name or URL of the Hub."""
    url = HUB_URL.fullmatch(path)
    if url:
        return url[1] + (f"{REVISION}{url[2]}" if url[2] else "")
    return path if HUB_ID.fullmatch(path) and not Path(path).parent.exists() else None


def missing_model(path: str) -> str:
    """Return a message about a model folder that does not exist."""
    if Path(path).is_file():
        return (
            f"{path}: a file, not a model folder; to convert a PyTorch checkpoint: "
            f"glamm-jax convert from-torch {path} --clip {CLIP} --out MODEL"
        )
    return missing_url(path) or f"{path}: no such folder"


def missing_url(path: str) -> str | None:
    """Return a message about a path that is a URL but not the Hub's; None for other paths."""
    if URL.fullmatch(path):
        return f"{path}: a URL, not a folder of this machine; download the files first"
    return None
