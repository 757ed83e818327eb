"""Review the annotations of a run in a browser: approve, discard, correct.

examples:
  glamm-jax annotate review out/run                       # then open http://127.0.0.1:8765
  glamm-jax annotate review out/run --roles configs/annotate/oracle.toml --author ann
  glamm-jax annotate review out/run --host 0.0.0.0 --port 9000 --allow-host annotate.example.org

The page shows one image at a time, the one with the lowest confidence first, with phrases and masks
in the same colours. A correction changes a caption, moves the characters of a phrase, links phrases
and regions, renames a region, or draws its box again. The mask of a new box is that of the model
that plays the role `segmenter` in the file of --roles; without it, such a region has no mask.
docs/review.md describes the page and its keys.

Decisions are appended to RUN/review/decisions.jsonl, with author and time; the automatic
annotations do not change. `export`, `score`, `report` and `inspect` use the reviewed version.
Several persons may review a run at the same time; a decision about an image that somebody else
decided about meanwhile is refused.

Anybody who can reach the address can decide: the default is this machine only.

Exit status: 0 after Ctrl-C or SIGTERM, 2 unusable input.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from importlib import import_module
from pathlib import Path

from glamm_jax.cli.program import this_machine
from glamm_jax.cli.serve import port_number
from glamm_jax.errors import ConfigError
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.run_folder import AnnotationRun

LOOPBACK = "127.0.0.1"
PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("run", type=this_machine, metavar="RUN", help="the run folder, on this machine")
    add("--author", metavar="NAME", help="proposed to persons as their name (default: the user's)")
    add("--roles", type=this_machine, metavar="FILE", help="of which the segmenter makes masks")
    add("--trust-roles", action="store_true", help="import the classes that FILE names")
    add("--host", default=LOOPBACK, help="address to listen at (%(default)s: this machine only)")
    add("--port", type=port_number, default=PORT, help="0: any free port (%(default)s)")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine in the address of the page; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Serve the page until a signal; returns the exit status."""
    try:
        from glamm_jax.grand.review.server import (
            ReviewAddress,
            make_review_app,
            serve_review,
        )
        from glamm_jax.http_server import listen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is missing; install it with: pip install 'glamm-jax[serve]'"
        ) from error
    from glamm_jax.grand.review.decisions import MAX_AUTHOR, DecisionLog, is_author
    from glamm_jax.grand.review.queue import ReviewQueue
    from glamm_jax.grand.review.reviewing import ReviewDesk
    from glamm_jax.grand.review.run_reviews import open_reviews

    author = _user() if options.author is None else options.author
    if options.author is not None and not is_author(author):
        raise ConfigError(f"--author {author!r} is not a name: at most {MAX_AUTHOR} characters")
    folder = AnnotationRun.open(options.run)
    open_reviews(folder)  # a damaged file of decisions is refused before the page is opened
    segmenter = _segmenter(options.roles, folder, options.trust_roles)
    queue = ReviewQueue(folder, DecisionLog(folder.path))
    desk = ReviewDesk(folder, queue, segmenter, author)
    with listen(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        address = ReviewAddress(host, port, tuple(options.allow_host))
        queue.start()
        print(f"{folder.path}: {folder.num_images:,} images", flush=True)
        if segmenter is None:
            print("no segmenter: boxes that are drawn have no mask; see --roles", flush=True)
        print(f"review at {address.url}", flush=True)
        serve_review(make_review_app(desk, address), listener)
        queue.stop()
    return 0


def _segmenter(path: Path | None, folder: AnnotationRun, trust: bool):
    if path is None:
        return None
    from glamm_jax.grand.review.segmenting import BoxSegmenter

    photographs = None if "://" in folder.root else Path(folder.root)
    role = read_roles(path, photographs=photographs, trust=trust).segmenter
    if role is None:
        raise ConfigError(f"{path}: has no [segmenter]")
    return BoxSegmenter(role)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        return ""


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["review", *sys.argv[1:]]))
