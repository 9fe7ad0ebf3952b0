"""``rscd predict``: two rasters in, change polygons and rasters out."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from rscd.base.errors import UsageError
from rscd.cli import predict_events, predict_folders
from rscd.cli.options import (
    Shown,
    add_json,
    add_verbosity,
    add_views,
    count,
    fraction,
    not_negative,
    parse_pairs,
    positive,
)
from rscd.cli.segmenting import add_segmenting, refuse_segmenting

if TYPE_CHECKING:
    from rscd.base.types import DateName
    from rscd.cli.predict_events import Runner
    from rscd.geo.scene import ScenePair
    from rscd.pipeline.maps import Options

log = logging.getLogger(__name__)

EPILOG = """\
Without -m, images of three bands or more (red, green and blue first) with pixels of 0.1 to 1 m are
given to the network that ships with rscd, which finds buildings that came or went; images without
georeferencing are taken to be such, unless --gsd says otherwise. All others are given to a
training-free detector: irmad, or pca-kmeans where there is one band (irmad needs two). Those (cva,
irmad, pca-kmeans) find what differs in colour beyond a change of light: good on multispectral
scenes of 10 m and coarser, nearly useless for buildings on half-metre images, where most of what
differs is not change.

Examples:
  rscd predict scene_t1.tif scene_t2.tif -o change.geojson
  rscd predict 2019.tif 2023.tif -o change.gpkg -o change.tif --prob prob.tif --min-area 50
  rscd predict before.png after.png -o change.tif
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="find what changed between two rasters",
        description="Find what changed between two rasters of one place and write it as polygons "
        "(.geojson .gpkg .fgb .parquet) or as a mask (.tif .png).",
        epilog=f"{EPILOG}\n{predict_events.EPILOG}\n{predict_folders.EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("t1", help="raster of the earlier date (path, VRT or URL), or a folder")
    parser.add_argument("t2", help="raster of the later date, or a folder of the same names")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        required=True,
        metavar="OUT",
        help="file to write, format by suffix; may be repeated",
    )
    parser.add_argument("--prob", metavar="FILE.tif", help="also write the change probability")
    parser.add_argument(
        "--preview", metavar="FILE.png", help="also write a picture: t1, t2, change outlined"
    )
    parser.add_argument(
        "--flow", metavar="FILE.tif", help="also write the flow from t2 to t1, of models with flow"
    )
    for date in ("t1", "t2"):
        parser.add_argument(
            f"--objects-{date}",
            metavar="FILE",
            help=f"also write the buildings that stand at {date} as polygons (.geojson .gpkg .fgb "
            ".parquet), of models that find them, such as buildings",
        )
    _add_detection(parser)
    _add_scene(parser)
    _add_running(parser)
    add_segmenting(parser, "with -m ceg:BACKEND")
    add_json(parser)
    add_verbosity(parser)


def _add_detection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detection")
    group.add_argument(
        "-m", "--model", metavar="NAME|FILE", help="see rscd model list; default: by the images"
    )
    add_views(group)
    group.add_argument(
        "--threshold",
        default="auto",
        metavar="auto|0..1",
        help="probability from which a pixel is change (default: the model's own rule)",
    )
    group.add_argument(
        "--min-area",
        type=not_negative,
        metavar="M2",
        help="leave out polygons smaller than this many square metres; rasters keep them (default: "
        "the model's own, see rscd model show; 0 keeps all)",
    )
    group.add_argument(
        "--min-score",
        type=fraction,
        metavar="0..1",
        help="leave out polygons of a lower score, the mean probability of their pixels; rasters "
        "keep them (default: the model's own, or 0 with another --threshold)",
    )
    group.add_argument(
        "--simplify",
        type=not_negative,
        default=0.0,
        metavar="M",
        help="simplify polygons by this tolerance in metres (default 0: not at all)",
    )
    group.add_argument(
        "--regularize",
        action=argparse.BooleanOptionalAction,
        help="give polygons right angles, as buildings have them; --no-regularize keeps pixel "
        "edges (default: the model's own, see rscd model show; no with --simplify)",
    )


def _add_scene(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scene")
    group.add_argument(
        "--align",
        choices=("t1", "t2", "none"),
        default="t1",
        help="whose pixel grid carries the result; none: refuse two grids (default t1)",
    )
    group.add_argument("-b", "--bands", metavar="1,2,3", help="bands to use, counted from 1")
    group.add_argument(
        "--bbox",
        metavar="XMIN,YMIN,XMAX,YMAX",
        help="write only this rectangle, in --bbox-crs; what lies around is looked at as well",
    )
    group.add_argument("--bbox-crs", metavar="CRS", help="default: the CRS of the result")
    group.add_argument(
        "--aoi",
        metavar="FILE",
        help="write only what lies inside the polygons of a vector file; likewise",
    )
    group.add_argument(
        "--src-nodata", type=float, metavar="V", help="value that means no data in both files"
    )
    group.add_argument(
        "--t1-date",
        metavar="ISO",
        help="date for column t1, such as 2019-07-14 (default: the file's own, TIFFTAG_DATETIME)",
    )
    group.add_argument("--t2-date", metavar="ISO", help="date for column t2, not before t1")
    group.add_argument(
        "--gsd",
        type=positive,
        metavar="METRES",
        help="pixel size, for images without georeferencing",
    )
    group.add_argument(
        "--pixel-coordinates",
        action="store_true",
        help="write polygons where the images have no CRS: in the coordinates of a world file, "
        "else x = column and y = -row, where QGIS shows the picture",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument("--tile-size", type=count, metavar="N", help="side of a tile in pixels")
    group.add_argument("--batch-size", type=count, metavar="N", help="tiles per step")
    group.add_argument(
        "--workers", type=count, metavar="N", help="threads (default: cores, at most 8)"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--max-memory", metavar="2GB", help="memory the whole process may take")
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    group.add_argument(
        "--co", action="append", default=[], metavar="K=V", help="creation option for rasters"
    )
    group.add_argument(
        "--lco", action="append", default=[], metavar="K=V", help="layer option for vectors"
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from rscd.pipeline.maps import open_pair

    backend = predict_events.backend_of(args.model)
    if backend is None:
        refuse_segmenting(args)
        run_pair: Runner = _run_pair
    else:
        run_pair = predict_events.runner(args, backend)

    def open_one(one: argparse.Namespace) -> "ScenePair":
        return open_pair(one.t1, one.t2, _options(one), _area(one))

    def run_one(one: argparse.Namespace, pair: "ScenePair") -> Shown:
        _keep_inputs(one)
        return run_pair(one, pair, _options(one))

    if predict_folders.are_folders(args.t1, args.t2):
        predict_folders.run_folders(args, open_one, run_one)
    else:
        run_one(args, open_one(args)).emit(as_json=args.json)


def _keep_inputs(args: argparse.Namespace) -> None:
    """Refuse to write over the area of interest or the weights; the images are looked at later."""
    from rscd.export.targets import keep_inputs

    extra = (args.prob, args.preview, args.flow, args.objects_t1, args.objects_t2)
    named = [path for path in (*extra, *args.output) if path]
    inputs = [path for path in (args.aoi, args.model) if path]
    keep_inputs(named, inputs)


def _run_pair(args: argparse.Namespace, pair: "ScenePair", options: "Options") -> Shown:
    from dataclasses import asdict

    from rscd.cli.progress import progress_bar
    from rscd.export.targets import Targets
    from rscd.pipeline.maps import check_targets, dated, plan, predict

    objects: dict[DateName, str | None] = {"t1": args.objects_t1, "t2": args.objects_t2}
    if args.dry_run:
        options = dated(pair, options)
        targets = Targets.of(args.output, args.prob, args.preview, args.flow, objects)
        check_targets(pair, targets, options)
        planned = asdict(plan(pair, options, targets))
        return Shown(planned, [f"{name}: {value}" for name, value in planned.items()])
    _say_alignment(pair.alignment)
    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = predict(
            pair,
            args.output,
            options,
            prob=args.prob,
            preview=args.preview,
            flow=args.flow,
            objects=objects,
            progress=progress,
        )
    if not args.json:
        _say_result(result)
    return Shown(asdict(result), result.outputs)


def _say_alignment(alignment: dict[str, str]) -> None:
    log.info(
        "result grid: %s\n  t1 %s\n  t2 %s", alignment["grid"], alignment["t1"], alignment["t2"]
    )


def _say_result(result: Any) -> None:
    import logging

    area = "" if result.area_m2 is None else f", {result.area_m2:,.0f} m2"
    polygons = "" if result.n_polygons is None else f"{result.n_polygons} polygons{area}; "
    logging.getLogger("rscd").info(
        "%s%.2f %% of the scene changed by %s at threshold %.3g; %.1f s%s",
        polygons,
        100 * result.changed_share,
        result.model,
        result.threshold,
        result.seconds,
        " (went on with an interrupted run)" if result.resumed else "",
    )
    found = [
        f"{number} at {date}"
        for date, number in (("t1", result.objects_t1), ("t2", result.objects_t2))
        if number is not None
    ]
    if found:
        log.info("buildings: %s", ", ".join(found))
    if result.seam is not None:
        log.info(
            "at tile edges the probability is off by %(mean_abs).2g on average and %(max_abs).2g "
            "at most; %(flipped_share).2g of the pixels there change side: larger --tile-size, "
            "fewer edges",
            result.seam,
        )


def _options(args: argparse.Namespace) -> "Options":
    from rscd.geo.dates import dates_of
    from rscd.geo.source import parse_bands
    from rscd.inference.memory import parse_memory
    from rscd.pipeline.maps import Options

    dates_of((args.t1_date, args.t2_date))  # before images are opened
    return Options(
        model=args.model,
        msi=args.msi,
        tta=args.tta,
        threshold=_threshold(args.threshold),
        min_area_m2=args.min_area,
        min_score=args.min_score,
        simplify_m=args.simplify,
        regularize=args.regularize,
        align=args.align,
        bands=None if args.bands is None else parse_bands(args.bands),
        src_nodata=args.src_nodata,
        t1_date=args.t1_date,
        t2_date=args.t2_date,
        gsd_m=args.gsd,
        pixel_coordinates=args.pixel_coordinates,
        tile_size=args.tile_size,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        max_memory=None if args.max_memory is None else parse_memory(args.max_memory),
        overwrite=args.overwrite,
        creation_options=parse_pairs("--co", args.co),
        layer_options=parse_pairs("--lco", args.lco),
    )


def _area(args: argparse.Namespace) -> Any:
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


def _threshold(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"expected --threshold auto or a number from 0 to 1, found {text!r}")
    return value
