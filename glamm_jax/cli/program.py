"""Common parts of all programs: error messages, exit statuses, argparse types, the checkout."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import glamm_jax
from glamm_jax.cli.processes import are_running, end_processes, wait_for_loss
from glamm_jax.errors import ConfigError, GLaMMError, GLaMMWarning, printable
from glamm_jax.storage import AnyPath, describe, is_service_error, local_path, to_path

if TYPE_CHECKING:
    from glamm_jax.parallel import MeshSizes

UNUSABLE_INPUT, INTERRUPTED = 2, 130  # exit statuses
SHIPPED_MODEL = ("checkpoints", "miniworld-tiny")  # in a checkout
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
        missing accelerator, 130 after Ctrl-C. After an error in one of several processes it does
        not return: all end.
    """
    show_other_warning = warnings.showwarning

    def show_warning(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
        if issubclass(category, GLaMMWarning):
            print(f"{name}: warning: {printable(str(message))}", file=sys.stderr)
        else:
            show_other_warning(message, category, *args, **options)

    status, reason = 0, ""  # why it ends, if not as it should
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", GLaMMWarning)
            warnings.showwarning = show_warning
            status = work() or 0
    except (GLaMMError, OSError) as error:
        wait_for_loss()
        if os.environ.get(TRACEBACK_VARIABLE):
            if not are_running():
                raise
            traceback.print_exc()
        status, reason = UNUSABLE_INPUT, printable(str(error))
        print(f"{name}: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        status, reason = INTERRUPTED, "interrupted; the same command resumes"
        print(f"\n{name}: {reason}", file=sys.stderr)
    except BaseException as error:
        wait_for_loss()
        message = _input_problem(error)
        if not message or os.environ.get(TRACEBACK_VARIABLE):
            if not are_running():
                raise
            traceback.print_exc()  # the others must not wait for this process
        status, reason = 1, f"{type(error).__name__}: {error}"
        if message:
            status, reason = UNUSABLE_INPUT, printable(message)
            print(f"{name}: {reason}", file=sys.stderr)
    return end_processes(status, reason)


def _input_problem(error: BaseException) -> str:
    """Return what to print for an error that others raise for unusable input, "" for any other."""
    if isinstance(error, RuntimeError) and NO_BACKEND in str(error):
        return _missing_accelerator(str(error))
    return describe(error) if is_service_error(error) else ""


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


SPREAD_HELP = (
    "spread the model over devices of this machine: fsdp=2,tensor=4 (default: one device if the "
    "model fits it, else all)"
)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model; `model_or_shipped` gives its default."""
    parser.add_argument(
        "--model",
        type=model_path,
        metavar="MODEL",
        help="model folder (default: the shipped model)",
    )


def add_placement_arguments(parser: argparse.ArgumentParser, mesh_help: str = SPREAD_HELP) -> None:
    """Add --dtype and --mesh: how a model is placed on devices."""
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: as stored)"
    )
    parser.add_argument("--mesh", type=mesh_sizes, metavar="AXIS=SIZE,...", help=mesh_help)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1; a type of argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def any_path(text: str) -> AnyPath:
    """Parse a path on this machine or in a bucket; a type of argparse."""
    with _argument_errors():
        return to_path(text)


def this_machine(text: str) -> Path:
    """Parse a path that cannot be in a bucket; a type of argparse."""
    with _argument_errors():
        return local_path(text)


def model_path(text: str) -> AnyPath:
    """Parse the path of a model, as `any_path`; for other URLs, the reader says what to do."""
    with _argument_errors():
        return to_path(text, other_urls=True)


def checkpoint_path(text: str) -> Path:
    """Parse the path of a checkpoint, as `this_machine`; for other URLs, see `model_path`."""
    with _argument_errors():
        return local_path(text, other_urls=True)


def mesh_sizes(text: str) -> "MeshSizes":
    """Parse the sizes of a mesh, such as fsdp=4,tensor=2; a type of argparse."""
    from glamm_jax.parallel import parse_mesh  # imports jax

    with _argument_errors():
        return parse_mesh(text)


def model_or_shipped(model: AnyPath | None) -> AnyPath:
    """Return the model of the command line; without one, that of the checkout.

    Raises:
        ConfigError: there is neither.
    """
    return model or checkout_path(*SHIPPED_MODEL, instead="name a model with --model")


@contextmanager
def _argument_errors() -> Iterator[None]:
    """Turn what is wrong with an argument into the error of which argparse prints the message."""
    try:
        yield
    except GLaMMError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def print_module_help(documentation: str | None, program: str) -> None:
    """Say that a module is a part of a program and cannot be run by itself.

    Args:
        documentation: of the module.
        program: the command that runs the program.
    """
    print(f"{documentation}\nThis module is a part of a program: {program} --help")


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
