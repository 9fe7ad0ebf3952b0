"""The half of ``rscd evaluate`` that measures change events of a segmenter: ``--segmenter``."""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rscd.cli.parser import Parser
from rscd.cli.segmenting import (
    add_delta,
    add_segmenting,
    label_options,
    prompts_of,
    segmenter_of,
)

if TYPE_CHECKING:
    from rscd.base.types import Progress
    from rscd.evaluation.events import EventsReport

IDLE = (
    *("model", "size", "min_score", "msi", "tta", "flip", "maps", "gate", "exchange_dates"),
    *("threshold", "output", "overwrite", "reliability"),
)
"""Options of a split that say nothing to a segmenter."""


def add_segmenter(parser: Parser) -> None:
    """Declare the arguments that go with ``--segmenter``."""
    rare = add_segmenting(
        parser,
        "change events of a segmenter",
        duplicates="1, all count, as published",
        name=True,
        measured=True,
    )
    add_delta(rare)
    rare.add_argument(
        "--store",
        metavar="FOLDER",
        help="segmentations, as of rscd pseudolabel -o: those it lacks are added",
    )


def evaluate_segmenter(args: argparse.Namespace, progress: "Progress") -> "EventsReport":
    """Count pixel, instance and mixed level on a labelled split.

    Raises:
        UsageError: an option that means nothing to a segmenter.
    """
    from dataclasses import replace

    from rscd.evaluation.events import LabelledEvents, evaluate_events
    from rscd.geo.labels import Values
    from rscd.geo.source import parse_bands

    args.parser.refuse(args, IDLE, "-m", "--segmenter")
    data = LabelledEvents.open(
        args.source,
        args.split,
        Values(args.change_value, args.unlabelled),
        None if args.bands is None else parse_bands(args.bands),
        args.split_file,
        args.gsd,
    )
    gammas, args.gamma = args.gamma, None
    with ExitStack() as stack:
        store = args.store or stack.enter_context(tempfile.TemporaryDirectory(prefix="rscd-"))
        return evaluate_events(
            data,
            segmenter_of(args),
            prompts_of(args),
            Path(store),
            replace(label_options(args), min_object_m2=args.min_area or 0.0),
            gammas,
            allow_slow=args.allow_slow_cpu,
            progress=progress,
        )
