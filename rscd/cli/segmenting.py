"""Arguments of the commands that use a segmenter."""

import argparse
import logging
from typing import TYPE_CHECKING

from rscd.base.errors import UsageError
from rscd.cli.options import fraction, fractions, not_negative
from rscd.cli.parser import Parser
from rscd.cli.scene import add_size

if TYPE_CHECKING:
    from rscd.labels.from_segmenter import LabelOptions
    from rscd.segmenters.prompts import PromptSet
    from rscd.segmenters.segmenter import Segmenter

log = logging.getLogger(__name__)

USE = "--segmenter"
"""The use of a command in which these arguments count."""

MORE = """\
Segmenters: sam3 (wants a GPU), clipseg, buildings (ships with rscd), precomputed (scores or objects
of another program, --segmenter-option folder=DIR), spectral (no weights; for demonstration only),
fake (--segmenter-option folder=DIR). sam3 and clipseg need pip install "rscd[vlm]". What each can
be told: rscd model show ceg:NAME. In --foreground and --background, tree=tree|forest gives one
class two phrases."""


def add_segmenting(
    parser: Parser, title: str, *, duplicates: str, name: bool = False, measured: bool = False
) -> argparse._ArgumentGroup:
    """Arguments that go with ``--segmenter``.

    Args:
        parser: of the command.
        title: of their group.
        duplicates: the default of ``--duplicate-iou`` in words.
        name: whether ``--segmenter`` itself is one of them.
        measured: whether several gammas are compared, by a command whose main use is another and
            that has a ``--gsd`` of its own.

    Returns:
        The group of the rare ones.
    """
    group = parser.group(title, use=USE, rare=measured)
    if name:
        group.add_argument(
            "--segmenter", metavar="NAME", help="what finds the objects; see rscd model list"
        )
    group.add_argument(
        "--segmenter-option",
        action="append",
        default=[],
        metavar="K=V",
        help="such as model=FOLDER or folder=DIR; may be repeated",
    )
    group.add_argument(
        "--foreground", metavar="A,B", help="objects that matter (default house,building)"
    )
    group.add_argument(
        "--background", metavar="A,B", help="what surrounds them (default road,grass,tree,water)"
    )
    own = "(default: its own)"
    if measured:
        about = f"scores of a reliable pixel, each measured {own}"
        group.add_argument("--gamma", type=fractions, metavar="0.1,0.5,0.8", help=about)
    else:
        about = f"score of a reliable pixel {own}"
        group.add_argument("--gamma", type=float, metavar="0..1", help=about)
        add_size(group)
    if not measured:
        group = parser.group(f"more {title}", use=USE, rare=True)
    group.add_argument(
        "--instance-threshold",
        type=float,
        metavar="0..1",
        help="score from which an object counts (default: the segmenter's own)",
    )
    group.add_argument(
        "--duplicate-iou",
        type=fraction,
        metavar="0..1",
        help=f"two objects of one date with a higher IoU are one (default: {duplicates})",
    )
    group.add_argument("--tile-size", type=int, metavar="N", help="side of a window in pixels")
    group.add_argument(
        "--overlap", type=int, metavar="N", help="pixels that neighbouring windows share"
    )
    group.add_argument(
        "--allow-slow-cpu", action="store_true", help="allow a run of hours without a GPU"
    )
    return group


def add_delta(group: argparse._ArgumentGroup) -> None:
    """``--delta``."""
    group.add_argument(
        "--delta",
        type=not_negative,
        default=0.0,
        metavar="IOU",
        help="IoU sum up to which an object appeared or vanished (default 0)",
    )


def prompts_of(args: argparse.Namespace) -> "PromptSet":
    """The classes to search for."""
    from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts

    return parse_prompts(
        FOREGROUND if args.foreground is None else args.foreground,
        BACKGROUND if args.background is None else args.background,
    )


def segmenter_of(args: argparse.Namespace) -> "Segmenter":
    """The segmenter with its ``--segmenter-option`` and ``--device``.

    Raises:
        UsageError: an option is not of the form K=V, or unknown to the segmenter.
    """
    from rscd.segmenters.segmenter import load_segmenter

    given = args.segmenter_option
    wrong = next((text for text in given if "=" not in text), None)
    if wrong is not None:
        raise UsageError(
            f"expected --segmenter-option NAME=VALUE, found {wrong!r}; such as --segmenter-option "
            "model=FOLDER"
        )
    options = dict(text.split("=", 1) for text in given)
    segmenter = load_segmenter(args.segmenter, options, device=args.device)
    if segmenter.info.quality == "demo":
        log.warning("%s is for demonstration only: do not quote its accuracy", args.segmenter)
    return segmenter


def label_options(args: argparse.Namespace, duplicate_iou: float = 1.0) -> "LabelOptions":
    """How scores become labels and events, with the command's default of ``--duplicate-iou``."""
    from rscd.labels.from_segmenter import LabelOptions

    return LabelOptions(
        gamma=args.gamma,
        delta=args.delta,
        instance_threshold=args.instance_threshold,
        duplicate_iou=duplicate_iou if args.duplicate_iou is None else args.duplicate_iou,
        tile=args.tile_size,
        overlap=args.overlap,
    )
