"""``rscd evaluate``: a model on a labelled split, or a finished map against a reference."""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.begun import Begun
from rscd.base.errors import DataError, UsageError
from rscd.base.place import is_file_name
from rscd.cli import evaluate_segmenter
from rscd.cli.options import (
    Shown,
    add_bands,
    add_device,
    add_json,
    add_least,
    add_verbosity,
    add_views,
    bands_of,
    flip_of,
    fraction,
    plain_options,
    refuse_failed,
    size_hw,
)
from rscd.cli.parser import Parser
from rscd.cli.scene import add_size
from rscd.cli.segmenting import USE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from geopandas import GeoDataFrame

    from rscd.base.types import Progress
    from rscd.evaluation.dataset import LabelledPairs
    from rscd.evaluation.report import Report
    from rscd.evaluation.rows import Row
    from rscd.inference.views import ImageMaps

    Errors = Callable[[GeoDataFrame], None] | None
    """Takes the true, false and missed objects, where they are wanted."""

EPILOG = """\
examples:
  rscd evaluate levir-cd --split test -m weights.safetensors -o sheet.png
  rscd evaluate change.tif reference.tif --unlabelled 127 --change-value 255
  rscd evaluate change.geojson buildings.gpkg --like 2023.tif -o errors.gpkg
"""

MORE = """\
  rscd evaluate levir-cd --split test -m irmad --json
  rscd evaluate ChangeSim -m scene.ckpt --size 520,520   # published numbers are of this size
  rscd evaluate levir-cd --split test --segmenter buildings --gamma 0.1,0.5,0.8

A folder of image pairs: every pair of the split is predicted as a small scene (training-free
detectors are fitted to each pair), and the counts of all pairs are pooled. The metrics at the
model's threshold are followed by those at the best threshold for this same split, which are not a
fair estimate.
Street sets (ChangeSim, PCD, VL-CMU-CD, or folders with t0/ t1/ mask/) are recognised by layout;
their conditions (normal, dusty, dark; TSUNAMI, GSV; each folder) are also measured separately.
With --segmenter, change events: pixel, instance and mixed level are counted at each gamma, on all
pixels (where one below gamma is no change) and on the reliable ones alone.

A prediction and a truth: rasters or vectors in any CRS, compared on the pixels of the truth raster
(or of the prediction where the truth is a vector). Labelled pixels that the prediction does not
cover, or where it has nodata, are ignored and their fraction is reported.

Objects are the connected regions of change: for a model those that rscd predict would write as
polygons with --no-regularize (its least area and score), for a raster and the truth all. Two with
an IoU of 0.5 or more match. In a folder, a damaged pair is skipped and named, and the exit code is
1.
Polygons of pictures without georeferencing have x = column, y = -row, as QGIS shows them; rows that
count downwards are recognised and said.
"""

FOLDER = "a folder of image pairs"
MAPS = "a prediction and a truth"
"""The two uses of the command."""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "evaluate",
        help="measure a model on a labelled split, or a map against a reference",
        usage="rscd evaluate DIR [--split NAME] [-m MODEL | --segmenter NAME] [options]\n"
        "       rscd evaluate PREDICTION TRUTH [options]",
        description="Measure how well change is found, in pixels, objects and square metres.",
        epilog=EPILOG,
        more=MORE,
    )
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="DIR|PREDICTION", help=f"{FOLDER}, or a map")
    parser.add_argument("truth", nargs="?", metavar="TRUTH", help="reference raster or vector")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="OUT",
        help="sheet of samples (.png), or true, false and missed objects (.gpkg .geojson .fgb "
        ".parquet); repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument(
        "--threshold",
        type=fraction,
        metavar="0..1",
        help="least probability of change (default: the model's)",
    )
    parser.add_argument(
        "--change-value",
        type=_values,
        metavar="V,V",
        help="values of the labels that mean change (default: 255, or 1, beside 0)",
    )
    parser.add_argument(
        "--unlabelled",
        type=_values,
        metavar="V,V",
        help="values of the labels to ignore; none: ignore no value (default: declared nodata)",
    )
    add_json(parser)
    add_verbosity(parser)
    _add_split(parser)
    evaluate_segmenter.add_segmenter(parser)
    _add_maps(parser)
    more = parser.group("more outputs", rare=True)
    more.add_argument("--reliability", metavar="FILE.png", help="also write a reliability diagram")
    more.add_argument(
        "--rows",
        metavar="FILE.csv",
        help="also write the metrics as rows of a table that several evaluations fill",
    )
    more.add_argument(
        "--row", metavar="NAME", help="name of the row; replaces that of the same name"
    )


def _add_split(parser: Parser) -> None:
    group = parser.group(f"for {FOLDER}", use=FOLDER)
    group.add_argument("--split", metavar="NAME", help="default: all pairs")
    group.add_argument(
        "-m",
        "--model",
        metavar="NAME|FILE",
        help="see rscd model list; default: as in rscd predict",
    )
    add_bands(group)
    group.add_argument(
        "--size", type=size_hw, metavar="H,W", help="resize the pictures of a street set"
    )
    add_size(group)
    rare = parser.group(f"more for {FOLDER}", use=FOLDER, rare=True)
    rare.add_argument(
        "--split-file",
        metavar="FILE",
        help="split or folder of lists, of which --split names a part; see rscd data split",
    )
    add_least(rare, *[" (default: the model's own, as in rscd predict)"] * 2)
    add_views(rare)
    rare.add_argument(
        "--maps",
        choices=("msi", "mi", "single", "cam"),
        help="measure a map of each whole pair, as rscd pseudolabel makes them, in place of the "
        "prediction; scales of msi and mi: --msi (default paper)",
    )
    rare.add_argument(
        "--gate",
        action="store_true",
        help="predict no change for pairs whose image-level label says so, as in KD-MSI's tables "
        "of training maps",
    )
    rare.add_argument(
        "--exchange-dates", action="store_true", help="show t2 to the model as the earlier date"
    )
    add_device(rare)


def _add_maps(parser: Parser) -> None:
    group = parser.group(f"for {MAPS}", use=MAPS)
    group.add_argument(
        "--predicted-value",
        type=_values,
        metavar="V,V",
        help="values of the prediction that mean change (default: 255, or 1, beside 0)",
    )
    group.add_argument(
        "--missing-is-no-change",
        action="store_true",
        help="labelled pixels without prediction are no change",
    )
    group.add_argument("--like", metavar="FILE", help="raster whose pixel grid to use")
    group.add_argument(
        "--images", nargs=2, metavar=("T1", "T2"), help="images to show in the picture"
    )


SHEET = ".png"


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    _check_rows(args)
    begun = _begun(args)
    if args.segmenter is not None and args.truth is None:
        args.parser.refuse_idle(args, USE, FOLDER)
        _run_segmenter(args)
        return
    args.parser.refuse_idle(args, FOLDER if args.truth is None else MAPS)
    from rscd.cli.progress import progress_bar
    from rscd.evaluation.judge import write_errors
    from rscd.evaluation.rows import rows_of

    evaluate = _evaluate_split if args.truth is None else _evaluate_maps
    layers: list[str] = _layers(args)
    tables: list[GeoDataFrame] = []
    with begun.noted() if begun else nullcontext():
        with progress_bar(quiet=args.verbosity < 0) as progress:
            report = evaluate(args, progress, tables.append if layers else None)
        for path in layers:
            write_errors(tables, Path(path), report.json())
        if args.reliability is not None:
            _write_reliability(report, Path(args.reliability))
    lines = [report.text(), *args.output, *filter(None, (args.reliability,))]
    lines += _with_rows(args, partial(rows_of, report))
    Shown(report.json(), lines).emit(as_json=args.json)
    refuse_failed(list(report.failed), len(report.samples) + len(report.failed))


def _run_segmenter(args: argparse.Namespace) -> None:
    """Change events in place of a change map."""
    from rscd.cli.progress import progress_bar

    with progress_bar(quiet=args.verbosity < 0) as progress:
        report = evaluate_segmenter.evaluate_segmenter(args, progress)
    lines = [report.text(), *_with_rows(args, report.rows)]
    Shown(report.json(), lines).emit(as_json=args.json)
    refuse_failed(list(report.failed), report.subject["pairs"] + len(report.failed))


def _with_rows(args: argparse.Namespace, rows: "Callable[[str], list[Row]]") -> list[str]:
    """Add rows to the table that ``--rows`` names; the whole table, and its file."""
    if args.rows is None:
        return []
    from rscd.evaluation.rows import add_rows, table

    return [table(add_rows(Path(args.rows), rows(args.row))), args.rows]


def _check_rows(args: argparse.Namespace) -> None:
    """Before any work."""
    from rscd.evaluation.rows import read_rows
    from rscd.export.targets import of_kind

    if (args.rows is None) != (args.row is None):
        raise UsageError(
            "expected --rows FILE.csv and --row NAME together, found one; add the other"
        )
    if args.rows is not None:
        read_rows(of_kind(Path(args.rows), (".csv",), "--rows"))


def _evaluate_split(args: argparse.Namespace, progress: "Progress", errors: "Errors") -> "Report":
    if not Path(args.source).exists() and is_file_name(args.source):
        raise DataError(
            f"expected a folder of image pairs, or two maps, found nothing at {args.source}; check "
            "the path"
        )
    if not Path(args.source).is_dir():
        raise UsageError(
            f"expected a folder of image pairs, or two maps, found only {args.source}; "
            "name the truth as the second argument"
        )
    from rscd.evaluation.dataset import Split, evaluate_split, facts
    from rscd.evaluation.report import extremes
    from rscd.inference.cores import network_threads
    from rscd.inference.models import scene_model

    data, conditions = _labelled_pairs(args)
    model = scene_model(
        args.model,
        facts(data, args.gsd),
        args.device,
        network_threads(),
        msi=None if args.maps else args.msi,
        tta=args.tta,
        flip=flip_of(args, averaged=args.maps in ("msi", "mi")),
    )
    split = Split(
        data,
        model,
        args.threshold,
        conditions,
        min_area_m2=args.min_area,
        min_score=args.min_score,
        gsd_m=args.gsd,
        whole_map=None if args.maps is None else _whole_map(args, eight_bit=data.eight_bit),
        gated=args.gate,
        exchanged=args.exchange_dates,
    )
    report = evaluate_split(split, progress, errors=errors)
    for sheet in _sheets(args):
        chosen = extremes(report.samples)
        _write_sheet([(group, s, split.row(s)) for group, s in chosen], sheet)
    return report


def _whole_map(args: argparse.Namespace, *, eight_bit: bool) -> "ImageMaps":
    from rscd.base.errors import ModelError
    from rscd.inference.models import load_model
    from rscd.inference.network import Network
    from rscd.inference.views import ImageMaps, parse_scales
    from rscd.methods.parts.multiscale import Views

    network = None if args.model is None else load_model(args.model, args.device, torch=True)
    if not isinstance(network, Network):
        raise ModelError(
            f"expected a trained network for --maps, found {args.model or 'none'}; give -m "
            "FILE.safetensors or FILE.ckpt"
        )
    scales = parse_scales(args.msi or "paper")
    views = Views(scales, flip=args.flip, eight_bit=eight_bit, multiple=network.tiling.multiple)
    return ImageMaps(network, args.maps, views)


def _labelled_pairs(
    args: argparse.Namespace,
) -> "tuple[LabelledPairs, Mapping[str, Sequence[int]]]":
    """The pairs of a folder, and their conditions if there are several."""
    from rscd.data.street_conditions import street_conditions
    from rscd.evaluation.dataset import labelled_folder
    from rscd.geo.labels import Values

    street = street_conditions(args.source, args.split, args.size, args.split_file)
    if street is not None:
        unused = ("change_value", "unlabelled", "bands", "gate")
        args.parser.refuse(args, unused, "pairs that are not of streets", args.source)
        return street, street.conditions if len(street.parts) > 1 else {}
    args.parser.refuse(args, ("size",), "a street set", args.source)
    rule = Values(args.change_value, args.unlabelled)
    return labelled_folder(
        args.source, args.split, rule, bands_of(args), args.split_file, gated=args.gate
    ), {}


def _evaluate_maps(args: argparse.Namespace, progress: "Progress", errors: "Errors") -> "Report":
    if Path(args.source).is_dir():
        raise UsageError(
            f"expected a raster or vector as prediction beside the truth {args.truth}, found the "
            f"folder {args.source}; for a folder of image pairs name no truth"
        )
    sheets = _sheets(args)
    if args.images is not None and not sheets:
        raise UsageError("expected -o SHEET.png with --images, found none; add it")
    from rscd.evaluation.maps import MapOptions, evaluate_maps

    options = MapOptions(
        threshold=args.threshold,
        change_values=args.change_value,
        predicted_values=args.predicted_value,
        unlabelled=args.unlabelled,
        missing_is_no_change=args.missing_is_no_change,
        like=args.like,
    )
    return evaluate_maps(
        args.source,
        args.truth,
        options,
        images=None if args.images is None else tuple(args.images),
        sheet=partial(_write_sheet, path=sheets[0]) if sheets else None,
        errors=errors,
        progress=progress,
    )


def _sheets(args: argparse.Namespace) -> list[str]:
    return [path for path in args.output if Path(path).suffix.lower() == SHEET]


def _layers(args: argparse.Namespace) -> list[str]:
    return [path for path in args.output if Path(path).suffix.lower() != SHEET]


def _write_sheet(chosen: Any, path: str) -> None:
    from rscd.evaluation.sheet import write_sheet

    if not chosen:
        raise DataError(
            "expected a sample with change for the picture, found none, neither in the truth nor "
            "predicted; drop -o"
        )
    captions = [f"{group}: IoU {sample.score:.2f}\n{sample.name}" for group, sample, _ in chosen]
    write_sheet([row for _, _, row in chosen], captions, Path(path))


def _write_reliability(report: "Report", path: Path) -> None:
    from rscd.evaluation.sheet import write_reliability

    if report.probabilities is None:
        raise UsageError(
            "expected probabilities for --reliability, found a prediction of classes; give the "
            "raster of rscd predict --prob"
        )
    write_reliability(report.probabilities, path)


def _begun(args: argparse.Namespace) -> Begun | None:
    """The files to write, checked before any work; None for none."""
    from rscd.export.outputs import files_beside
    from rscd.export.style import is_own_style
    from rscd.export.targets import check_outputs, of_kind
    from rscd.export.vector import SUFFIXES as VECTORS

    if len(_sheets(args)) > 1:
        raise UsageError(f"expected one picture, found {' and '.join(_sheets(args))}; drop one")
    files = [of_kind(Path(path), (SHEET, *VECTORS), "-o") for path in args.output]
    if args.reliability is not None:
        files.append(of_kind(Path(args.reliability), (SHEET,), "--reliability"))
    begun = Begun(tuple(files), plain_options(args)) if files else None
    beside = (file for path in _layers(args) for file in files_beside(Path(path)))
    files += [file for file in beside if not is_own_style(file)]
    inputs = [args.source, args.truth, args.like, args.model, *(args.images or ())]
    may_replace = args.overwrite or (begun is not None and begun.before)
    check_outputs(files, [path for path in inputs if path], overwrite=may_replace)
    return begun


def _values(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers such as 127 or 1,2, found {text!r}"
        ) from None
