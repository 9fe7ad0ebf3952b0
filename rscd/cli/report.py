"""``rscd report``: a page on which change polygons are reviewed."""

import argparse
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from rscd.base.errors import UsageError
from rscd.cli.options import Shown, add_json, add_verbosity, whole
from rscd.cli.parser import Parser

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd report change.gpkg -o report.html
  rscd report change.gpkg --t1 moved/2019.tif --t2 moved/2023.tif -o report.html
  rscd report change.gpkg --serve
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "report",
        help="make a page on which change polygons are reviewed",
        usage="rscd report LAYER (-o REPORT.html | --serve) [options]",
        description="Write one HTML file with the scene at both dates and the polygons, in which "
        "an analyst accepts or rejects each; it needs no network. The page saves review.geojson, "
        "for rscd review apply.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("layer", metavar="LAYER", help="change polygons, such as change.gpkg")
    parser.add_argument("-o", "--output", metavar="REPORT.html", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_rasters(parser)
    parser.add_argument(
        "--max-size",
        metavar="50MB",
        help="largest size of the file; the map gets coarser to fit (default 50MB)",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on this machine, with tiles from the rasters, until interrupted",
    )
    parser.add_argument(
        "--port", type=whole, metavar="N", help="of --serve (default 8765; 0: any that is free)"
    )
    add_json(parser)
    add_verbosity(parser)


def add_rasters(parser: Parser) -> None:
    """``--t1`` and ``--t2``."""
    for date in ("t1", "t2"):
        parser.add_argument(
            f"--{date}",
            metavar="RASTER",
            help=f"raster of {date} (default: the one the layer was made from)",
        )


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    if args.serve:
        _serve(args)
        return
    if args.port is not None:
        raise UsageError("expected --port only with --serve, found it without; drop it")
    if args.output is None:
        raise UsageError("expected -o REPORT.html or --serve, found neither; give one")
    report(
        args.layer,
        Path(args.output),
        t1=args.t1,
        t2=args.t2,
        max_size=args.max_size,
        overwrite=args.overwrite,
        quiet=args.verbosity < 0,
    ).emit(as_json=args.json)


def report(
    layer: str | Path,
    target: Path,
    *,
    t1: str | None = None,
    t2: str | None = None,
    max_size: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Shown:
    """Write the page of a layer."""
    from dataclasses import asdict

    import rasterio

    from rscd.cli.progress import progress_bar
    from rscd.inference.memory import GDAL_CACHE, parse_memory
    from rscd.review.layer import read_change_layer
    from rscd.review.page import MAX_SIZE, check_page, write_report
    from rscd.review.view import open_view

    check_page(target, overwrite=overwrite)
    most = MAX_SIZE if max_size is None else parse_memory(max_size)
    read = read_change_layer(layer)
    with progress_bar(quiet=quiet) as progress, rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        view = open_view(read, t1, t2)
        made = write_report(read, view, target, max_size=most, progress=progress)
    log.info(
        "%d polygons, %.1f MB, a map of every %s",
        made.polygons,
        made.bytes / 1e6,
        "pixel" if made.finest_zoom == 0 else f"{2**-made.finest_zoom}th pixel",
    )
    if made.thumbnails < made.polygons:
        log.warning(
            "%d polygons of lower scores have no pictures in the list: there was no room in %.3g "
            "MB; raise --max-size, or use --serve",
            *(made.polygons - made.thumbnails, most / 1e6),
        )
    return Shown(asdict(made), [made.output])


def _serve(args: argparse.Namespace) -> None:
    import rasterio

    from rscd.cli.options import emit
    from rscd.inference.memory import GDAL_CACHE
    from rscd.review.layer import read_change_layer
    from rscd.review.serve import PORT, page_server
    from rscd.review.view import open_view

    if args.output is not None or args.max_size is not None:
        raise UsageError("expected --serve without -o and --max-size, found both; drop one")
    read = read_change_layer(args.layer)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        view = open_view(read, args.t1, args.t2)
        with page_server(read, view, PORT if args.port is None else args.port) as (address, wait):
            log.info("open this address in a browser; Ctrl-C ends the server")
            emit(address)
            with suppress(KeyboardInterrupt):
                wait()
