"""The public names of the package, its version, and what importing it does not import."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import glamm_jax


@pytest.mark.parametrize("name", glamm_jax.__all__)
def test_every_offered_name_exists(name: str) -> None:
    assert getattr(glamm_jax, name).__module__.startswith("glamm_jax.")
    assert name in dir(glamm_jax)


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'glam'"):
        _ = glamm_jax.glam  # pyright: ignore


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"glamm-jax": "1.2.3"}.__getitem__)
    assert glamm_jax.__version__ == "1.2.3"
    assert "__version__" in dir(glamm_jax)


def test_a_checkout_that_is_not_installed_has_an_unknown_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert glamm_jax.__version__ == "0.0.0+unknown"


def _imported_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the heavy modules that it imports."""
    heavy = "jax", "flax", "torch", "grain", "numpy", "importlib.metadata"
    code += f"; import sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _imported_by("import glamm_jax") == set()


def test_data_workers_do_not_wake_jax() -> None:
    code = "import glamm_jax; from glamm_jax.data import boxes, collate, preprocess, rle"
    assert not _imported_by(code) & {"jax", "flax", "torch", "grain"}
