"""``rscd events T1 T2 --segmenter NAME``: objects that appeared or vanished, by words."""

import argparse
import logging
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

from rscd.cli import folders
from rscd.cli.options import Shown, add_device, fraction
from rscd.cli.parser import Parser
from rscd.cli.scene import add_scene, scene_options
from rscd.cli.segmenting import USE, add_segmenting, label_options, prompts_of, segmenter_of

if TYPE_CHECKING:
    from rscd.geo.scene import ScenePair
    from rscd.pipeline.run import Options
    from rscd.segmenters.segmenter import Segmenter

log = logging.getLogger(__name__)

MORE = f"""\
With --segmenter, words are looked for in each of two rasters, and whole objects that are there at
one date only are reported: kind (appeared, vanished), class, score, iou_sum and flags.

{folders.MORE}
  rscd events day1/ day2/ --segmenter buildings -o 'events/{{name}}.gpkg'
"""


def add_images(parser: Parser) -> None:
    """Declare the arguments that go with ``--segmenter``."""
    rare = add_segmenting(
        parser, "on two rasters", duplicates="0.6; 1 keeps all, as published", name=True
    )
    rare.add_argument(
        "--min-score", type=fraction, metavar="0..1", help="leave out events of a lower score"
    )
    add_device(rare)
    rare.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    add_scene(parser.group("two rasters as a scene", use=USE, rare=True))


def run_images(args: argparse.Namespace) -> None:
    """Carry out the command for a pair of rasters, or for each of two folders."""
    load = cache(partial(segmenter_of, args))  # once, when first needed
    folders.run_all(args, scene_options(args), partial(_run_pair, load))


def _run_pair(
    load: "Callable[[], Segmenter]", args: argparse.Namespace, pair: "ScenePair", options: "Options"
) -> Shown:
    from dataclasses import asdict

    from rscd.cli.progress import progress_bar
    from rscd.export.targets import keep_inputs
    from rscd.pipeline.objects import carry_out, resolve_events
    from rscd.segmenters.instances import DUPLICATE_IOU

    keep_inputs(args.output, filter(None, (args.aoi,)))
    prompts, rules = prompts_of(args), label_options(args, DUPLICATE_IOU)
    run = resolve_events(pair, args.output, load, prompts, rules, options)
    if args.dry_run:
        height, width = run.pair.shape_hw
        plan = {
            "model": run.model,
            "alignment": run.pair.alignment,
            "size": [width, height],
            "windows_per_date": len(run.view.windows),
            "tile_size": run.rules.tile,
            "gamma": run.rules.gamma,
        }
        return Shown(plan, [f"{name}: {value}" for name, value in plan.items()])
    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = asdict(carry_out(run, allow_slow=args.allow_slow_cpu, progress=progress))
    if not args.json:
        log.info(
            "%(appeared)d objects appeared, %(vanished)d vanished, of %(objects_t1)d at t1 and "
            "%(objects_t2)d at t2; %(reliable).1f %% of the pixels are reliable at gamma "
            "%(gamma)g; %(seconds).1f s",
            result,
        )
    return Shown(result, result["outputs"])
