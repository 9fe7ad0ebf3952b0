"""``rscd estimate``: the area of change with its confidence interval."""

import argparse
from typing import Any

from rscd.cli.options import Shown, add_json, add_verbosity, inner_fraction
from rscd.cli.parser import Parser

EPILOG = """\
examples:
  rscd estimate points.gpkg change.tif       # points of rscd sample-points, answered
  rscd estimate points.gpkg other_map.tif    # another map of the same place
  rscd estimate change.gpkg                  # reviewed polygons: how many are right
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "estimate",
        help="area of change and accuracy, with intervals",
        usage="rscd estimate POINTS MAP.tif [options]\n"
        "       rscd estimate REVIEWED_POLYGONS [options]",
        description="Estimate the area of change and the accuracy of a change map from points that "
        "an interpreter answered, with confidence intervals; or the precision of the polygons of a "
        "reviewed layer.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "points",
        metavar="LAYER",
        help="points of rscd sample-points, answered in column reference; or polygons with column "
        "status, of which all or a random sample is reviewed",
    )
    parser.add_argument(
        "map", nargs="?", metavar="MAP", help="change map, 0 no change and 1 change, of points"
    )
    parser.add_argument(
        "--confidence",
        type=inner_fraction,
        default=0.95,
        metavar="0..1",
        help="of the intervals (default 0.95)",
    )
    add_json(parser)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from rscd.cli.progress import progress_bar

    if args.map is None:
        from rscd.evaluation.reviews import estimate_precision

        precision = estimate_precision(args.points, args.confidence)
        Shown(precision.json(), [precision.text()]).emit(as_json=args.json)
        return
    from rscd.evaluation.estimate import estimate_areas

    with progress_bar(quiet=args.verbosity < 0) as progress:
        report = estimate_areas(args.points, args.map, args.confidence, progress)
    Shown(report.json(), [report.text()]).emit(as_json=args.json)
