"""Arguments that several commands share."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """``-q`` and ``-v``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        default=0,
        help="nothing on stderr but errors",
    )
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=1,
        help="more on stderr, warnings of libraries included",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout instead of text"
    )


def emit(line: str) -> None:
    """One line of a result on stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def emit_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    emit(json.dumps(data, indent=2))


def add_views(parser: Any) -> None:
    """``--msi`` and ``--tta``, for a parser or a group of one."""
    for option, what in (("--msi", "maps"), ("--tta", "logits")):
        parser.add_argument(
            option,
            metavar="0.5,1,1.5,2",
            help=f"average a network's {what} over these scales and the flipped image; or paper, "
            "readme, fast",
        )
