"""``rscd review``: decisions about change polygons, as files and as columns of the layer."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from rscd.base.errors import OutputError, UsageError
from rscd.cli.options import Shown, add_action, add_actions, add_json, add_verbosity, count, whole
from rscd.cli.report import add_rasters

if TYPE_CHECKING:
    from rscd.review.layer import ChangeLayer

log = logging.getLogger(__name__)

APPLY = (
    "rscd review apply change.gpkg review.geojson",
    "rscd review apply change.gpkg ada.geojson grace.geojson -o reviewed.gpkg",
)
EXPORT = "rscd review export reviewed.gpkg -o review.geojson"
NEXT = (
    "rscd review next change.gpkg -n 20",
    "rscd review next change.gpkg -n 100 --by random -o change.gpkg",
)


def add(commands: Any) -> None:
    """Declare the command."""
    about = "decisions about polygons: into a layer, out of it, what to review next"
    actions = add_actions(commands, "review", about, (APPLY[0], EXPORT, NEXT[0]))
    for declare in (_add_apply, _add_export, _add_next):
        declare(actions)


def _add_apply(actions: Any) -> None:
    parser = add_action(
        actions,
        "apply",
        "write the columns status, note, reviewer, time and edited into a change layer",
        *APPLY,
    )
    parser.set_defaults(run=run_apply)
    parser.add_argument("layer", metavar="LAYER", help="change polygons, such as change.gpkg")
    parser.add_argument(
        "reviews",
        nargs="*",
        metavar="REVIEW.geojson",
        help="saved by the review page or by export; of several the latest decision about a "
        "polygon counts; none only adds the columns and the form for QGIS",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file to write (default: LAYER itself)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="also store each polygon before and after, for the map tip of QGIS (.gpkg)",
    )
    add_rasters(parser)
    add_json(parser)
    add_verbosity(parser)


def _add_export(actions: Any) -> None:
    parser = add_action(
        actions,
        "export",
        "write the decisions in a layer's columns as a review, as the page does",
        EXPORT,
    )
    parser.set_defaults(run=run_export)
    parser.add_argument("layer", metavar="LAYER", help="change polygons with a column status")
    parser.add_argument(
        "-o", "--output", required=True, metavar="REVIEW.geojson", help="file to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_json(parser)
    add_verbosity(parser)


def _add_next(actions: Any) -> None:
    parser = add_action(actions, "next", "say which polygons to review next, in order", *NEXT)
    parser.set_defaults(run=run_next)
    parser.add_argument("layer", metavar="LAYER", help="change polygons, reviewed in part or not")
    parser.add_argument("-n", type=count, default=20, metavar="N", help="polygons (default 20)")
    parser.add_argument(
        "--by",
        choices=("gain", "random"),
        default="gain",
        help="gain (default): uncertain ones that differ from each other, to train on; random: "
        "for rscd estimate and --max-false-alarms",
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of random (default 0)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="also write the layer, which may be LAYER itself, with the columns review_order and "
        "review_by",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    add_json(parser)
    add_verbosity(parser)


def run_next(args: argparse.Namespace) -> None:
    """Ids of the polygons to review next, one a line."""
    from dataclasses import replace
    from pathlib import Path

    from rscd.review.choose import choose_next, with_order
    from rscd.review.layer import check_target, read_change_layer, require_polygons, write_layer

    layer = read_change_layer(args.layer)
    require_polygons(layer)
    target = None if args.output is None else Path(args.output)
    if target is not None:
        check_target(layer, target, overwrite=args.overwrite)
    chosen = choose_next(layer.table, args.n, args.by, args.seed)
    if target is not None:
        table = with_order(layer.table, chosen, args.by)
        write_layer(replace(layer, table=table), target, _style(layer))
    if not chosen:
        log.warning("every polygon is reviewed")
    elif len(chosen) < args.n:
        log.warning("only %d polygons are not reviewed", len(chosen))
    ids = [int(number) for number in layer.table["id"].iloc[chosen]]
    data = {"ids": ids, "by": args.by, "output": args.output}
    Shown(data, list(map(str, ids))).emit(as_json=args.json)


def run_apply(args: argparse.Namespace) -> None:
    """Decisions into the layer."""
    from pathlib import Path

    import rasterio

    from rscd.inference.memory import GDAL_CACHE
    from rscd.review.decisions import counts_of
    from rscd.review.layer import check_target, read_change_layer, with_reviews, write_layer
    from rscd.review.page import with_pictures
    from rscd.review.view import open_view

    layer = read_change_layer(args.layer)
    target = layer.path if args.output is None else Path(args.output)
    if args.pictures and target.suffix.lower() != ".gpkg":
        raise UsageError(f"expected a .gpkg for --pictures, found {target}; name one with -o")
    if not args.pictures and (args.t1 or args.t2):
        raise UsageError("expected --t1 and --t2 only with --pictures, found them without; drop it")
    check_target(layer, target, overwrite=args.overwrite)
    layer, found = with_reviews(layer, [Path(path) for path in args.reviews])
    if args.pictures:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
            layer = with_pictures(layer, open_view(layer, args.t1, args.t2))
    write_layer(layer, target, _style(layer))
    counts = counts_of(layer.table)
    log.info("%s", ", ".join(f"{count} {status}" for status, count in counts.items()))
    if found.conflicts:
        log.warning(
            "%d polygons were decided differently by two reviews; the latest decision counts: ids "
            "%s",
            *(len(found.conflicts), _some(found.conflicts)),
        )
    data = {"output": str(target), **counts, "conflicts": list(found.conflicts)}
    Shown(data, [str(target)]).emit(as_json=args.json)


def run_export(args: argparse.Namespace) -> None:
    """Decisions out of the layer."""
    from pathlib import Path

    from rscd.review.decisions import write_review
    from rscd.review.layer import read_change_layer, review_of

    target = Path(args.output)
    if target.exists() and not args.overwrite:
        raise OutputError(
            f"expected a new file, found {target}; choose another name, or --overwrite"
        )
    review = review_of(read_change_layer(args.layer))
    write_review(target, review)
    log.info("%d decisions", len(review.decisions))
    data = {"output": str(target), "decisions": len(review.decisions)}
    Shown(data, [str(target)]).emit(as_json=args.json)


def _style(layer: "ChangeLayer") -> str:
    from rscd.export.style import review_qml

    return review_qml(dated={"t1", "t2"} <= {*layer.table.columns})


def _some(numbers: Any) -> str:
    most = 10
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
