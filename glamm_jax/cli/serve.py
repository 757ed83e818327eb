"""Serve a model over HTTP: chat completions with masks, in the format of OpenAI.

examples:
  glamm-jax serve                                # the shipped model on http://127.0.0.1:8000
  glamm-jax serve --model glamm --dtype bfloat16 --slots 32
  glamm-jax serve --model glamm --mesh tensor=4 --host 0.0.0.0 --port 80 --api-key-file keys.txt
  glamm-jax serve --max-queue 16 --request-seconds 60 --drain-seconds 20

Requests and responses are described in docs/serving.md: POST /v1/chat/completions,
POST /v1/images/segmentations, GET /v1/models, /health, /ready and /metrics.

The address is printed when the usual programs are compiled and the first question can be answered
at once. Questions beyond --slots wait; beyond --max-queue they are refused with status 429. At
SIGTERM no more questions are taken, those that were accepted are answered within --drain-seconds,
and the program ends.

Exit status: 0 after a signal, 2 unusable input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from glamm_jax.cli.program import (
    add_model_argument,
    add_placement_arguments,
    make_parser,
    model_or_shipped,
    positive_int,
    run_program,
    this_machine,
)
from glamm_jax.errors import ConfigError

KEY_VARIABLE = "GLAMM_JAX_API_KEY"
MAX_KEY_BYTES = 1 << 16  # of the file


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax serve") -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("serve", lambda: run(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax serve") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    add = parser.add_argument
    add_model_argument(parser)
    add("--name", help="name of the model in requests (default: that of its folder)")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=port_number, default=8000, help="0: any free port (%(default)s)")
    add(
        "--slots",
        type=positive_int,
        default=8,
        metavar="N",
        help="questions that are answered together (%(default)s)",
    )
    add(
        "--max-queue",
        type=positive_int,
        default=64,
        metavar="N",
        help="questions that wait for a slot (%(default)s)",
    )
    add(
        "--max-tokens",
        type=positive_int,
        metavar="N",
        help="longest answer that can be asked for (default: the model's context)",
    )
    add(
        "--max-prompt",
        type=positive_int,
        metavar="N",
        help="longest prompt in tokens, those of the image included (default: the context)",
    )
    add(
        "--max-body-bytes",
        type=positive_int,
        default=20 << 20,
        metavar="N",
        help="largest request (%(default)s)",
    )
    add(
        "--max-image-pixels",
        type=positive_int,
        default=1 << 24,
        metavar="N",
        help="largest image (%(default)s)",
    )
    add(
        "--request-seconds",
        type=positive_int,
        default=300,
        metavar="S",
        help="longest time of an answer, waiting included (%(default)s)",
    )
    add(
        "--drain-seconds",
        type=positive_int,
        default=30,
        metavar="S",
        help="time for accepted questions after SIGTERM (%(default)s)",
    )
    add(
        "--api-key-file",
        type=this_machine,
        metavar="FILE",
        help=f"keys of clients, one a line (default: that of ${KEY_VARIABLE}; none: no key)",
    )
    add(
        "--allow-image-urls",
        action="store_true",
        help="fetch images from public http(s) URLs (default: data URLs only)",
    )
    add(
        "--no-warm-up",
        action="store_true",
        help="compile programs for the first questions instead of at the start",
    )
    add_placement_arguments(parser)
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    """Parse a port; a type of argparse."""
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError(f"{number} is not a port: they are 0 to 65535")
    return number


def run(options: argparse.Namespace) -> None:
    """Load the model and answer requests until a signal."""
    try:
        from glamm_jax.http_server import listen
        from glamm_jax.serving.app import ServerOptions
        from glamm_jax.serving.engine import Engine
        from glamm_jax.serving.jobs import EngineOptions
        from glamm_jax.serving.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is missing; install it with: pip install 'glamm-jax[serve]'"
        ) from error
    from glamm_jax.inference.chat import load
    from glamm_jax.inference.placement import choose_mesh
    from glamm_jax.weights.folder import ModelFolder

    keys = read_keys(options.api_key_file)  # before the model is loaded, which takes minutes
    model = model_or_shipped(options.model)
    server = ServerOptions(
        options.name or model.name,
        max_body_bytes=options.max_body_bytes,
        max_image_pixels=options.max_image_pixels,
        request_seconds=options.request_seconds,
        api_keys=keys,
        allow_image_urls=options.allow_image_urls,
    )
    limits = EngineOptions(
        slots=options.slots,
        max_queue=options.max_queue,
        max_answer=options.max_tokens,
        max_prompt=options.max_prompt,
        warm_up_size=None if options.no_warm_up else EngineOptions.warm_up_size,
    )
    with listen(options.host, options.port) as listener:  # a port that is taken is said at once
        mesh = choose_mesh(ModelFolder(model), options.dtype, options.mesh, rows=options.slots)
        assistant = load(model, options.dtype, mesh)
        print(f"the model is on {assistant.placement()}; compiling", flush=True)
        serve(
            Engine(assistant, limits),
            server,
            listener,
            drain_seconds=options.drain_seconds,
            on_ready=lambda address: print(f"ready: {address}/v1", flush=True),
        )


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of a file, one a line, or that of the environment.

    Raises:
        ConfigError: the file is missing, too large, or has no key.
    """
    if path is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        return (key,) if key else ()
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    keys = tuple(line.strip() for line in data.decode("utf-8", "replace").splitlines())
    keys = tuple(key for key in keys if key)
    if len(data) > MAX_KEY_BYTES or not keys:
        raise ConfigError(f"{path}: must have one key a line, at most {MAX_KEY_BYTES} bytes")
    return keys


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.serve"))
