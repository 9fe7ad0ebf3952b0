"""``rscd sample``: a synthetic scene pair for trying things out."""

import argparse
from typing import Any

from rscd.cli.options import add_json, add_verbosity, emit, emit_json, size_hw, whole


def add(commands: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "sample",
        help="make a synthetic scene pair with known change",
        description="Write a georeferenced synthetic town at two dates, where known buildings "
        "appear and vanish: scenes, truth mask and polygons, buildings and land cover.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", metavar="DIR", help="created if missing")
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="seed of the town (default 0)"
    )
    parser.add_argument(
        "--size", type=size_hw, default="1024,1024", metavar="H,W", help="size in half-metre pixels"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_json(parser)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from pathlib import Path

    from rscd.synthetic.sample import write_sample

    files = write_sample(
        Path(args.folder), seed=args.seed, shape_hw=args.size, overwrite=args.overwrite
    )
    if args.json:
        emit_json({name: str(path) for name, path in files.items()})
        return
    for path in files.values():
        emit(str(path))
