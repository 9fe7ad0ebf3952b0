"""Arguments shared by several commands."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rscd.base.errors import DataError, UsageError
from rscd.base.plain import finite
from rscd.cli.parser import Parser

NAMED_SCALES = "or by name: paper (0.5,1,1.5,2), readme (0.5,1,1.25,2), fast (0.5,1)"
"""Those of `rscd.methods.parts.multiscale.PRESETS`, which needs torch."""


def add_verbosity(parser: argparse._ActionsContainer) -> None:
    """``-q`` and ``-v``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        default=0,
        help="nothing on stderr but errors",
    )
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=1,
        help="more on stderr, including warnings of libraries",
    )


def add_actions(commands: Any, name: str, about: str, examples: Sequence[str]) -> Any:
    """Declare a command of several actions.

    Args:
        commands: to which it is added.
        name: of the command.
        about: what it says of itself here and in the list of commands.
        examples: lines below its help.

    Returns:
        Where `add_action` declares the actions.
    """
    parser: Parser = commands.add_parser(
        name, help=about, description=_sentence(about), epilog=_examples(examples)
    )
    return parser.add_subparsers(metavar="ACTION", required=True)


def add_action(actions: Any, name: str, about: str, *examples: str) -> Parser:
    """Declare ``rscd COMMAND NAME``, which says of itself what the list of actions says."""
    parser: Parser = actions.add_parser(
        name, help=about, description=_sentence(about), epilog=_examples(examples)
    )
    return parser


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


def _examples(lines: Sequence[str]) -> str | None:
    if not lines:
        return None
    return "\n  ".join(["examples:" if len(lines) > 1 else "example:", *lines])


def add_device(parser: argparse._ActionsContainer) -> None:
    """``--device``."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto (default): on a GPU if there is one, with PyTorch (rscd[train])",
    )


def add_outputs(group: argparse._ArgumentGroup, metavar: str, what: str) -> None:
    """``-o``, which is required, and ``--overwrite``."""
    group.add_argument(
        "-o",
        "--output",
        action="append",
        required=True,
        metavar=metavar,
        help=f"{what}; may be repeated",
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs")


def add_least(group: argparse._ArgumentGroup, area: str, score: str) -> None:
    """``--min-area`` and ``--min-score``, and what their help says more."""
    add_min_area(group, area)
    group.add_argument(
        "--min-score",
        type=fraction,
        metavar="0..1",
        help=f"leave out polygons of a lower mean probability{score}",
    )


def add_min_area(group: argparse._ArgumentGroup, more: str = "") -> None:
    """``--min-area``."""
    group.add_argument(
        "--min-area",
        type=not_negative,
        metavar="M2",
        help=f"leave out polygons below this area{more}",
    )


def add_bands(parser: argparse._ActionsContainer) -> None:
    """``--bands``, which `bands_of` reads."""
    parser.add_argument("-b", "--bands", metavar="1,2,3", help="bands to use, counted from 1")


def bands_of(args: argparse.Namespace) -> tuple[int, ...] | None:
    """Numbers of the bands to use; None: all.

    Raises:
        UsageError: for other text.
    """
    from rscd.geo.source import parse_bands

    return None if args.bands is None else parse_bands(args.bands)


def add_json(parser: argparse._ActionsContainer) -> None:
    """``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout instead of text"
    )


def emit(line: str) -> None:
    """Print one line of a result on stdout."""
    try:
        sys.stdout.write(line + "\n")
    except UnicodeEncodeError:  # a file name that is not UTF-8 is written as its original bytes
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(line) + b"\n")
    sys.stdout.flush()


def emit_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    emit(json.dumps(finite(dict(data)), indent=2, allow_nan=False))


def in_words(value: Any, name: str = "") -> str:
    """A value of a result, as people read it; ``memory_bytes`` and the like in MB or GB."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        between = " x " if name == "size" else ", "
        return between.join(in_words(one) for one in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(one, name)}" for key, one in value.items()) or "-"
    if name.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain_options(args: argparse.Namespace) -> dict[str, Any]:
    """What a command was given, as plain data that is the same in every process."""
    given = vars(args).items()
    return {k: v for k, v in given if not (callable(v) or isinstance(v, Parser))}


@dataclass(frozen=True)
class Shown:
    """Output of a command on stdout."""

    data: Mapping[str, Any]
    """Data printed with ``--json``."""
    lines: Sequence[str]
    """Without."""

    def emit(self, *, as_json: bool) -> None:
        """Print the output."""
        if as_json:
            emit_json(self.data)
            return
        for line in self.lines:
            emit(line)


def refuse_failed(names: Sequence[str], of: int) -> None:
    """Raise an error at the end of a run over many pairs if some failed.

    Raises:
        DataError: if some failed; the message names them.
    """
    if not names:
        return
    most = 10
    more = f" and {len(names) - most} more" if len(names) > most else ""
    raise DataError(
        f"expected results for all of {of} pairs, found {len(names)} that failed: "
        f"{', '.join(names[:most])}{more}; fix or remove them and repeat the command"
    )


FLIP = "width"
"""What ``--flip`` is by default."""


def add_views(parser: Any) -> None:
    """``--msi``, ``--tta`` and ``--flip``, for a parser or a group of one."""
    for option, what in (("--msi", "maps"), ("--tta", "logits")):
        parser.add_argument(
            option,
            metavar="0.5,1,1.5,2",
            help=f"average a network's {what} over these scales and the flipped image; "
            f"{NAMED_SCALES}",
        )
    parser.add_argument(
        "--flip",
        choices=("none", "width", "height", "both"),
        default=FLIP,
        help=f"axes flipped with --msi and --tta (default: {FLIP})",
    )


def flip_of(args: argparse.Namespace, *, averaged: bool = False) -> str:
    """The axes of ``--flip``.

    Args:
        args: as parsed.
        averaged: whether views are averaged without ``--msi`` and ``--tta``.

    Raises:
        UsageError: nothing is averaged, so that it would do nothing.
    """
    if args.flip != FLIP and not (averaged or args.msi or args.tta):
        raise UsageError("expected --flip with --msi or --tta, found neither; add one, or drop it")
    return str(args.flip)


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Values of a repeated ``NAME=VALUE`` by upper-case name.

    Raises:
        UsageError: if a value has another form.
    """
    for text in texts:
        if "=" not in text[1:]:
            raise UsageError(f"expected {option} NAME=VALUE, found {text!r}")
    return {k.upper(): v for k, v in (text.split("=", 1) for text in texts)}


def _number(
    kind: Callable[[str], float], holds: Callable[[float], bool], what: str
) -> Callable[[str], Any]:
    """A number of some kind in some range, as the ``type`` of an argument."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not holds(value):
            raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}")
        return value

    return parse


count = _number(int, lambda value: value >= 1, "a whole number above 0")
whole = _number(int, lambda value: value >= 0, "a whole number of 0 or more")
positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
not_negative = _number(float, lambda value: 0 <= value < math.inf, "a number of 0 or more")
fraction = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
inner_fraction = _number(float, lambda value: 0 < value < 1, "a number between 0 and 1")


def auto_or_pixels(text: str) -> float | str:
    """``auto`` or a number above 0, as the ``type`` of an argument."""
    return text if text == "auto" else float(positive(text))


def fractions(text: str) -> tuple[float, ...]:
    """``0.1,0.5``, as the ``type`` of an argument."""
    return tuple(float(fraction(part)) for part in text.split(","))


def word_or_fraction(option: str, text: str, words: Sequence[str]) -> str | float:
    """One of some words, or a number from 0 to 1.

    Raises:
        UsageError: for anything else, naming the option.
    """
    if text in words:
        return text
    try:
        return float(fraction(text))
    except argparse.ArgumentTypeError:
        raise UsageError(
            f"expected {option} {', '.join(words)} or a number from 0 to 1, found {text!r}"
        ) from None


def size_hw(text: str) -> tuple[int, int]:
    """``HEIGHT,WIDTH`` in pixels, as the ``type`` of an argument."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected HEIGHT,WIDTH in pixels, found {text!r}")
    return int(parts[0]), int(parts[1])
