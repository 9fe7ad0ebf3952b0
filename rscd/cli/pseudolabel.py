"""``rscd pseudolabel``: masks predicted by a model, as files beside the pairs."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.border import border, reason
from rscd.base.errors import DataError
from rscd.base.version import version
from rscd.cli import pseudolabel_segmenter
from rscd.cli.options import (
    NAMED_SCALES,
    Shown,
    add_bands,
    add_device,
    add_json,
    add_verbosity,
    refuse_failed,
    word_or_fraction,
)
from rscd.cli.parser import Parser
from rscd.cli.segmenting import USE

if TYPE_CHECKING:
    from rscd.base.types import Progress, Provenance
    from rscd.cli.pseudolabel_source import Source
    from rscd.evaluation.thresholds import Found
    from rscd.inference.network import Network
    from rscd.inference.views import ImageMaps

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  rscd pseudolabel data/whu256 --checkpoint runs/kd/best.ckpt --split train
  rscd pseudolabel runs/kd/config.yaml --checkpoint runs/kd/best.ckpt -o masks
  rscd pseudolabel LEVIR-CD --segmenter sam3 -o levir_vl
  rscd pseudolabel t1.tif t2.tif --segmenter buildings -o store
"""

MORE = f"""\
A stopped run resumes where it was; pairs that cannot be read are left out and named. Train on the
masks with mask_from of PairFolder: pseudo, or the folder that -o names. A scene gets a GeoTIFF on
its grid, -o FOLDER/NAME.tif: train on it as labels of a Scene.

{pseudolabel_segmenter.MORE}
"""

CHECKPOINT = "--checkpoint"
"""The other use of the command."""

THRESHOLDS = ("val", "train_oracle", "otsu")


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "pseudolabel",
        help="make masks for a folder of pairs with a model",
        usage="rscd pseudolabel DIR (--checkpoint FILE | --segmenter NAME) [options]\n"
        "       rscd pseudolabel T1 T2 (--checkpoint FILE | --segmenter NAME) -o FOLDER [options]\n"
        "       rscd pseudolabel CONFIG.yaml --checkpoint FILE -o FOLDER [options]",
        description="Make masks for a folder of image pairs, kept beside them, or for scenes.",
        epilog=EPILOG,
        more=MORE,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "dataset",
        metavar="DIR|T1|CONFIG",
        help="folder of image pairs, a raster, or the configuration of a training",
    )
    parser.add_argument("t2", nargs="?", metavar="T2", help="the second of two rasters")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="FILE", help="a trained network (kdmsi)")
    source.add_argument(
        "--segmenter", metavar="NAME", help="what finds objects by words; see rscd model list"
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder for the result (default: in the dataset)"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="default: all pairs; of a configuration: train"
    )
    add_bands(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace masks of another run")
    add_json(parser)
    add_verbosity(parser)
    _add_checkpoint(parser)
    pseudolabel_segmenter.add_segmenter(parser)
    add_device(parser.group("running", rare=True))


def _add_checkpoint(parser: Parser) -> None:
    group = parser.group("with --checkpoint", use=CHECKPOINT)
    group.add_argument(
        "--threshold",
        default="val",
        metavar="val|otsu|train_oracle|0..1",
        help="val (default): the best on the masks of --val-split; otsu: from the maps alone; "
        "train_oracle: the best on the true masks of the pairs themselves, as in KD-MSI's paper",
    )
    rare = parser.group("more with --checkpoint", use=CHECKPOINT, rare=True)
    rare.add_argument(
        "--name", help="folder beside the dates (pseudo); -o FOLDER: one elsewhere, such as a run's"
    )
    rare.add_argument(
        "--labels",
        metavar="FILE",
        help="image-level labels, lines NAME.png,0,0,L (default: the split's list); of two "
        "rasters: polygons or a table with the column changed",
    )
    rare.add_argument(
        "--no-gate",
        action="store_true",
        help="predict all pairs; by default those labelled 0 get empty masks without prediction",
    )
    rare.add_argument(
        "--maps",
        choices=("msi", "mi", "single", "cam"),
        default="msi",
        help="of the checkpoint's network, which for kdmsi is the student: multi-scale sigmoid "
        "inference (default), the same of activation maps, one pass, or its activation map",
    )
    rare.add_argument(
        "--scales",
        default="paper",
        metavar="0.5,1,1.5,2",
        help=f"scales of msi and mi; {NAMED_SCALES} (default paper)",
    )
    rare.add_argument(
        "--val-split", metavar="NAME", default="val", help="split or stream for --threshold val"
    )
    rare.add_argument(
        "--flip",
        choices=("none", "width", "height", "both"),
        default="width",
        help="axes flipped with the scales (default width)",
    )
    rare.add_argument(
        "--geometry",
        choices=("pad", "reference"),
        default="pad",
        help="how to treat sides that are not multiples of 64: pad (default) by reflection, or "
        "reference, as the authors' code",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    args.parser.refuse_idle(args, CHECKPOINT if args.segmenter is None else USE)
    if args.segmenter is not None:
        pseudolabel_segmenter.run_segmenter(args)
        return
    from rscd.cli.progress import progress_bar

    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = label_by_checkpoint(args, progress)
    if not args.json:
        text = "%(written)d masks written, %(pairs)d in all; threshold %(threshold).3g by %(rule)s"
        log.info(text, result)
    Shown(result, result["folders"]).emit(as_json=args.json)
    refuse_failed(list(result["failed"]), result["pairs"])


def label_by_checkpoint(args: argparse.Namespace, progress: "Progress") -> dict[str, Any]:
    """Choose the threshold, unless an earlier run of the same recipe did, and write the masks."""
    import torch

    from rscd.cli.pseudolabel_source import source_of
    from rscd.evaluation.thresholds import Found
    from rscd.inference.network import load_network

    asked = word_or_fraction("--threshold", args.threshold, THRESHOLDS)
    rule = Found(asked, "fixed") if isinstance(asked, float) else asked
    # the current thread count: another would change rounding in later stages of this process
    network = load_network(Path(args.checkpoint), args.device, torch.get_num_threads())
    source = source_of(args, network)
    maps = _maps(args, network, eight_bit=source.eight_bit)
    recipe = _recipe(args, network.sha256, source, rule)
    with source.held(recipe, overwrite=args.overwrite) as earlier:
        if earlier is None:
            found = rule if isinstance(rule, Found) else _choose(args, rule, source, maps, progress)
        else:
            with border(lambda error: _not_noted(args.output or args.name, error)):
                found = Found(**earlier["found"])
                if not 0 <= found.threshold <= 1:
                    raise ValueError(f"threshold {found.threshold}")
        source.note({"recipe": recipe, "found": asdict(found)} | {"software": f"rscd {version()}"})
        summary = source.write(maps, found.threshold, progress)
    return asdict(summary) | asdict(found)


def _not_noted(place: str | None, error: Exception) -> DataError:
    return DataError(
        f"expected the threshold of an earlier run in run.json of {place or 'pseudo'}, found "
        f"damage ({reason(error)}); remove that file"
    )


def _choose(
    args: argparse.Namespace, rule: str, source: "Source", maps: "ImageMaps", progress: "Progress"
) -> "Found":
    from rscd.evaluation.thresholds import PAPER_CRITERION, VALIDATION_CRITERION, otsu, search
    from rscd.labels.from_checkpoint import labelled_maps, positive_maps

    data, _ = source.labelled(rule)
    if rule == "otsu":
        height, width = data[0]["image"].shape[-2:]
        n_pixels = len(data) * height * width
        return otsu(positive_maps(data, maps, progress=progress), n_pixels)
    pairs = labelled_maps(data, maps, gated=not args.no_gate, progress=progress, stage="threshold")
    return search(pairs, rule, PAPER_CRITERION if rule == "train_oracle" else VALIDATION_CRITERION)


def _maps(args: argparse.Namespace, network: "Network", *, eight_bit: bool) -> "ImageMaps":
    from rscd.inference.views import ImageMaps, parse_scales
    from rscd.methods.parts.multiscale import Views

    views = Views(
        parse_scales(args.scales),
        flip=args.flip,
        geometry=args.geometry,
        eight_bit=eight_bit,
        multiple=network.tiling.multiple,
    )
    return ImageMaps(network, args.maps, views)


def _recipe(
    args: argparse.Namespace, checkpoint: str, source: "Source", rule: "str | Found"
) -> "Provenance":
    """All that decides the masks, and nothing else."""
    names = ("split", "bands", "no_gate", "maps", "scales", "flip", "geometry", "threshold")
    recipe: Provenance = {name: getattr(args, name) for name in (*names, "val_split")}
    recipe |= {"checkpoint": checkpoint, **source.recipe()}
    if isinstance(rule, str):
        recipe["chosen_from"] = source.labelled(rule)[1]
    return recipe
