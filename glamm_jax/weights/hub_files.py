"""Repositories of the Hugging Face Hub: their files at a revision, and messages about what fails.

    repository = HubRepository("org/name@v1.0")
    "model.safetensors" in repository.files
    folder = repository.fetch(["*.json"])

Files are stored in the cache of huggingface_hub (environment variable HF_HOME) and read from there.
Without a connection, what the cache has is used.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, errors

from glamm_jax.errors import FolderError
from glamm_jax.weights.missing_paths import REVISION, hub_repository

_TIMEOUT = 20.0  # seconds, of the request for the list of files
_CLIENTS = ("httpx", "httpx2", "httpcore", "requests")  # modules of errors of the connection


class HubError(FolderError):
    """A repository of the Hugging Face Hub cannot be read or written. The message says why."""


class HubRepository:
    """A repository at one revision, and the files in it.

    Attributes:
        name: as in messages.
        files: names of the files in the top folder; those in the cache if there is no connection.
    """

    def __init__(self, name: str):
        """List the files.

        Args:
            name: ORG/NAME, ORG/NAME@REVISION, or the repository's address.

        Raises:
            HubError: it does not exist, access is denied, or there is no connection and the cache
                does not have it.
        """
        repository = hub_repository(name)
        if repository is None:
            raise HubError(f"{name}: not the name of a repository; write ORG/NAME")
        self.name = repository
        self._id, _, revision = repository.partition(REVISION)
        self._revision = revision or None
        self._is_offline = False
        with hub_errors(self.name):
            try:
                info = HfApi().model_info(self._id, revision=self._revision, timeout=_TIMEOUT)
                names = [sibling.rfilename for sibling in info.siblings or ()]
            except Exception as error:
                if not _is_unreachable(error):
                    raise
                self._is_offline = True
                names = self._cached_names(error)
        self.files = {name for name in names if "/" not in name and "\\" not in name}

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Download the files that match a pattern; return their folder.

        Raises:
            HubError: the connection ends, or the cache lacks a file.
        """
        names = [name for name in self.files if matches_any(name, patterns)]
        with hub_errors(self.name):
            folder = huggingface_hub.snapshot_download(
                self._id,
                revision=self._revision,
                allow_patterns=[glob.escape(name) for name in names] or ["/"],
                local_files_only=self._is_offline,
            )
        return Path(str(folder))

    def _cached_names(self, reason: Exception) -> list[str]:
        try:
            folder = huggingface_hub.snapshot_download(
                self._id, revision=self._revision, allow_patterns=["/"], local_files_only=True
            )
        except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError) as error:
            raise HubError(
                f"{self.name}: neither a folder of this machine nor in the cache of the Hugging "
                f"Face Hub, which cannot be reached ({first_line(reason)}). With a connection the "
                "same command downloads it"
            ) from error
        return [path.name for path in Path(str(folder)).iterdir()]


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name matches one of the patterns of a shell."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_unreachable(error: Exception) -> bool:
    """Return whether there is no connection, as opposed to a refusal of the Hub."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, errors.OfflineModeIsEnabled | OSError) or module in _CLIENTS


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn an error of the Hub into a message that says what to do."""
    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name}: access must be granted first: ask for it on the model's page of the Hugging "
            "Face Hub, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{name}: neither a folder of this machine nor a repository of the Hugging Face Hub "
            "that you may read; check the name; for a private one run `hf auth login` first"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name}: the repository has no such branch, tag or commit") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise HubError(f"{name}: {first_line(error)}") from error
    except Exception as error:
        if not _is_unreachable(error):
            raise
        raise HubError(
            f"{name}: the Hugging Face Hub cannot be reached: {first_line(error)}; the same "
            "command resumes"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
