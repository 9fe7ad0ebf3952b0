"""``rscd data``: inspect dataset folders and prepare benchmark sets."""

import argparse
from typing import Any

from rscd.cli.options import (
    Shown,
    add_action,
    add_actions,
    add_json,
    add_verbosity,
    count,
    emit,
    fraction,
    positive,
    whole,
)
from rscd.cli.parser import Parser

SETS = ("whu", "levir", "dsifn")

PAIRS = "folder of image pairs: A/ B/ label/, or train/ val/ test/ with these"

EXAMPLES = (
    "rscd data info whu256",
    "rscd data show whu256 --split train -o sheet.png",
    "rscd data prepare whu --src RAW -o whu256",
    "rscd data split whu256 --percent 5,10",
    "rscd data towns -o towns --train 200 --val 50 --test 50",
)


def add(commands: Any) -> None:
    """Declare the command."""
    about = "inspect, show and prepare folders of image pairs"
    actions = add_actions(commands, "data", about, EXAMPLES)
    for action in (
        _add_info(actions),
        _add_show(actions),
        _add_prepare(actions),
        _add_split(actions),
        _add_towns(actions),
    ):
        add_verbosity(action)


def _add_info(actions: Any) -> Parser:
    parser = add_action(
        actions,
        "info",
        "contents of a folder and its problems (exit code 1 if there are any)",
        EXAMPLES[0],
    )
    parser.add_argument("folder", metavar="DIR", help=PAIRS)
    parser.add_argument(
        "--no-leaks", action="store_true", help="do not compare the splits with each other"
    )
    parser.set_defaults(run=run_info)
    add_json(parser)
    return parser


def _add_show(actions: Any) -> Parser:
    parser = add_action(
        actions, "show", "a contact sheet: t1, t2 and mask of some pairs as a PNG", EXAMPLES[1]
    )
    parser.add_argument("folder", metavar="DIR", help=PAIRS)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.png", help="picture to write"
    )
    parser.add_argument(
        "-n", type=count, default=8, metavar="N", help="most pairs shown (default 8)"
    )
    parser.add_argument("--split", metavar="NAME", help="pairs of one split (default: of all)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_show)
    return parser


def _add_prepare(actions: Any) -> Parser:
    parser = add_action(
        actions, "prepare", "cut a benchmark set into its published tiles", EXAMPLES[2]
    )
    parser.add_argument(
        "name",
        metavar="SET",
        choices=SETS,
        help="whu (WHU-CD), levir (LEVIR-CD) or dsifn (DSIFN-CD)",
    )
    parser.add_argument("--src", required=True, metavar="DIR", help="the set as distributed")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--size", type=count, default=256, metavar="N", help="side of a tile (default 256)"
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of random splits (default 0)"
    )
    parser.add_argument(
        "--tile-order",
        choices=("rows", "columns"),
        default="rows",
        help="how the 16 tiles of a LEVIR-CD scene are numbered: row by row (default) or column by "
        "column; the papers do not say",
    )
    parser.set_defaults(run=run_prepare)
    add_json(parser)
    return parser


def _add_split(actions: Any) -> Parser:
    parser = add_action(
        actions,
        "split",
        "choose labelled pairs of a training set: split_5.json, split_10.json and so on",
        EXAMPLES[3],
    )
    parser.add_argument("folder", metavar="DIR", help="folder of image pairs, or a street set")
    parser.add_argument(
        "--percent",
        type=_percentages,
        default=(5, 10, 20, 40),
        metavar="P,P",
        help="labelled share of the training pairs; a smaller one is part of a larger one (default "
        "5,10,20,40)",
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="pairs to divide (default train)"
    )
    parser.add_argument(
        "--lists",
        metavar="FOLDER",
        help="published lists: 5%%/labeled.txt, 5%%/unlabeled.txt, ...; without them pairs are "
        "chosen by --how",
    )
    parser.add_argument(
        "--how",
        choices=("random", "first"),
        default="random",
        help="random (default), as LEVIR-CD's published lists; first names, as WHU-CD's",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the random choice (default 0)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder for the files (default: DIR)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other splits there")
    parser.set_defaults(run=run_split)
    add_json(parser)
    return parser


def _percentages(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < percent < 100 for percent in found):
        raise argparse.ArgumentTypeError(
            f"expected whole percentages from 1 to 99 such as 5,10, found {text!r}"
        )
    return found


def run_split(args: argparse.Namespace) -> None:
    """Write one split per percentage, all or none."""
    from pathlib import Path

    from rscd.base.errors import OutputError
    from rscd.data.choose import labelled_shares

    splits = labelled_shares(
        args.folder, args.percent, args.split, lists=args.lists, how=args.how, seed=args.seed
    )
    folder = Path(args.output or args.folder)
    files = {folder / f"split_{percent}.json": split for percent, split in splits.items()}
    for path, split in files.items():
        if (
            path.exists()
            and not args.overwrite
            and path.read_text(encoding="utf-8") != split.text()
        ):
            raise OutputError(
                f"expected no other split in {path}, found one; give --overwrite or -o FOLDER"
            )
    for path, split in files.items():
        split.write(path)
    Shown(
        {str(path): {"rule": split.rule, **split.counts} for path, split in files.items()},
        [
            f"{path}: {', '.join(f'{n} {part}' for part, n in split.counts.items())}; {split.rule}"
            for path, split in files.items()
        ],
    ).emit(as_json=args.json)


def _add_towns(actions: Any) -> Parser:
    parser = add_action(
        actions,
        "towns",
        "write synthetic towns as a folder of pairs with image-level labels",
        EXAMPLES[4],
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    for split, pairs in (("train", 400), ("val", 100), ("test", 100)):
        parser.add_argument(
            f"--{split}", type=whole, default=pairs, metavar="N", help=f"pairs (default {pairs})"
        )
    parser.add_argument(
        "--size", type=count, default=128, metavar="N", help="side of a pair (default 128)"
    )
    parser.add_argument(
        "--empty",
        type=fraction,
        default=0.5,
        metavar="0..1",
        help="fraction of pairs without change (default 0.5)",
    )
    parser.add_argument(
        "--gsd", type=positive, default=0.5, metavar="M", help="metres per pixel (default 0.5)"
    )
    parser.add_argument(
        "--change",
        type=fraction,
        default=0.4,
        metavar="0..1",
        help="fraction of lots that change in the others (default 0.4)",
    )
    parser.add_argument(
        "--nuisance",
        type=fraction,
        default=0.5,
        metavar="0..1",
        help="how much light, season and sensor differ between the dates (default 0.5)",
    )
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the towns (default 0)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace pairs that lie there")
    parser.set_defaults(run=run_towns)
    return parser


def run_towns(args: argparse.Namespace) -> None:
    """Generate towns, with a progress bar on stderr."""
    from pathlib import Path

    from rscd.base.errors import OutputError
    from rscd.cli.progress import progress_bar
    from rscd.synthetic.town_folder import write_town_folder

    there = [name for name in ("A", "B", "label", "list") if Path(args.output, name).exists()]
    if there and not args.overwrite:
        raise OutputError(
            f"expected a folder without pairs, found {', '.join(there)} in {args.output}; choose "
            "another folder, or --overwrite"
        )
    with progress_bar(quiet=args.verbosity < 0) as progress:
        root = write_town_folder(
            args.output,
            {"train": args.train, "val": args.val, "test": args.test},
            seed=args.seed,
            patch_size=args.size,
            empty_share=args.empty,
            min_change_pixels=20,
            town_args={
                "gsd_m": args.gsd,
                "change_share": args.change,
                "nuisance": {"strength": args.nuisance},
            },
            progress=lambda done, total: progress("towns", done, total),
        )
    emit(str(root))


def run_info(args: argparse.Namespace) -> None:
    """Print the report, and fail if there are problems."""
    from rscd.base.errors import DataError
    from rscd.data.info import info

    report = info(args.folder, leaks=not args.no_leaks)
    emit(report.json() if args.json else report.text())
    if not report.ok:
        raise DataError(
            f"expected a clean folder, found {len(report.problems)} problems in "
            f"{args.folder}; they are listed above"
        )


def run_show(args: argparse.Namespace) -> None:
    """Write the sheet."""
    from pathlib import Path

    from rscd.data.show import show
    from rscd.export.preview import SUFFIXES
    from rscd.export.targets import check_outputs, of_kind

    output = of_kind(Path(args.output), SUFFIXES[:1], "-o")
    check_outputs([output], [args.folder], overwrite=args.overwrite)
    emit(str(show(args.folder, args.output, n=args.n, split=args.split)))


def run_prepare(args: argparse.Namespace) -> None:
    """Cut tiles, with a progress bar on stderr."""
    from rscd.cli.progress import progress_bar
    from rscd.data.prepare import prepare

    with progress_bar(quiet=args.verbosity < 0) as progress:
        manifest = prepare(
            args.name,
            args.src,
            args.output,
            patch=args.size,
            seed=args.seed,
            tile_order=args.tile_order,
            progress=lambda done, total: progress("tiles", done, total),
        )
    lines = [f"note: {note}" for note in manifest.content["notes"]]
    for part, tiles in manifest.counts.items():
        lines.append(f"{part}: {tiles} tiles, {100 * manifest.change_share[part]:.2f} % changed")
    Shown(manifest.content, lines).emit(as_json=args.json)
