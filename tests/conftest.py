"""Set up the test process: rank promotion raises, types are checked, eight CPU devices.

Warnings are errors through pyproject.toml. Everything here must happen before jax is imported.
Most of the time of the tests is compilation, so XLA compiles without optimizations;
`make parity` and the programs compare and report with them.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

assert "jax" not in sys.modules, "the flags below must be set before jax is imported"
os.environ["JAX_PLATFORMS"] = "cpu"
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ["HF_HUB_OFFLINE"] = "1"

import beartype  # noqa: E402
import jaxtyping  # noqa: E402

# Every shape, dtype and type in a signature of glamm_jax is checked whenever it is called.
# The hook wants a dotted name; this one is beartype where an int may stand for a float (PEP 484).
_checker = types.ModuleType("typechecker")
_checker.check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook("glamm_jax", "typechecker.check")

import hypothesis  # noqa: E402
import jax  # noqa: E402

from glamm_jax.config import GLaMMConfig, tiny  # noqa: E402

pytest_plugins = ["tests.bucket_server", "tests.hub_server"]

# Compiling takes seconds, so hypothesis' own deadline would only measure XLA; a failing example
# must be reproducible on another machine, so the examples do not depend on a local database.
hypothesis.settings.register_profile(
    "default", deadline=None, database=None, derandomize=True, max_examples=10
)
hypothesis.settings.load_profile("default")


# Of two processes, one would be idle at the end while the other runs one of these.
LONG_FILES = (
    *("parity/test_e2e.py", "training/test_loop.py", "inference/test_generate.py"),
    *("inference/test_chat.py", "programs/test_convert_program.py", "training/test_bucket_run.py"),
    *("models/test_glamm.py", "training/test_initialization.py", "data/test_loader.py"),
    *("programs/test_train_program.py", "training/test_step.py", "models/test_packing.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Free the compiled programs of a file behind it: together they take several GiB."""
    if nextitem is None or nextitem.path != item.path:
        jax.clear_caches()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The golden folder in the repository."""
    return ROOT / "tests" / "goldens"


@pytest.fixture(scope="session")
def tiny_config() -> GLaMMConfig:
    """The smallest whole model."""
    return tiny()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the run-time type checks, as outside the tests: our own messages are reached."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
