"""``rscd model``: list and show models, and export weights from checkpoints."""

import argparse
from typing import TYPE_CHECKING, Any

from rscd.cli.options import Shown, add_action, add_json, add_verbosity, emit_json
from rscd.cli.parser import Parser

if TYPE_CHECKING:
    from rscd.inference.predictor import Model


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser("model", help="list, show and export models")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = add_action(actions, "list", "names for -m, the defaults first")
    listing.set_defaults(run=run_list)
    showing = add_action(actions, "show", "details of one model")
    showing.add_argument("name", metavar="NAME|FILE")
    showing.add_argument(
        "--stac", action="store_true", help="print its STAC item (extension mlm) as JSON"
    )
    showing.set_defaults(run=run_show)
    exporting = add_action(
        actions, "export", "write a network as safetensors, as an ONNX model, or for torch.export"
    )
    exporting.add_argument("source", metavar="NAME|FILE", help="checkpoint, weights or buildings")
    exporting.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=".safetensors (its card is also written beside it), .onnx or .pt2",
    )
    exporting.add_argument(
        "--target",
        choices=("deepness",),
        help="deepness: an .onnx for that plugin of QGIS, which is given a raster of rscd stack",
    )
    exporting.add_argument(
        "--teacher",
        action="store_true",
        help="the teacher of kdmsi or scene in place of the student, which predicts",
    )
    exporting.set_defaults(run=run_export)
    for action in (listing, showing, exporting):
        add_json(action)
        add_verbosity(action)


def run_list(args: argparse.Namespace) -> None:
    """Print names with one line each."""
    from rscd.inference.detectors.registry import (
        DEEP_DETECTORS,
        DEFAULT_DETECTOR,
        DETECTORS,
        ONE_BAND_DETECTOR,
    )
    from rscd.inference.models import CEG, model_names
    from rscd.inference.shipped import GSD_RANGE_M, MIN_BANDS, SHIPPED, shipped_card
    from rscd.segmenters.segmenter import SEGMENTERS

    low, high = GSD_RANGE_M
    first = f"default for {MIN_BANDS} bands or more of {low:g} to {high:g} m"
    defaults = {
        SHIPPED: first,
        DEFAULT_DETECTOR: "default otherwise",
        ONE_BAND_DETECTOR: "default for one band",
    }
    summaries = {SHIPPED: str(shipped_card()["summary"])}
    plain = {name: make().summary for name, make in DETECTORS.items()} | DEEP_DETECTORS
    summaries |= {name: plain[name] for name in model_names()[1:]}
    summaries |= {
        f"{CEG}:{name}": f"by prompts: {backend.summary}" for name, backend in SEGMENTERS.items()
    }
    lines = [
        f"{name:<16} {summary}{f' ({defaults[name]})' if name in defaults else ''}"
        for name, summary in summaries.items()
    ]
    Shown(summaries, lines).emit(as_json=args.json)


def run_show(args: argparse.Namespace) -> None:
    """The card of a model."""
    from dataclasses import asdict

    from rscd.inference.about import ABOUT
    from rscd.inference.models import CEG, load_model
    from rscd.segmenters.segmenter import backend_options, find_backend

    prefix, _, segmenter = args.name.partition(":")
    if args.stac:
        from rscd.export.stac import model_item

        emit_json(model_item(_described(load_model(args.name))))
        return
    if prefix == CEG:  # nothing is loaded
        card = {
            "name": args.name,
            "summary": find_backend(segmenter).summary,
            "result": "polygons of whole objects, kind appeared or vanished",
            "options": backend_options(segmenter),
        }
    else:
        model = load_model(args.name)
        card = _described(model) | {"tiling": asdict(model.tiling)}
        if (about := ABOUT.get(args.name.partition(":")[0])) is not None:
            card |= {"use": about.use, "limits": list(about.limits)}
    Shown(card, [f"{key}: {value}" for key, value in card.items()]).emit(as_json=args.json)


def _described(model: "Model") -> dict[str, Any]:
    return model.card() | {"summary": model.summary}


def run_export(args: argparse.Namespace) -> None:
    """Write the network."""
    from pathlib import Path

    from rscd.base.errors import UsageError
    from rscd.inference.models import CEG, model_names
    from rscd.inference.shipped import SHIPPED, weights_path

    target = Path(args.output)
    source = weights_path(args.source)
    named = args.source.partition(":")[0] in {CEG, *model_names()} - {SHIPPED}
    if named and not source.is_file():
        raise UsageError(
            f"expected {SHIPPED} or the file of a trained network, found {args.source}, which is "
            "not one network to export; see rscd model list"
        )
    if args.target is not None:
        if target.suffix != ".onnx":
            raise UsageError(f"expected -o ending in .onnx with --target, found {target}")
        from rscd.inference.deepness import export_deepness as write
    elif target.suffix == ".safetensors":
        from rscd.inference.network import export_weights as write
    elif target.suffix in (".onnx", ".pt2"):
        from rscd.inference.graphs import export_graph as write
    else:
        raise UsageError(f"expected -o ending in .safetensors, .onnx or .pt2, found {target}")
    card = write(source, target, teacher=args.teacher)
    Shown(card, [str(target)]).emit(as_json=args.json)
