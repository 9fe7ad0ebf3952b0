"""``rscd model``: list and show models, and export weights from checkpoints."""

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rscd.cli.options import (
    Shown,
    add_action,
    add_actions,
    add_json,
    add_verbosity,
    emit_json,
    in_words,
)

if TYPE_CHECKING:
    from rscd.inference.predictor import Model

EXAMPLES = (
    "rscd model list",
    "rscd model show buildings",
    "rscd model export runs/supervised_town/best.ckpt -o town.safetensors",
    "rscd model export buildings -o buildings.onnx",
)

FIRST = ("name", "summary", "use", "limits", "licence", "threshold", "min_score", "min_area_m2")
"""What `rscd model show` begins with."""


def add(commands: Any) -> None:
    """Declare the command."""
    actions = add_actions(commands, "model", "list, show and export models", EXAMPLES)
    listing = add_action(
        actions, "list", "names for -m, the defaults first, then for --segmenter", EXAMPLES[0]
    )
    listing.set_defaults(run=run_list)
    showing = add_action(actions, "show", "details of one model", EXAMPLES[1])
    showing.add_argument(
        "name", metavar="NAME|FILE", help="name of rscd model list, or a weights file"
    )
    showing.add_argument(
        "--stac", action="store_true", help="print its STAC item (extension mlm) as JSON"
    )
    showing.set_defaults(run=run_show)
    exporting = add_action(
        actions,
        "export",
        "write a network as safetensors, as an ONNX model, or for torch.export",
        *EXAMPLES[2:],
    )
    exporting.add_argument("source", metavar="NAME|FILE", help="checkpoint, weights or buildings")
    exporting.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=".safetensors (its card is also written beside it), .onnx or .pt2",
    )
    exporting.add_argument("--overwrite", action="store_true", help="replace an existing file")
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
        f"{CEG}:{name}": f"for --segmenter: {backend.summary}"
        for name, backend in SEGMENTERS.items()
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
    Shown(card, list(_lines(card))).emit(as_json=args.json)


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    """A card for people: what it is and is not for comes first, lists have a line for each."""
    first = [key for key in FIRST if key in card]
    for key in (*first, *(key for key in card if key not in first)):
        value = card[key]
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            yield f"{key}:"
            yield from (f"  - {one}" for one in value)
        elif isinstance(value, dict) and any(isinstance(one, dict) for one in value.values()):
            yield f"{key}:"
            yield from (f"  {name}: {in_words(one)}" for name, one in value.items())
        else:
            yield f"{key}: {in_words(value, key)}"


def _described(model: "Model") -> dict[str, Any]:
    return model.card() | {"summary": model.summary}


def run_export(args: argparse.Namespace) -> None:
    """Write the network."""
    from pathlib import Path

    from rscd.base.errors import UsageError
    from rscd.export.targets import check_outputs
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
    if source.suffix in (".onnx", ".pt2"):
        raise UsageError(
            f"expected a checkpoint, a .safetensors file or {SHIPPED}, found {source}, which is "
            "exported already; give the file that it was made of"
        )
    beside = [target.with_suffix(".json")] if target.suffix == ".safetensors" else []
    check_outputs([target, *beside], [source], overwrite=args.overwrite)
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
