"""``rscd predict -m ceg:BACKEND``: objects that appeared or vanished, by words."""

import argparse
import logging
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

from rscd.base.errors import UsageError
from rscd.cli.options import Shown
from rscd.cli.segmenting import label_options, prompts_of, segmenter_of

if TYPE_CHECKING:
    from rscd.geo.scene import ScenePair
    from rscd.labels.from_segmenter import LabelOptions
    from rscd.pipeline.maps import Options
    from rscd.segmenters.segmenter import Segmenter

    Runner = Callable[[argparse.Namespace, ScenePair, Options], Shown]

log = logging.getLogger(__name__)

EPILOG = """\
-m ceg:BACKEND looks for words in each date and reports whole objects that are there at one date
only: kind (appeared, vanished), class, score, iou_sum and flags. Backends and their options are
those of rscd pseudolabel.

  rscd predict t1.tif t2.tif -m ceg:sam3 --foreground building -o events.gpkg
"""


def backend_of(model: str | None) -> str | None:
    """The backend that ``-m`` names, None where it names another model.

    Raises:
        UsageError: ``ceg`` without a backend.
    """
    if model is None:
        return None
    from rscd.inference.models import CEG

    if model.partition(":")[0] != CEG:
        return None
    backend = model.partition(":")[2]
    if not backend:
        from rscd.segmenters.segmenter import SEGMENTERS

        raise UsageError(
            f"expected -m {CEG}:BACKEND with one of {', '.join(SEGMENTERS)}, found {model!r}"
        )
    return backend


def runner(args: argparse.Namespace, backend: str) -> "Runner":
    """What carries out the command for one pair; the backend is loaded once, when first needed.

    Raises:
        UsageError: options that do not go with events.
    """
    _check_options(args)
    load = cache(partial(segmenter_of, args, backend))

    def run(one: argparse.Namespace, pair: "ScenePair", options: "Options") -> Shown:
        return _run_pair(one, pair, options, load)

    return run


def _run_pair(
    args: argparse.Namespace,
    pair: "ScenePair",
    options: "Options",
    load: "Callable[[], Segmenter]",
) -> Shown:
    from dataclasses import asdict

    from rscd.cli.progress import progress_bar
    from rscd.pipeline.objects import event_targets, predict_events

    prompts, rules = prompts_of(args), label_options(args)
    event_targets(pair, args.output, options)  # before weights are loaded
    segmenter = load()
    if args.dry_run:
        return _plan(args, pair, rules.filled(segmenter))
    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = asdict(
            predict_events(
                pair,
                args.output,
                segmenter,
                prompts,
                rules,
                options,
                allow_slow=args.allow_slow_cpu,
                progress=progress,
            )
        )
    if not args.json:
        log.info(
            "%(appeared)d objects appeared, %(vanished)d vanished, of %(objects_t1)d at t1 and "
            "%(objects_t2)d at t2; %(reliable).1f %% of the pixels are reliable at gamma "
            "%(gamma)g; %(seconds).1f s",
            result,
        )
    return Shown(result, result["outputs"])


def _check_options(args: argparse.Namespace) -> None:
    from rscd.inference.models import CEG

    given = {
        "--prob": args.prob is not None,
        "--preview": args.preview is not None,
        "--threshold": args.threshold != "auto",
        "--simplify": args.simplify > 0,
        "--regularize": args.regularize is not None,
        "--flow": args.flow is not None,
        "--objects-t1": args.objects_t1 is not None,
        "--objects-t2": args.objects_t2 is not None,
        "--msi": args.msi is not None,
        "--tta": args.tta is not None,
        "--co": bool(args.co),
        "--batch-size": args.batch_size is not None,
        "--workers": args.workers is not None,
        "--max-memory": args.max_memory is not None,
    }
    if wrong := [name for name, there in given.items() if there]:
        raise UsageError(
            f"expected no {wrong[0]} with -m {CEG}:..., which compares whole objects; drop it (for "
            "rasters: rscd pseudolabel T1 T2 -o STORE)"
        )


def _plan(args: argparse.Namespace, pair: "ScenePair", rules: "LabelOptions") -> Shown:
    from rscd.pipeline.objects import seen_around

    height, width = pair.shape_hw
    plan = {
        "model": args.model,
        "alignment": pair.alignment,
        "size": [width, height],
        "windows_per_date": len(seen_around(pair, rules).windows),
        "tile_size": rules.tile,
        "gamma": rules.gamma,
    }
    return Shown(plan, [f"{name}: {value}" for name, value in plan.items()])
