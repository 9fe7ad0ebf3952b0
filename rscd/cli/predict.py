"""``rscd predict``: change polygons and rasters from two rasters."""

import argparse
import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.errors import UsageError
from rscd.cli import folders
from rscd.cli.options import (
    Shown,
    add_device,
    add_json,
    add_least,
    add_outputs,
    add_verbosity,
    add_views,
    auto_or_pixels,
    count,
    flip_of,
    in_words,
    not_negative,
    parse_pairs,
    word_or_fraction,
)
from rscd.cli.parser import Parser
from rscd.cli.report import report
from rscd.cli.scene import (
    add_layer_options,
    add_scene,
    add_size,
    scene_options,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rscd.base.types import DateName
    from rscd.geo.scene import ScenePair
    from rscd.inference.tiled import Mapper
    from rscd.pipeline.run import Options

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd predict scene_t1.tif scene_t2.tif -o change.geojson
  rscd predict 2019.tif 2023.tif -o change.gpkg -o change.tif --prob prob.tif --min-area 50
  rscd predict before.png after.png -o change.tif
"""

MORE = f"""\
Without -m, images of three bands or more (red, green and blue first) with pixels of 0.1 to 1 m are
given to the network that ships with rscd, which finds buildings that came or went; images without
georeferencing are taken to be such, unless --gsd says otherwise. All others are given to a
training-free detector: irmad, or pca-kmeans where there is one band (irmad needs two). Those (cva,
irmad, pca-kmeans) find what differs in colour beyond a change of light: good on multispectral
scenes of 10 m and coarser, nearly useless for buildings on half-metre images, where most of what
differs is not change.

-m ceg:NAME is an old name of rscd events --segmenter NAME and goes with version 0.3.

{folders.MORE}
  rscd predict day1/ day2/ -m scene.ckpt -o 'change/{{name}}.png' --flow 'flow/{{name}}.tif'
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "predict",
        help="find what changed between two rasters",
        usage="rscd predict T1 T2 -o OUT [-m MODEL] [options]",
        description="Find what changed between two rasters of one place and write it as polygons "
        "(.geojson .gpkg .fgb .parquet) or as a mask (.tif .png).",
        epilog=EPILOG,
        more=MORE,
    )
    parser.set_defaults(run=run)
    parser.add_argument("t1", metavar="T1", help="raster of the earlier date, or a folder")
    parser.add_argument("t2", metavar="T2", help="of the later date, or a folder of the same names")
    group = parser.group("output")
    add_outputs(group, "OUT", "file to write; the suffix selects the format")
    group.add_argument("--prob", metavar="FILE.tif", help="also write the change probability")
    group.add_argument(
        "--preview", metavar="FILE.png", help="also write a picture: t1, t2, change outlined"
    )
    add_json(group)
    add_verbosity(group)
    _add_more_outputs(parser)
    add_detection(parser)
    add_scene(parser.group("scene", rare=True))
    add_running(parser)


def _add_more_outputs(parser: Parser) -> None:
    group = parser.group("more outputs", rare=True)
    group.add_argument(
        "--report",
        metavar="FILE.html",
        help="also write a page on which the polygons of an output are reviewed; see rscd report",
    )
    group.add_argument(
        "--project",
        metavar="FILE.qgz",
        help="also write a QGIS project with both dates and the outputs, styled",
    )
    group.add_argument(
        "--pictures",
        action="store_true",
        help="also store each polygon before and after in a .gpkg, for the map tip of QGIS",
    )
    group.add_argument(
        "--flow", metavar="FILE.tif", help="also write the flow from t2 to t1, of models with flow"
    )
    group.add_argument(
        "--dissimilarity",
        metavar="FILE",
        help="also write how little the dates look alike along the flow, 0 to 1 (.tif .png)",
    )
    group.add_argument(
        "--misreg",
        nargs="?",
        const="auto",
        type=auto_or_pixels,
        metavar="PIXELS",
        help="a column misreg of polygons: the fraction that is no change any more when one date "
        "is moved by so many pixels (default: the usual error of the registration, as in "
        "reg_err_px); eight passes over the tiles with polygons",
    )
    for date in ("t1", "t2"):
        group.add_argument(
            f"--objects-{date}",
            metavar="FILE",
            help=f"also write the buildings that stand at {date} as polygons (.geojson .gpkg .fgb "
            ".parquet), of models that find them, such as buildings",
        )


def add_detection(parser: Parser) -> None:
    """How change is found."""
    group = parser.group("detection")
    group.add_argument(
        "-m",
        "--model",
        metavar="NAME|FILE",
        help="default: by bands and pixel size (rscd model list)",
    )
    group.add_argument(
        "--threshold",
        default="auto",
        metavar="auto|0..1",
        help="least probability of change (auto: the model's rule)",
    )
    own = "(default: the model's own"
    add_least(group, f"; rasters keep them {own})", f" {own}; 0 with --threshold)")
    group.add_argument(
        "--regularize",
        action=argparse.BooleanOptionalAction,
        help="polygons of few corners, right-angled where that fits, or of pixel edges (default: "
        "the model's own)",
    )
    add_size(group)
    rare = parser.group("more on detection", rare=True)
    rare.add_argument(
        "--max-false-alarms",
        metavar="SHARE",
        help="10%%, or 5/km2: choose --min-score so that no more of the polygons written (or per "
        "square kilometre) are false, as --calibration shows",
    )
    rare.add_argument(
        "--calibration",
        metavar="LAYER",
        help="reviewed polygons of the same model, all or at random, for --max-false-alarms",
    )
    rare.add_argument(
        "--register",
        choices=("off", "shift", "local"),
        default="off",
        help="move the other date onto that of --align by one estimated shift, or by a smooth "
        "field of shifts, as it is resampled (default off: a shift is only warned of)",
    )
    rare.add_argument(
        "--simplify",
        type=not_negative,
        default=0.0,
        metavar="M",
        help="simplify polygons with this tolerance in metres (default 0: no simplification)",
    )
    add_views(rare)


def add_running(parser: Parser) -> None:
    """Where and how fast it is found."""
    group = parser.group("running", rare=True)
    group.add_argument("--tile-size", type=count, metavar="N", help="side of a tile in pixels")
    group.add_argument("--batch-size", type=count, metavar="N", help="tiles per step")
    group.add_argument(
        "--workers", type=count, metavar="N", help="threads (default: cores, at most 8)"
    )
    group.add_argument(
        "--dask",
        metavar="ADDRESS|local[:N]",
        help="compute on a Dask cluster: tcp://HOST:8786, or N processes of this machine; needs "
        "rscd[cluster]",
    )
    add_device(group)
    group.add_argument("--max-memory", metavar="2GB", help="memory the whole process may take")
    group.add_argument(
        "--co",
        action="append",
        default=[],
        metavar="K=V",
        help="creation option of GDAL for rasters, such as COMPRESS=ZSTD; may be repeated",
    )
    add_layer_options(group)
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    options = predict_options(args)
    with engine(args) as mapper:
        folders.run_all(args, options, partial(_run_pair, mapper))


def engine(args: argparse.Namespace) -> "AbstractContextManager[Mapper | None]":
    """What carries blocks out, where it is not threads of this process."""
    if args.dask is None or args.dry_run:
        return nullcontext()
    if args.workers is not None:
        raise UsageError(
            "expected --workers without --dask, found both; a cluster has its own threads"
        )
    from rscd.inference.dask import cluster_mapper

    return cluster_mapper(args.dask)


def _run_pair(
    mapper: "Mapper | None", args: argparse.Namespace, pair: "ScenePair", options: "Options"
) -> Shown:
    from dataclasses import asdict, replace

    from rscd.cli.progress import progress_bar
    from rscd.export.targets import Targets, keep_inputs
    from rscd.pipeline.maps import plan, predict
    from rscd.pipeline.run import resolve

    # images are checked later
    keep_inputs(folders.outputs_of(args), filter(None, (args.aoi, args.model)))
    reviewed, pictured = _reviewed(args), _pictured(args)
    objects: dict[DateName, str | None] = {"t1": args.objects_t1, "t2": args.objects_t2}
    if args.dry_run:
        extra = (args.prob, args.preview, args.flow, objects, args.dissimilarity, args.project)
        targets = Targets.of(args.output, *extra)
        planned = plan(resolve(pair, targets, options))
        return Shown(
            planned, [f"{name}: {in_words(value, name)}" for name, value in planned.items()]
        )
    if pair.t1.path == pair.t2.path:
        log.warning("t1 and t2 are one file, %s: nothing can have changed", args.t1)
    log.info("result grid: %(grid)s\n  t1 %(t1)s\n  t2 %(t2)s", pair.alignment)
    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = predict(
            pair,
            args.output,
            options,
            prob=args.prob,
            preview=args.preview,
            flow=args.flow,
            dissimilarity=args.dissimilarity,
            objects=objects,
            project=args.project,
            mapper=mapper,
            progress=progress,
        )
    if not args.json:
        _log_result(result)
    if pictured is not None and result.n_polygons:
        from rscd.review.page import store_pictures

        store_pictures(pictured, args.t1, args.t2)
    if reviewed is not None and result.n_polygons:
        report(
            reviewed,
            Path(args.report),
            t1=args.t1,
            t2=args.t2,
            overwrite=True,  # `_reviewed` settled whether it may be replaced
            quiet=args.verbosity < 0,
        )
        result = replace(result, outputs=[*result.outputs, args.report])
    elif reviewed is not None:
        log.warning("nothing changed: there is nothing to review, and no %s", args.report)
    return Shown(asdict(result), result.outputs)


def _reviewed(args: argparse.Namespace) -> Path | None:
    """The output whose polygons the report shows, checked before any work; None without report."""
    if args.report is None:
        return None
    from rscd.base.place import is_file_name
    from rscd.export.outputs import is_vector
    from rscd.review.page import check_page

    layers = [Path(path) for path in args.output if is_file_name(path) and is_vector(Path(path))]
    if not layers:
        raise UsageError(
            "expected polygons of this machine among the outputs for --report, found "
            f"{', '.join(args.output)}; add -o change.gpkg"
        )
    check_page(Path(args.report), overwrite=args.overwrite)
    return layers[0]


def _pictured(args: argparse.Namespace) -> Path | None:
    """The output whose polygons get pictures, checked before any work; None without them."""
    if not args.pictures:
        return None
    from rscd.base.place import is_file_name

    layers = [path for path in args.output if path.lower().endswith(".gpkg")]
    if not layers or not is_file_name(layers[0]):
        raise UsageError(
            "expected a .gpkg of this machine among the outputs for --pictures, found "
            f"{', '.join(args.output)}; add -o change.gpkg"
        )
    return Path(layers[0])


def _log_result(result: Any) -> None:
    area = "" if result.area_m2 is None else f", {result.area_m2:,.0f} m2"
    polygons = "" if result.n_polygons is None else f"{result.n_polygons} polygons{area}; "
    log.info(
        "%s%.2f %% of the scene changed (%s, threshold %.3g); %.1f s%s",
        polygons,
        100 * result.changed_share,
        result.model,
        result.threshold,
        result.seconds,
        " (resumed an interrupted run)" if result.resumed else "",
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
            "at tile edges the probability differs by %(mean_abs).2g on average and %(max_abs).2g "
            "at most; a fraction of %(flipped_share).2g of the pixels there crosses the threshold; "
            "a larger --tile-size has fewer edges",
            result.seam,
        )


def _within_budget(args: argparse.Namespace) -> dict[str, Any]:
    """Options that keep a budget of false alarms; none where none was given."""
    if (args.max_false_alarms is None) != (args.calibration is None):
        raise UsageError(
            "expected --max-false-alarms and --calibration REVIEWED.gpkg together, found one; add "
            "the other"
        )
    if args.max_false_alarms is None:
        return {}
    from rscd.evaluation.budget import choose_least_score
    from rscd.metrics.budget import Budget

    budget = Budget.parse(args.max_false_alarms)
    if args.min_score is not None:
        raise UsageError(
            "expected --min-score or --max-false-alarms, found both; drop one: the other chooses it"
        )
    chosen = choose_least_score(args.calibration, budget)
    log.info("%s", chosen.guarantee)
    return {"min_score": chosen.min_score, "budget": chosen.record}


def predict_options(args: argparse.Namespace) -> "Options":
    """What the arguments come to."""
    from rscd.inference.memory import parse_memory

    threshold = word_or_fraction("--threshold", args.threshold, ("auto",))
    chosen = _within_budget(args)
    return scene_options(
        args,
        **chosen,
        model=args.model,
        msi=args.msi,
        tta=args.tta,
        flip=flip_of(args),
        threshold=None if isinstance(threshold, str) else threshold,
        register=args.register,
        misreg=getattr(args, "misreg", None),
        simplify_m=args.simplify,
        regularize=args.regularize,
        tile_size=args.tile_size,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        max_memory=None if args.max_memory is None else parse_memory(args.max_memory),
        creation_options=parse_pairs("--co", args.co),
    )
