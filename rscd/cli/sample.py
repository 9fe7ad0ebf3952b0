"""``rscd sample``: a synthetic scene pair for trying things out."""

import argparse
import logging
from typing import Any

from rscd.base.errors import UsageError
from rscd.cli.options import Shown, add_json, add_verbosity, size_hw, whole
from rscd.cli.parser import Parser

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd sample -o town
  rscd sample -o town --size 512,512 --seed 3
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "sample",
        help="make a synthetic scene pair with known change",
        usage="rscd sample -o DIR [options]",
        description="Write a georeferenced synthetic town at two dates, where known buildings "
        "appear and vanish: scenes, truth mask and polygons, buildings and land cover.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)  # goes with version 0.3
    parser.add_argument("-o", "--output", metavar="DIR", help="folder, created if missing")
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of the town (default 0)"
    )
    parser.add_argument(
        "--size",
        type=size_hw,
        default="1024,1024",
        metavar="H,W",
        help="height and width in pixels of half a metre (default 1024,1024)",
    )
    parser.add_argument(
        "--east",
        type=whole,
        default=0,
        metavar="M",
        help="metres to the east, to place samples beside each other (default 0)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_json(parser)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from pathlib import Path

    from rscd.synthetic.sample import write_sample

    if (args.output is None) == (args.folder is None):
        found = "none" if args.output is None else f"another one as well, {args.folder}"
        raise UsageError(f"expected a folder with -o DIR, found {found}")
    if args.folder is not None:
        log.warning("rscd sample DIR goes with version 0.3: rscd sample -o DIR")
    files = write_sample(
        Path(args.output or args.folder),
        seed=args.seed,
        shape_hw=args.size,
        east_m=args.east,
        overwrite=args.overwrite,
    )
    shown = {name: str(path) for name, path in files.items()}
    Shown(shown, list(shown.values())).emit(as_json=args.json)
