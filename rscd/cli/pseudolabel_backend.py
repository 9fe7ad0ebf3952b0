"""The part of ``rscd pseudolabel`` that uses a segmenter: ``--backend``."""

import argparse
import logging
from typing import TYPE_CHECKING

from rscd.base.errors import UsageError
from rscd.cli.options import emit, emit_json, refuse_failed
from rscd.cli.segmenting import add_segmenting, label_options, prompts_of, segmenter_of

if TYPE_CHECKING:
    from pathlib import Path

    from rscd.labels.from_segmenter import PairInput, Summary
    from rscd.segmenters.prompts import PromptSet

log = logging.getLogger(__name__)

EPILOG = """\
With --backend, a segmenter searches each date for text prompts, and objects that exist at one date
only become change labels: vl_change/ (0, 1, 255 = ignore), vl_t1/ and vl_t2/, in STORE or beside
the dates. The segmentations stay in STORE: an interrupted run resumes, and another --gamma or
--delta needs no new segmentation.

Backends: sam3 (needs a GPU), clipseg, precomputed (rasters of another program, --so folder=DIR),
spectral (no weights; for demonstration only), fake (--so folder=DIR). sam3 and clipseg need
pip install "rscd[vlm]".

  rscd pseudolabel LEVIR-CD --backend sam3 -o levir_vl
  rscd pseudolabel t1.tif t2.tif --backend precomputed --so folder=ape -o store
"""


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that go with ``--backend``."""
    group = add_segmenting(parser, "with --backend")
    group.add_argument(
        "-o",
        "--output",
        metavar="STORE",
        help="folder for the result, also with --checkpoint (default: in the dataset)",
    )
    group.add_argument(
        "--gamma-seg",
        type=float,
        metavar="0..1",
        help="as --gamma, for vl_t1 and vl_t2 (default: the same)",
    )
    group.add_argument(
        "--min-area", type=float, default=0.0, metavar="M2", help="omit smaller objects"
    )
    group.add_argument("--tile-size", type=int, metavar="N", help="side of a window in pixels")
    group.add_argument(
        "--gsd", type=float, metavar="METRES", help="pixel size, for images without one"
    )


def run_backend(args: argparse.Namespace) -> None:
    """Segment, label, and report the results."""
    from dataclasses import asdict
    from pathlib import Path

    from rscd.cli.progress import progress_bar
    from rscd.labels.from_segmenter import generate

    prompts, options = prompts_of(args), label_options(args)
    store = Path(args.output) if args.output else Path(args.dataset) / "vl_store"
    pairs = _pairs(args, prompts, store)
    segmenter = segmenter_of(args, args.backend)
    with progress_bar(quiet=args.verbosity < 0) as progress:
        summary = generate(
            pairs,
            segmenter,
            prompts,
            store,
            options,
            allow_slow=args.allow_slow_cpu,
            overwrite=args.overwrite,
            told=progress,
        )
    for warning in summary.warnings:
        log.warning("%s", warning)
    if args.json:
        emit_json(asdict(summary))
    else:
        _say(summary)
        emit(str(store))
    refuse_failed(list(summary.failed), summary.pairs)


def _say(summary: "Summary") -> None:
    shares = ", ".join(f"{gamma}: {share:.1%}" for gamma, share in summary.reliable.items())
    log.info("reliable at both dates by gamma: %s", shares)
    log.info(
        "%d pairs, %d images segmented; %d objects at t1, %d at t2; %.1f %% ignored at gamma %g, "
        "%.2f %% of the rest changed; %.1f s",
        summary.pairs,
        summary.segmented,
        *summary.instances,
        100 * summary.ignored_share,
        summary.gamma,
        100 * summary.changed_share,
        summary.seconds,
    )


def _pairs(args: argparse.Namespace, prompts: "PromptSet", store: "Path") -> "list[PairInput]":
    from pathlib import Path

    from rscd.geo.scene import ScenePair
    from rscd.geo.source import parse_bands
    from rscd.labels.from_segmenter import folder_pairs, scene_pair
    from rscd.pipeline.objects import check_memory

    bands = None if args.bands is None else parse_bands(args.bands)
    if args.t2 is None:
        out = Path(args.output) if args.output else None
        return folder_pairs(Path(args.dataset), out, args.split, bands)
    if args.output is None or args.split is not None:
        raise UsageError("expected -o STORE and no --split with two rasters; correct the options")
    pair = ScenePair.open(args.dataset, args.t2, bands=bands)
    check_memory(pair, prompts, "cut the rasters into parts, or use fewer prompts")
    return [scene_pair(pair, store)]
