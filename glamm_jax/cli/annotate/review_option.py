"""The option of the commands that read the annotations of a run as persons have reviewed them."""

from __future__ import annotations

from typing import Any


def add_review_argument(parser: Any) -> None:
    """Add the option to a parser, or to a group of one."""
    parser.add_argument(
        "--ignore-reviews",
        action="store_true",
        help="the automatic annotations (default: as persons have reviewed them)",
    )
