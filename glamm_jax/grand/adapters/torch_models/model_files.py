"""Where a model of transformers comes from: a folder, or a repository of the Hugging Face Hub.

check_model("google/owlv2-base-patch16")     # raises if it cannot be either
model_identity("models/owlv2")               # for fingerprints
folder = model_folder("google/owlv2-base-patch16@main")
"""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from glamm_jax.errors import ConfigError
from glamm_jax.weights.hub_files import HubError, HubRepository
from glamm_jax.weights.missing_paths import hub_repository, missing_model
from glamm_jax.weights.safetensors import INDEX, SINGLE, read_folder, read_index

CONFIG = "config.json"
# Configuration, processors, tokenizers and chat templates.
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
SAMPLE_BYTES = 4096  # that are hashed of the beginning, the middle and the end of each tensor
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ADVICE = (
    "only safetensors are read, since other files of weights are pickles, which run code; save "
    "the model with save_pretrained of transformers first"
)


def check_model(name: str) -> None:
    """Check that a name is a folder with a model, or may be a repository of the Hub.

    Raises:
        ConfigError: it is neither, or the folder has no configuration or no weights that are read.
    """
    folder = Path(name)
    if not folder.exists():
        if hub_repository(name) is None:
            raise ConfigError(missing_model(name))
        return
    if not folder.is_dir():
        raise ConfigError(missing_model(name))
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{name}: no model of transformers: the folder has no {CONFIG}")
    if not any((folder / weights).is_file() for weights in (SINGLE, INDEX)):
        pickled = any(path for pattern in _PICKLES for path in folder.glob(pattern))
        raise ConfigError(
            f"{name}: the folder has neither {SINGLE} nor {INDEX}"
            + (f"; {_ADVICE}" if pickled else "")
        )


def model_identity(name: str) -> str:
    """Return a text that changes with the model.

    Of a repository it is the name with the revision: name a commit, since a branch may move. Of a
    folder it is a hash of the complete configuration, processors and tokenizer, and of name, dtype,
    shape and three samples of every tensor: a hash of all bytes would read 30 GB at every start.

    Raises:
        ConfigError, GLaMMError: the folder cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return str(hub_repository(name))
    digest = hashlib.sha256()
    paths = {path for pattern in SMALL_FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    for tensor, location in sorted(read_folder(folder).items()):
        digest.update(f"{tensor}\0{location.info.dtype}\0{location.info.shape}\0".encode())
        size = location.info.nbytes
        path = Path(str(location.path))
        with path.open("rb") as file:
            for start in (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES):
                start = max(start, 0)
                file.seek(location.offset + start)
                digest.update(file.read(min(SAMPLE_BYTES, size - start)))
    return digest.hexdigest()


def model_folder(name: str) -> Path:
    """Return the folder of a model; what a repository has of it is downloaded to the cache.

    Raises:
        HubError: the repository cannot be read, or has no weights that are read.
        ConfigError, TensorFileError: a folder or an index of weights cannot be used.
    """
    check_model(name)
    if Path(name).is_dir():
        return Path(name)
    repository = HubRepository(name)
    if CONFIG not in repository.files:
        raise HubError(f"{repository.name}: no model of transformers: it has no {CONFIG}")
    if SINGLE in repository.files:
        weights = [SINGLE]
    elif INDEX in repository.files:
        index = repository.fetch([INDEX]) / INDEX
        weights = [glob.escape(shard) for shard in set(read_index(index).values())]
    else:
        raise HubError(f"{repository.name}: it has neither {SINGLE} nor {INDEX}; {_ADVICE}")
    return repository.fetch([*SMALL_FILES, *weights])
