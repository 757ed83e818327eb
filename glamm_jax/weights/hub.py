"""Models of the Hugging Face Hub: download what is needed, upload a model folder.

    folder = download_model("org/name")            # a model folder of this library
    folder = download_checkpoint("org/name@v1.0")  # a PyTorch checkpoint, to be converted
    upload_model(folder, "org/name")

Files are stored in the cache of huggingface_hub (environment variable HF_HOME) and read from there;
an interrupted download keeps the complete files. Without a connection, what the cache has is used.
Only files in the repository's top folder are wanted, and of several copies of the weights the one
that `checkpoint_files` reads: safetensors before pickles.
"""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

from glamm_jax.errors import ConfigError
from glamm_jax.files import atomic_folder
from glamm_jax.storage import AnyPath, size_of
from glamm_jax.text.tokenizer import TOKENIZER_FILES
from glamm_jax.weights.checkpoint_files import (
    ADAPTER_FILES,
    MODEL_FILES,
    NON_LORA_FILE,
    PICKLED_INDEX,
)
from glamm_jax.weights.config_file import CONFIG_FILE, SOURCE_INFO_FILE, read_config
from glamm_jax.weights.hub_files import (
    HubError,
    HubRepository,
    first_line,
    hub_errors,
    matches_any,
)
from glamm_jax.weights.missing_paths import REVISION, hub_repository
from glamm_jax.weights.model_card import MODEL_CARD, model_card
from glamm_jax.weights.peft_config import ADAPTER_CONFIG
from glamm_jax.weights.safetensors import ALL_FILES, INDEX, read_index

_MODEL_FILES = (CONFIG_FILE, SOURCE_INFO_FILE, *TOKENIZER_FILES, ALL_FILES, INDEX)
_CHECKPOINT_FILES = (CONFIG_FILE, ADAPTER_CONFIG, *TOKENIZER_FILES)
_COPY_BYTES = 16 << 20


def download_model(name: str) -> Path:
    """Download a model folder of this library.

    Args:
        name: ORG/NAME, ORG/NAME@REVISION, or the repository's address.

    Returns:
        The folder in the cache.

    Raises:
        HubError: the repository or the revision does not exist, access is denied, or there is no
            connection and the cache does not have the model.
        ConfigError: the repository is no model folder of this library.
    """
    repository = HubRepository(name)
    folder = repository.fetch([CONFIG_FILE])
    try:
        read_config(folder)  # before gigabytes of a checkpoint that must be converted first
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(folder), repository.name)) from error
    return repository.fetch([*_MODEL_FILES, MODEL_CARD])


def download_checkpoint(name: str) -> Path:
    """Download a PyTorch checkpoint: configuration, tokenizer, and one copy of the weights.

    Args:
        name: as for `download_model`.

    Returns:
        The folder in the cache.

    Raises:
        HubError: as for `download_model`.
        TensorFileError: an index is invalid.
    """
    repository = HubRepository(name)
    folder = repository.fetch([*_CHECKPOINT_FILES, INDEX, PICKLED_INDEX])
    weights = next((x for x in (*MODEL_FILES, *ADAPTER_FILES) if x in repository.files), None)
    patterns = [] if weights is None else [weights]
    if weights in (INDEX, PICKLED_INDEX):
        patterns += [glob.escape(shard) for shard in set(read_index(folder / weights).values())]
    elif weights in ADAPTER_FILES:
        patterns.append(NON_LORA_FILE)
    return repository.fetch([*_CHECKPOINT_FILES, *patterns])


def upload_model(
    folder: AnyPath, repository: str, *, license_id: str | None = None, private: bool = False
) -> str:
    """Upload a model folder in one commit, with a model card.

    Shards of an earlier
    version that the folder does not have are deleted in the same commit.

    Args:
        folder: the model folder, on this machine.
        repository: ORG/NAME; created if it does not exist.
        license_id: of a generated card, as the Hub names licenses: "apache-2.0".
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        FolderError, ConfigError: `folder` is no model folder.
        HubError: the Hub refuses the card or the upload, or cannot be reached.
    """
    if not isinstance(folder, Path):
        raise HubError(f"{folder}: is in a bucket; copy it to this machine, then upload it")
    if hub_repository(repository) != repository or REVISION in repository:
        raise HubError(f"{repository}: not the name of a repository; write ORG/NAME")
    text = model_card(folder, license_id)
    paths = sorted(path for path in folder.iterdir() if matches_any(path.name, _MODEL_FILES))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path.name, path) for path in paths
    ]
    operations.append(CommitOperationAdd(MODEL_CARD, text.encode()))
    with hub_errors(repository):
        try:
            ModelCard(text).validate()
        except ValueError as error:
            raise HubError(
                f"{folder / MODEL_CARD}: the Hugging Face Hub refuses it: {first_line(error)}"
            ) from error
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        names = {path.name for path in paths}
        for name in api.list_repo_files(repository):
            if name not in names and "/" not in name and matches_any(name, (ALL_FILES, INDEX)):
                operations.append(CommitOperationDelete(name))
        return api.create_commit(
            repository, operations, commit_message="Upload a model folder of GLaMM-JAX"
        ).commit_url


def save_pretrained(folder: AnyPath, target: AnyPath, license_id: str | None = None) -> None:
    """Copy a model folder, with a model card if it has none.

    Args:
        folder: the model folder.
        target: the new folder; must not exist.
        license_id: as for `upload_model`.

    Raises:
        FolderError: `target` exists, does not fit on the disk or cannot be written.
        ConfigError: `folder` is no model folder.
    """
    text = model_card(folder, license_id)
    paths = [path for path in folder.iterdir() if matches_any(path.name, _MODEL_FILES)]
    with atomic_folder(target, sum(size_of(path) for path in paths), CONFIG_FILE) as copy:
        for path in sorted(paths, key=lambda path: (path.name == CONFIG_FILE, path.name)):
            with path.open("rb") as source, (copy / path.name).open("wb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
        (copy / MODEL_CARD).write_text(text, "utf-8")


def local_checkpoint(path: Path) -> Path:
    """Return the folder of a checkpoint that is on this machine or on the Hub.

    Args:
        path: a file or folder, or what `download_checkpoint` takes.

    Raises:
        HubError, TensorFileError: as `download_checkpoint`.
    """
    if path.exists() or hub_repository(str(path)) is None:
        return path
    return download_checkpoint(str(path))
