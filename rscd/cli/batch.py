"""``rscd batch``: many pairs of rasters, with one table, layer and catalogue over all."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from rscd.base.errors import UsageError
from rscd.cli.options import (
    Shown,
    add_json,
    add_verbosity,
    refuse_failed,
    whole,
)
from rscd.cli.parser import Parser
from rscd.cli.predict import add_detection, add_running, engine, predict_options
from rscd.cli.scene import add_reading

if TYPE_CHECKING:
    from rscd.pipeline.batch import Work

log = logging.getLogger(__name__)

WRITES = ("polygons", "mask", "prob", "preview")

EPILOG = """\
examples:
  rscd batch pairs.csv -o changes/                  # columns t1, t2; id, aoi, t1_date, t2_date
  rscd batch pairs.csv -o changes/ --shard 3/20     # the third of 20 processes
"""

MORE = """\
Two folders hold images of the same names; two ItemCollections, items of the same places.

The same command again does what is missing or failed, and what images replaced meanwhile change;
other settings need another folder, or --overwrite. In OUT_DIR: runs.parquet, a line per pair;
change.gpkg (or .parquet), the polygons of all pairs, where pairs overlap without doubles; a folder
per pair by its id, with a STAC item; collection.json, a STAC collection of these. They are renewed
once no pair is missing: with --shard by the last process.

Two polygons of different pairs are doubles if they share at least half of the smaller one, the time
between their dates overlaps, and not one appeared where the other vanished. The larger one stays.

A STAC ItemCollection is taken place by place (grid:code, else proj:transform, else bbox), each item
with the next later one; of two, the items of a place with each other.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "batch",
        help="find what changed in many pairs of rasters",
        usage="rscd batch PAIRS -o OUT_DIR [-m MODEL] [options]",
        description="Find what changed in many pairs of rasters; one that fails stops no other.",
        epilog=EPILOG,
        more=MORE,
    )
    parser.set_defaults(run=run, aoi=None, bbox=None, t1_date=None, t2_date=None)
    parser.add_argument(
        "pairs",
        nargs="+",
        metavar="PAIRS",
        help="table (.csv, .parquet), STAC ItemCollection (.json), two folders or collections",
    )
    group = parser.group("output")
    group.add_argument(
        "-o", "--output", required=True, metavar="OUT_DIR", help="folder; made if missing"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="do all again, and replace what lies there"
    )
    group.add_argument(
        "--write",
        default="polygons",
        metavar="A,B",
        help=f"what to write of each pair: {', '.join(WRITES)} (default polygons)",
    )
    group.add_argument(
        "--format",
        choices=("gpkg", "parquet"),
        default="gpkg",
        help="of polygons (default gpkg)",
    )
    add_json(group)
    add_verbosity(group)
    many = parser.group("many pairs")
    many.add_argument(
        "--retries", type=whole, default=0, metavar="N", help="try what failed N times more"
    )
    many.add_argument("--shard", default="1/1", metavar="K/N", help="do the K-th of N parts only")
    add_detection(parser)
    add_reading(parser.group("scene", rare=True))
    add_running(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from dataclasses import asdict

    from rscd.cli.progress import progress_bar
    from rscd.pipeline.batch import run_batch
    from rscd.pipeline.pairs import read_pairs

    work, shard = _work(args), _shard(args.shard)
    pairs = read_pairs(args.pairs)
    if args.dry_run:
        plan = {"pairs": len(pairs), "of_this_shard": len(pairs[shard[0] - 1 :: shard[1]])}
        Shown(plan, [f"{name}: {value}" for name, value in plan.items()]).emit(as_json=args.json)
        return
    quiet = args.verbosity < 0
    with engine(args) as cluster, progress_bar(quiet=quiet) as progress:
        summary = run_batch(
            pairs,
            work,
            cluster=cluster,
            shard=shard,
            retries=args.retries,
            overwrite=args.overwrite,
            progress=progress,
        )
    log.info(
        "%d pairs done, %d finished before, %d failed",
        *(summary.done, summary.skipped, summary.failed),
    )
    if summary.missing:
        log.info(
            "%d pairs of other shards are missing: the files over all pairs are written when the "
            "last is done",
            summary.missing,
        )
    Shown(asdict(summary), summary.outputs).emit(as_json=args.json)
    refuse_failed(list(summary.failures), summary.done + summary.skipped + summary.failed)


def _work(args: argparse.Namespace) -> "Work":
    from pathlib import Path

    from rscd.pipeline.batch import Work

    writes = tuple(dict.fromkeys(args.write.split(",")))
    wrong = [what for what in writes if what not in WRITES]
    if wrong:
        raise UsageError(f"expected --write of {', '.join(WRITES)}, found {wrong[0]!r}")
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"expected a folder for -o, found the file {folder}; name another")
    return Work(
        folder=folder,
        options=predict_options(args),
        writes=tuple(what for what in WRITES if what in writes),
        suffix=f".{args.format}",
        gsd_m=args.gsd,
    )


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise UsageError(f"expected --shard K/N with K from 1 to N, found {text!r}")
    return int(number), int(of)
