"""``rscd stack``: both dates as one raster."""

import argparse
import logging
from pathlib import Path
from typing import Any

from rscd.cli.options import Shown, add_json, add_verbosity
from rscd.cli.parser import Parser
from rscd.cli.scene import add_grids

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd stack 2019.tif 2023.tif -o stack.vrt
  rscd stack 2019.tif 2023.tif --bands 1,2,3 -o stack.tif
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "stack",
        help="both dates as one raster, for programs whose networks take one image",
        usage="rscd stack T1 T2 -o STACK [options]",
        description="Write the bands of t1, then those of t2, on one grid, aligned as rscd predict "
        "aligns them. A .vrt refers to the rasters by relative names and goes with them; a .tif "
        "holds the pixels.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("t1", metavar="T1", help="raster of the earlier date")
    parser.add_argument("t2", metavar="T2", help="raster of the later date")
    parser.add_argument(
        "-o", "--output", required=True, metavar="STACK", help="file to write, .vrt or .tif"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_grids(parser)
    add_json(parser)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    import rasterio

    from rscd.export.stack import stack_files, write_stack
    from rscd.export.targets import check_outputs
    from rscd.geo.scene import ScenePair
    from rscd.geo.source import close_handles, parse_choice
    from rscd.inference.memory import GDAL_CACHE

    target = Path(args.output)
    pair = ScenePair.open(
        args.t1,
        args.t2,
        align=args.align,
        bands=None if args.bands is None else parse_choice(args.bands),
        src_nodata=args.src_nodata,
    )
    files = stack_files(target, pair)
    check_outputs(files, pair.files, overwrite=args.overwrite)
    log.info("grid: %(grid)s\n  t1 %(t1)s\n  t2 %(t2)s", pair.alignment)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        try:
            write_stack(pair, target)
        finally:
            close_handles()
    names = [str(path) for path in files]
    data = {"outputs": names, "bands": 2 * pair.n_bands, "alignment": pair.alignment}
    Shown(data, names).emit(as_json=args.json)
