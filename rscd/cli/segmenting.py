"""Arguments of the commands that use a segmenter."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from rscd.base.errors import UsageError

if TYPE_CHECKING:
    from rscd.labels.from_segmenter import LabelOptions
    from rscd.segmenters.prompts import PromptSet
    from rscd.segmenters.segmenter import Segmenter

log = logging.getLogger(__name__)


def add_segmenting(parser: argparse.ArgumentParser, title: str = "segmentation") -> Any:
    """Prompts, options of the backend, and how scores become events."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--foreground",
        metavar="A,B",
        help="objects whose change matters (default house,building)",
    )
    group.add_argument(
        "--background",
        metavar="A,B",
        help="their surroundings (default road,grass,tree,water); tree=tree|forest gives one "
        "class two phrases",
    )
    group.add_argument(
        "--so",
        action="append",
        default=[],
        metavar="K=V",
        help="option of the backend, such as model=FOLDER or folder=DIR; may be repeated",
    )
    group.add_argument(
        "--gamma",
        type=float,
        metavar="0..1",
        help="score from which a pixel is reliable (default: the backend's own)",
    )
    group.add_argument(
        "--delta",
        type=float,
        default=0.0,
        metavar="D",
        help="largest IoU sum of an object that appeared or vanished (default 0)",
    )
    group.add_argument(
        "--instance-threshold",
        type=float,
        metavar="0..1",
        help="least score of an object (default: the backend's own)",
    )
    group.add_argument(
        "--overlap", type=int, metavar="N", help="pixels that neighbouring windows share"
    )
    group.add_argument(
        "--allow-slow-cpu", action="store_true", help="allow a run of hours without a GPU"
    )
    return group


def refuse_segmenting(args: argparse.Namespace) -> None:
    """Refuse options of `add_segmenting` if no segmenter is used.

    Raises:
        UsageError: for such an option.
    """
    from rscd.inference.models import CEG

    given = {
        "--foreground": args.foreground is not None,
        "--background": args.background is not None,
        "--so": bool(args.so),
        "--gamma": args.gamma is not None,
        "--delta": args.delta != 0,
        "--instance-threshold": args.instance_threshold is not None,
        "--overlap": args.overlap is not None,
        "--allow-slow-cpu": args.allow_slow_cpu,
    }
    if wrong := [name for name, there in given.items() if there]:
        raise UsageError(f"expected {wrong[0]} only with -m {CEG}:BACKEND; add that, or drop it")


def prompts_of(args: argparse.Namespace) -> "PromptSet":
    """The classes to search for."""
    from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts

    return parse_prompts(
        FOREGROUND if args.foreground is None else args.foreground,
        BACKGROUND if args.background is None else args.background,
    )


def segmenter_of(args: argparse.Namespace, name: str) -> "Segmenter":
    """The backend with its ``--so`` and ``--device``.

    Raises:
        UsageError: if an option is not of the form K=V, or unknown to the backend.
    """
    from rscd.segmenters.segmenter import load_segmenter

    wrong = next((text for text in args.so if "=" not in text), None)
    if wrong is not None:
        raise UsageError(f"expected --so NAME=VALUE, found {wrong!r}; such as --so model=FOLDER")
    options = dict(text.split("=", 1) for text in args.so)
    segmenter = load_segmenter(name, options, device=args.device)
    if segmenter.info.quality == "demo":
        log.warning("%s is for demonstration only: do not quote its accuracy", name)
    return segmenter


def label_options(args: argparse.Namespace) -> "LabelOptions":
    """How scores become labels and events."""
    from rscd.labels.from_segmenter import LabelOptions

    return LabelOptions(
        gamma=args.gamma,
        gamma_seg=getattr(args, "gamma_seg", None),
        delta=args.delta,
        instance_threshold=args.instance_threshold,
        min_area_m2=args.min_area or 0.0,
        tile=args.tile_size,
        overlap=args.overlap,
        gsd_m=args.gsd,
    )
