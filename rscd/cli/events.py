"""``rscd events``: what appeared, vanished and stayed between two dates."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.begun import Begun
from rscd.base.border import kind_of
from rscd.base.errors import UsageError
from rscd.cli import events_of_images
from rscd.cli.options import (
    Shown,
    add_json,
    add_min_area,
    add_outputs,
    add_verbosity,
    not_negative,
    parse_pairs,
    plain_options,
)
from rscd.cli.parser import Parser
from rscd.cli.scene import add_layer_options
from rscd.cli.segmenting import MORE as SEGMENTERS
from rscd.cli.segmenting import USE, add_delta

if TYPE_CHECKING:
    from rscd.base.types import Provenance
    from rscd.events.footprints import Footprints
    from rscd.export.targets import Targets

log = logging.getLogger(__name__)

KINDS = ("appeared", "vanished", "kept")
MANY_OUTSIDE = 0.05
"""Fraction of footprints outside the other layer's extent from which a warning is given."""

LAYERS = "two layers of footprints"
"""The other use of the command."""

EPILOG = """\
examples:
  rscd events 2018.gpkg 2024.gpkg -o events.gpkg
  rscd events osm_2019.geojson cadastre.shp -o events.geojson --kinds appeared,vanished
  rscd events t1.tif t2.tif --segmenter buildings -o events.gpkg
"""

MORE = f"""\
A footprint is a change event when its IoU, summed over all footprints of the other date, is at
most --delta. At the default of 0 it overlaps none of them: an extension, a partial demolition or a
new house on the old plot counts as kept. --delta 0.3 reports those too.

Layers may lie in any CRS; the result has that of T1, GeoJSON longitude and latitude. Invalid
outlines are repaired. A footprint of several parts is one. Two layers of one file:
  rscd events city.gpkg city.gpkg --layer-t1 y2018 --layer-t2 y2024 -o events.parquet --class use

{events_of_images.MORE}
{SEGMENTERS}
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "events",
        help="objects that appeared or vanished: from footprints, or from rasters by words",
        usage="rscd events T1 T2 -o FILE [--segmenter NAME] [options]",
        description="Find the objects that appeared, vanished or stayed between two dates: from "
        "two layers of footprints, or from two rasters with --segmenter.",
        epilog=EPILOG,
        more=MORE,
    )
    parser.set_defaults(run=run)
    parser.add_argument("t1", metavar="T1", help="footprints of the earlier date, or a raster")
    parser.add_argument(
        "t2", metavar="T2", help="of the later date; two folders of rasters do as well"
    )
    group = parser.group("output")
    add_outputs(group, "FILE", ".gpkg, .geojson, .fgb or .parquet")
    add_delta(group)
    add_min_area(group)
    add_json(group)
    add_verbosity(group)
    _add_layers(parser)
    events_of_images.add_images(parser)
    add_layer_options(parser.group("formats", rare=True))


def _add_layers(parser: Parser) -> None:
    group = parser.group(LAYERS, use=LAYERS)
    group.add_argument(
        "--kinds",
        default=",".join(KINDS),
        metavar="K,K",
        help="what to write (default appeared,vanished,kept)",
    )
    group.add_argument(
        "--class", dest="class_field", metavar="FIELD", help="field that becomes the column class"
    )
    group.add_argument(
        "--fields", metavar="F,F|none", help="fields to keep (default: those of both layers)"
    )
    rare = parser.group("more on footprints", use=LAYERS, rare=True)
    rare.add_argument("--crs", metavar="CRS", help="CRS of files that carry none")
    rare.add_argument("--layer-t1", metavar="NAME", help="layer of the first file")
    rare.add_argument("--layer-t2", metavar="NAME", help="layer of the second file")
    rare.add_argument(
        "--min-overlap",
        type=not_negative,
        metavar="M2",
        help="shared square metres up to which two footprints do not meet (default 0.1)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    if args.segmenter is not None:
        args.parser.refuse_idle(args, USE)
        events_of_images.run_images(args)
    else:
        args.parser.refuse_idle(args, LAYERS)
        _run_layers(args)


def _run_layers(args: argparse.Namespace) -> None:
    targets = _targets(args)
    begun = Begun(targets.outputs, plain_options(args))
    if not args.overwrite and not begun.before:
        targets.check_new(())
    from rscd.events.footprints import MIN_OVERLAP_M2, footprint_events, read_footprints
    from rscd.export.crs import check_crs
    from rscd.export.style import event_qml
    from rscd.export.vector import write_vector

    for path in (args.t1, args.t2):
        if kind_of(path) == "raster":
            raise UsageError(
                f"expected two layers of footprints, found the raster {path}; for two rasters add "
                "--segmenter buildings, or another of rscd model list"
            )
    layer_options = parse_pairs("--lco", args.lco)
    first = read_footprints(args.t1, layer=args.layer_t1, crs=args.crs)
    second = read_footprints(args.t2, layer=args.layer_t2, crs=args.crs)
    _log_layers(first, second)
    if len(first.polygons):
        left, bottom, right, top = first.polygons[0].bounds
        for path in targets.outputs:
            check_crs(path, first.crs, ((left + right) / 2, (bottom + top) / 2))
    fields = None if args.fields is None else tuple(args.fields.split(","))
    rule: dict[str, Any] = {
        "delta": args.delta,
        "min_overlap_m2": MIN_OVERLAP_M2 if args.min_overlap is None else args.min_overlap,
        "min_area_m2": args.min_area or 0.0,
        "kinds": args.kinds.split(","),
        "class_field": args.class_field,
        "fields": () if args.fields == "none" else fields,
    }
    table = footprint_events(first, second, **rule)
    _warn_outside(first, second)
    _log_names(first, second, rule["fields"])
    counts = {
        kind: {
            "number": int((table["kind"] == kind).sum()),
            "area_m2": round(float(table["area_m2"][table["kind"] == kind].sum()), 1),
        }
        for kind in rule["kinds"]
    }
    with begun.noted():
        for path in targets.outputs:
            write_vector(
                table,
                path,
                provenance=_provenance(args, first, second, rule),
                layer_options=layer_options,
                style=event_qml(dated=False),
            )
    if not args.json:
        found = (f"{c['number']} {kind} ({c['area_m2']:,.0f} m2)" for kind, c in counts.items())
        log.info("%s", ", ".join(found))
    files = [str(path) for path in targets.outputs]
    Shown({"outputs": files, "events": counts}, files).emit(as_json=args.json)


def _targets(args: argparse.Namespace) -> "Targets":
    """The outputs, checked before anything is read."""
    if (args.t1, args.layer_t1) == (args.t2, args.layer_t2) or (
        Path(args.t1).resolve() == Path(args.t2).resolve() and args.layer_t1 == args.layer_t2
    ):
        raise UsageError(
            f"expected footprints of two dates, found {args.t1} twice; name another file, or two "
            "layers of it with --layer-t1 and --layer-t2"
        )
    kinds = args.kinds.split(",")
    if not set(kinds) <= set(KINDS):
        raise UsageError(f"expected --kinds of {','.join(KINDS)}, found {args.kinds}")
    from rscd.export.outputs import is_vector
    from rscd.export.targets import Targets
    from rscd.export.vector import SUFFIXES

    for path in args.output:
        if not is_vector(Path(path)):
            raise UsageError(f"expected an output ending in {' or '.join(SUFFIXES)}, found {path}")
    targets = Targets.of(args.output)
    targets.check_places((args.t1, args.t2))
    return targets


def _log_layers(first: "Footprints", second: "Footprints") -> None:
    from rscd.geo.grid import crs_name

    for date in (first, second):
        if date.repaired:
            log.info("%s: %d invalid outlines repaired", date.name, date.repaired)
        if date.dropped:
            log.warning("%s: %d features without area omitted", date.name, date.dropped)
        if not len(date.polygons):
            log.warning("%s: contains no footprints", date.name)
    if first.crs != second.crs:
        log.info("%s transformed to %s", second.name, crs_name(first.crs))


def _warn_outside(first: "Footprints", second: "Footprints") -> None:
    from rscd.events.footprints import outside

    for date, beyond in zip((first, second), outside(first, second), strict=True):
        if beyond.sum() > MANY_OUTSIDE * len(beyond):
            log.warning(
                "%s: %d of %d footprints are outside the other layer's extent and count as change; "
                "crop both layers to the area mapped at both dates",
                date.name,
                beyond.sum(),
                len(beyond),
            )


def _log_names(first: "Footprints", second: "Footprints", fields: Sequence[str] | None) -> None:
    from rscd.events.footprints import kept_fields, written_names

    kept = kept_fields(first, second, fields)
    renamed = [f"{a} as {b}" for a, b in zip(kept, written_names(kept), strict=True) if a != b]
    if renamed:
        log.info("fields renamed because their names are taken: %s", ", ".join(renamed))
    if fields is None:
        every = dict.fromkeys([*first.attributes.columns, *second.attributes.columns])
        if lost := [str(name) for name in every if name not in kept]:
            log.info("fields of only one layer are omitted: %s (see --fields)", ", ".join(lost))


def _provenance(
    args: argparse.Namespace, first: "Footprints", second: "Footprints", rule: dict[str, Any]
) -> "Provenance":
    from rscd.base.version import version
    from rscd.geo.grid import crs_name
    from rscd.pipeline.provenance import describe_file

    def about(path: str, layer: str | None, date: "Footprints") -> "Provenance":
        return describe_file(path) | {
            "layer": layer,
            "crs": crs_name(date.crs),
            "footprints": len(date.polygons),
            "repaired": date.repaired,
            "left_out": date.dropped,
        }

    return {
        "software": f"rscd {version()}",
        "command": "events",
        "t1": about(args.t1, args.layer_t1, first),
        "t2": about(args.t2, args.layer_t2, second),
        "parameters": rule,
    }
