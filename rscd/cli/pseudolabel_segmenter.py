"""The half of ``rscd pseudolabel`` that looks for words in each date: ``--segmenter``."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rscd.base.errors import UsageError
from rscd.cli.options import Shown, bands_of, not_negative, refuse_failed
from rscd.cli.parser import Parser
from rscd.cli.segmenting import MORE as SEGMENTERS
from rscd.cli.segmenting import add_segmenting, label_options, prompts_of, segmenter_of

if TYPE_CHECKING:
    from rscd.labels.from_segmenter import PairInput
    from rscd.segmenters.prompts import PromptSet

log = logging.getLogger(__name__)

MORE = f"""\
With --segmenter, words are looked for in each date, and objects that are there at one date only
become change labels: vl_change/ (0, 1, 255 = ignore), vl_t1/ and vl_t2/, in STORE or beside the
dates. The segmentations stay in STORE: an interrupted run goes on, and another --gamma or --delta
costs no segmentation.

{SEGMENTERS}"""


def add_segmenter(parser: Parser) -> None:
    """Declare the arguments that go with ``--segmenter``."""
    rare = add_segmenting(parser, "with --segmenter", duplicates="1, all count, as published")
    rare.add_argument(
        "--gamma-seg",
        type=float,
        metavar="0..1",
        help="as --gamma, for vl_t1 and vl_t2 (default: the same)",
    )
    rare.add_argument(
        "--delta",
        type=not_negative,
        default=0.0,
        metavar="IOU",
        help="IoU sum up to which an object appeared or vanished (default 0)",
    )
    rare.add_argument(
        "--min-area",
        type=not_negative,
        default=0.0,
        metavar="M2",
        help="smaller objects take no part",
    )


def run_segmenter(args: argparse.Namespace) -> None:
    """Segment, label, and say what came of it."""
    from dataclasses import asdict, replace

    from rscd.cli.progress import progress_bar
    from rscd.labels.from_segmenter import generate

    prompts = prompts_of(args)
    options = replace(label_options(args), gamma_seg=args.gamma_seg, min_object_m2=args.min_area)
    store = Path(args.output) if args.output else Path(args.dataset) / "vl_store"
    pairs = _pairs(args, prompts, store)
    segmenter = segmenter_of(args)
    with progress_bar(quiet=args.verbosity < 0) as progress:
        summary = generate(
            pairs,
            segmenter,
            prompts,
            store,
            options,
            allow_slow=args.allow_slow_cpu,
            overwrite=args.overwrite,
            progress=progress,
        )
    for warning in summary.warnings:
        log.warning("%s", warning)
    if not args.json:
        shares = ", ".join(f"{gamma}: {share:.1%}" for gamma, share in summary.reliable.items())
        log.info("reliable at both dates by gamma: %s", shares)
        log.info(
            "%d pairs, %d images segmented; %d objects at t1, %d at t2; %.1f %% ignored at gamma "
            "%g, %.2f %% of the rest changed; %.1f s",
            *(summary.pairs, summary.segmented, *summary.instances),
            *(100 * summary.ignored_share, summary.gamma, 100 * summary.changed_share),
            summary.seconds,
        )
    Shown(asdict(summary), [str(store)]).emit(as_json=args.json)
    refuse_failed(list(summary.failed), summary.pairs)


def _pairs(args: argparse.Namespace, prompts: "PromptSet", store: "Path") -> "list[PairInput]":
    from rscd.geo.scene import ScenePair
    from rscd.labels.from_segmenter import folder_pairs, scene_pair
    from rscd.pipeline.objects import check_memory

    bands = bands_of(args)
    if args.t2 is None:
        out = Path(args.output) if args.output else None
        return folder_pairs(Path(args.dataset), out, args.split, bands, args.gsd)
    if args.output is None or args.split is not None:
        raise UsageError("expected -o STORE and no --split with two rasters; correct the options")
    pair = ScenePair.open(args.dataset, args.t2, bands=bands, gsd_m=args.gsd)
    check_memory(pair, prompts, "cut the rasters into parts, or take fewer prompts")
    return [scene_pair(pair, store)]
