"""Common parts of all programs: error messages, exit statuses, argparse types, the checkout."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import glamm_jax
from glamm_jax.errors import ConfigError, GLaMMError, GLaMMWarning
from glamm_jax.storage import AnyPath, StorageError, describe, is_service_error, local_path, to_path

UNUSABLE_INPUT, INTERRUPTED = 2, 130  # exit statuses
TRACEBACK_VARIABLE = "GLAMM_JAX_TRACEBACK"
MAX_REASON = 200  # characters of an error message of jax
NO_BACKEND = "Unable to initialize backend"  # the words of jax


def run_program(name: str, work: Callable[[], int | None]) -> int:
    """Run a program's work and turn unusable input into one line on stderr.

    Each `GLaMMWarning` is one line, too. Set the environment variable GLAMM_JAX_TRACEBACK to see
    the traceback instead.

    Args:
        name: of the command, printed before the message.
        work: returns the exit status, None for 0.

    Returns:
        The exit status: that of `work`, 2 for `GLaMMError`, `OSError`, errors of a bucket and a
        missing accelerator, 130 after Ctrl-C.
    """
    show_other_warning = warnings.showwarning

    def show_warning(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
        if issubclass(category, GLaMMWarning):
            print(f"{name}: warning: {printable(str(message))}", file=sys.stderr)
        else:
            show_other_warning(message, category, *args, **options)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", GLaMMWarning)
            warnings.showwarning = show_warning
            return work() or 0
    except (GLaMMError, OSError) as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"{name}: {printable(str(error))}", file=sys.stderr)
        return UNUSABLE_INPUT
    except Exception as error:
        is_missing = isinstance(error, RuntimeError) and NO_BACKEND in str(error)
        if os.environ.get(TRACEBACK_VARIABLE) or not (is_missing or is_service_error(error)):
            raise
        text = _missing_accelerator(str(error)) if is_missing else describe(error)
        print(f"{name}: {printable(text)}", file=sys.stderr)
        return UNUSABLE_INPUT
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command resumes", file=sys.stderr)
        return INTERRUPTED


def _missing_accelerator(reason: str) -> str:
    """Return what to do if jax cannot use the accelerator that JAX_PLATFORMS names."""
    reason = " ".join(reason.replace(NO_BACKEND, "").partition("(set JAX_PLATFORMS")[0].split())
    platforms = os.environ.get("JAX_PLATFORMS", "")
    requested = f"JAX_PLATFORMS={platforms}, but " if platforms else ""
    return (
        f"{requested}jax cannot use the accelerator {reason[:MAX_REASON]}. Install the extra [tpu] "
        "or [cuda] on a machine that has it, end other programs that use it, or set "
        "JAX_PLATFORMS=cpu to use the processors"
    )


def make_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser that prints the description with its line breaks."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    documentation: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add a subcommand.

    Args:
        commands: as `ArgumentParser.add_subparsers` returns.
        name: of the subcommand.
        documentation: its help, as a rule a module's docstring; the first line is its summary.
        add_arguments: adds the options to the parser of the subcommand.
    """
    parser = commands.add_parser(
        name,
        help=documentation.partition("\n")[0],
        description=documentation,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1; a type of argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def any_path(text: str) -> AnyPath:
    """Parse a path on this machine or in a bucket; a type of argparse."""
    try:
        return to_path(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def this_machine(text: str) -> Path:
    """Parse a path that cannot be in a bucket; a type of argparse."""
    try:
        return local_path(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_path(text: str) -> AnyPath:
    """Parse the path of a model, as `any_path`; for other URLs, the reader says what to do."""
    try:
        return to_path(text, other_urls=True)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def checkpoint_path(text: str) -> Path:
    """Parse the path of a checkpoint, as `this_machine`; for other URLs, see `model_path`."""
    try:
        return local_path(text, other_urls=True)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def print_module_help(documentation: str | None, program: str) -> None:
    """Say that a module is a part of a program and cannot be run by itself.

    Args:
        documentation: of the module.
        program: the command that runs the program.
    """
    print(f"{documentation}\nThis module is a part of a program: {program} --help")


def printable(text: str) -> str:
    """Replace characters that cannot be encoded, such as lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def checkout_root() -> Path | None:
    """Return the root of the checkout of `glamm_jax`; None for an installed wheel."""
    root = Path(glamm_jax.__file__).resolve().parents[1]
    return root if (root / "tools" / "parity" / "__init__.py").is_file() else None


def checkout_path(*parts: str, instead: str) -> Path:
    """Return a path inside the checkout.

    Args:
        parts: of the path, relative to the root of the checkout.
        instead: advice in the error message if there is no checkout.

    Raises:
        ConfigError: the package is not imported from a checkout.
    """
    root = checkout_root()
    if root is None:
        raise ConfigError(
            f"{'/'.join(parts)} exists in a checkout of the repository only; {instead}"
        )
    return root.joinpath(*parts)
