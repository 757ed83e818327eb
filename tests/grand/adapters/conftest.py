"""Tiny models of transformers for the tests of this folder, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a tiny model, such as "owlv2"."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        from tests.grand.adapters.tiny_models import SAVERS

        if not (root / name).exists():
            SAVERS[name](root / name)
        return root / name

    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, which for small networks is faster."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
