"""Arguments of the commands that compare two rasters: which pixels, where, when."""

import argparse
from typing import TYPE_CHECKING, Any

from rscd.base.errors import UsageError
from rscd.cli.options import parse_pairs, positive

if TYPE_CHECKING:
    from rscd.geo.scene import ScenePair
    from rscd.pipeline.run import Options


def add_size(group: argparse._ArgumentGroup) -> None:
    """``--gsd``."""
    group.add_argument(
        "--gsd", type=positive, metavar="METRES", help="pixel size, where the images do not tell"
    )


def add_grids(group: argparse._ActionsContainer) -> None:
    """How two rasters become a pair."""
    group.add_argument(
        "-b",
        "--bands",
        metavar="1,2,3|red,nir",
        help="bands to use, counted from 1 or by the part of the spectrum that file or item names",
    )
    group.add_argument(
        "--align",
        choices=("t1", "t2", "none"),
        default="t1",
        help="whose pixel grid carries the result; none: refuse two grids (default t1)",
    )
    group.add_argument(
        "--src-nodata", type=float, metavar="V", help="value that means no data in both files"
    )


def add_reading(group: argparse._ArgumentGroup) -> None:
    """How two rasters become a pair, and polygons of one without CRS."""
    add_grids(group)
    group.add_argument(
        "--pixel-coordinates",
        action="store_true",
        help="write polygons where the images have no CRS: in the coordinates of a world file, "
        "else x = column and y = -row, where QGIS shows the picture",
    )


def add_scene(group: argparse._ArgumentGroup) -> None:
    """How two rasters become a pair, which part of it counts, and of which days they are."""
    add_reading(group)
    group.add_argument(
        "--bbox",
        metavar="XMIN,YMIN,XMAX,YMAX",
        help="write only this rectangle, in --bbox-crs; what lies around is looked at as well",
    )
    group.add_argument("--bbox-crs", metavar="CRS", help="default: the CRS of the result")
    group.add_argument(
        "--aoi",
        metavar="FILE",
        help="write only what lies inside the polygons of a vector file; what lies around is "
        "looked at as well",
    )
    group.add_argument(
        "--t1-date",
        metavar="ISO",
        help="date for column t1, such as 2019-07-14 (default: the file's own, TIFFTAG_DATETIME)",
    )
    group.add_argument("--t2-date", metavar="ISO", help="date for column t2, not before t1")


def add_layer_options(group: argparse._ArgumentGroup) -> None:
    """``--lco``."""
    group.add_argument(
        "--lco",
        action="append",
        default=[],
        metavar="K=V",
        help="layer creation option of GDAL for vectors; may be repeated",
    )


def scene_options(args: argparse.Namespace, **more: Any) -> "Options":
    """What these arguments come to, and more options.

    Raises:
        UsageError: one that cannot be read.
    """
    from rscd.geo.dates import dates_of
    from rscd.geo.source import parse_choice
    from rscd.pipeline.run import Options

    dates_of((args.t1_date, args.t2_date))  # before images are opened
    own: dict[str, Any] = {
        "align": args.align,
        "bands": None if args.bands is None else parse_choice(args.bands),
        "src_nodata": args.src_nodata,
        "t1_date": args.t1_date,
        "t2_date": args.t2_date,
        "pixel_coordinates": args.pixel_coordinates,
        "min_area_m2": args.min_area,
        "min_score": args.min_score,
        "overwrite": args.overwrite,
        "layer_options": parse_pairs("--lco", args.lco),
    }
    return Options(**own | more)


def open_scene(args: argparse.Namespace, options: "Options") -> "ScenePair":
    """The pair of rasters that a command names."""
    from rscd.pipeline.maps import open_pair

    return open_pair(args.t1, args.t2, options, area_of(args), gsd_m=args.gsd)


def area_of(args: argparse.Namespace) -> Any:
    """The area of interest that a command names; None: all."""
    from rscd.geo.area import Area

    if args.bbox is not None and args.aoi is not None:
        raise UsageError("expected one of --bbox and --aoi, found both; drop one")
    if args.bbox_crs is not None and args.bbox is None:
        raise UsageError("expected --bbox with --bbox-crs, found none; add it")
    if args.aoi is not None:
        return Area.from_file(args.aoi)
    if args.bbox is not None:
        return Area.from_text(args.bbox, args.bbox_crs)
    return None
