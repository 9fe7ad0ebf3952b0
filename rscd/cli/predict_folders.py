"""``rscd predict FOLDER FOLDER``: every picture of one folder with that of the same name."""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path

from rscd.errors import UsageError
from rscd.files import by_stem

log = logging.getLogger(__name__)

NAME = "{name}"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

EPILOG = """\
Folders of pictures, such as the frames of two drives, go pair by pair; {name} in what is written
becomes the name of the picture:
  rscd predict day1/ day2/ -m scene.ckpt -o 'change/{name}.png' --flow 'flow/{name}.tif'
"""


def are_folders(t1: str, t2: str) -> bool:
    """Whether two folders are meant.

    Raises:
        UsageError: for one folder and one file.
    """
    found = [Path(path).is_dir() for path in (t1, t2)]
    if found[0] != found[1]:
        raise UsageError(f"expected two rasters or two folders, found one of each: {t1}, {t2}")
    return all(found)


def run_folders(args: argparse.Namespace, run: Callable[[argparse.Namespace], None]) -> None:
    """Carry out the command for every pair.

    Args:
        args: of the command, t1 and t2 being folders.
        run: the command for one pair.

    Raises:
        UsageError: when an output would be written twice, or pictures have no partner.
    """
    named = [*args.output, *filter(None, (args.prob, args.preview, args.flow))]
    fixed = [path for path in named if NAME not in path]
    if fixed:
        raise UsageError(
            f"expected {NAME} in what is written for folders, found {fixed[0]}; give, for example, "
            f"'out/{NAME}{Path(fixed[0]).suffix}'"
        )
    pairs = pairs_of(Path(args.t1), Path(args.t2))
    for number, (t1, t2) in enumerate(pairs, 1):
        log.info("pair %d of %d: %s", number, len(pairs), t1.stem)
        one = {
            name: None if (path := getattr(args, name)) is None else path.replace(NAME, t1.stem)
            for name in ("prob", "preview", "flow")
        }
        output = [path.replace(NAME, t1.stem) for path in args.output]
        run(
            argparse.Namespace(
                **vars(args) | one | {"t1": str(t1), "t2": str(t2), "output": output}
            )
        )


def pairs_of(t1: Path, t2: Path) -> list[tuple[Path, Path]]:
    """Pictures of the same name, numbers in numeric order.

    Raises:
        UsageError: for pictures without a partner, or none at all.
    """
    first, second = by_stem(t1, SUFFIXES), by_stem(t2, SUFFIXES)
    alone = sorted(first.keys() ^ second.keys())
    if alone or not first:
        found = f"{len(alone)} without a partner, such as {alone[0]}" if alone else "none"
        raise UsageError(
            f"expected pictures of the same names in {t1} and {t2}, found {found}; rename them or "
            "take out what is alone"
        )
    return [(first[name], second[name]) for name in sorted(first, key=_numeric)]


def _numeric(name: str) -> list[tuple[int, int | str]]:
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece)) if piece.isdigit() else (1, piece) for piece in pieces]
