"""``rscd sample-points``: points to interpret, a stratified random sample of a change map."""

import argparse
import logging
from pathlib import Path
from typing import Any

from rscd.cli.options import Shown, add_json, add_verbosity, count, whole
from rscd.cli.parser import Parser

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd sample-points change.tif -o points.gpkg
  rscd sample-points change.tif -n 500 --strata change,no-change --seed 7 -o points.gpkg

Open points.gpkg in QGIS beside both images, answer each point in its form (column reference:
change, no change, unsure), save, and run: rscd estimate points.gpkg change.tif
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "sample-points",
        help="draw points of a change map to interpret",
        usage="rscd sample-points MAP.tif -o POINTS.gpkg [options]",
        description="Draw a stratified random sample of the pixels of a change map, as points that "
        "an interpreter answers; rscd estimate turns the answers into an area of change with its "
        "confidence interval.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("map", metavar="MAP.tif", help="change map of rscd predict -o change.tif")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="layer of points to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("-n", type=count, default=300, metavar="N", help="points (default 300)")
    parser.add_argument(
        "--strata",
        default="change,near,no-change",
        metavar="NAMES",
        help="parts of the map to draw from (default change,near,no-change)",
    )
    parser.add_argument(
        "--near",
        type=count,
        default=5,
        metavar="PX",
        help="pixels around change that are the stratum near (default 5)",
    )
    parser.add_argument(
        "--min-per-stratum",
        type=count,
        default=50,
        metavar="N",
        help="points in each stratum at least (default 50); the rest goes by size",
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="(default 0)")
    add_json(parser)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from rscd.cli.progress import progress_bar
    from rscd.evaluation.sample_points import PointOptions, sample_points, words, write_points
    from rscd.evaluation.strata import Strata
    from rscd.export.outputs import files_beside
    from rscd.export.style import is_own_style
    from rscd.export.targets import check_outputs, of_kind
    from rscd.export.vector import SUFFIXES

    path = of_kind(Path(args.output), SUFFIXES, "-o")
    options = PointOptions(
        args.n, Strata(words(args.strata), args.near), args.min_per_stratum, args.seed
    )
    beside = [file for file in files_beside(path) if not is_own_style(file)]
    check_outputs([path, *beside], [args.map], overwrite=args.overwrite)
    with progress_bar(quiet=args.verbosity < 0) as progress:
        points = sample_points(args.map, options, progress)
    write_points(points, path)
    for name in points.empty:
        log.warning("the map has no pixel of stratum %s; no point is drawn there", name)
    strata = points.provenance["strata"]
    log.info(
        "%d points: %s",
        len(points.table),
        ", ".join(f"{own['points']} of {name}" for name, own in strata.items()),
    )
    Shown({"output": str(path), "strata": strata}, [str(path)]).emit(as_json=args.json)
