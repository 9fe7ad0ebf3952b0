"""``rscd doctor``: what is wrong with a pair before it is compared."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rscd.base.errors import DataError, DoubtfulError
from rscd.cli.options import Shown, add_device, add_json, add_verbosity, in_words
from rscd.cli.parser import Parser
from rscd.cli.scene import add_scene, add_size, area_of, scene_options

if TYPE_CHECKING:
    from rscd.pipeline.doctor import Report

EPILOG = """\
examples:
  rscd doctor t1.tif t2.tif
  rscd doctor t1.tif t2.tif -m buildings --json

exit codes: 0 nothing that matters, 1 rscd predict cannot work, 3 it would, but should not be
trusted; docs/doctor.md has the rules
"""

WIDTH = 34
"""Least width of a column of the table."""


def add(commands: Any) -> None:
    """Declare the command."""
    parser: Parser = commands.add_parser(
        "doctor",
        help="say what is wrong with two rasters before they are compared",
        usage="rscd doctor T1 T2 [options]",
        description="Look at two rasters as rscd predict would: what they are, what differs "
        "besides change, what would be done, and which options would help. Nothing is written.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run, min_area=None, min_score=None, overwrite=False, lco=[])
    parser.add_argument(
        "t1", metavar="T1", help="raster of the earlier date: file, address or STAC item"
    )
    parser.add_argument("t2", metavar="T2", help="of the later date")
    group = parser.group("options of rscd predict")
    group.add_argument("-m", "--model", metavar="NAME|FILE", help="see rscd model list")
    add_size(group)
    add_device(group)
    add_scene(group)
    group = parser.group("output")
    add_json(group)
    add_verbosity(group)


def run(args: argparse.Namespace) -> None:
    """Carry out the command.

    Raises:
        DataError: predict cannot work.
        DoubtfulError: it should not be trusted.
    """
    from rscd.pipeline.doctor import diagnose

    options = scene_options(args, model=args.model, device=args.device)
    report = diagnose(args.t1, args.t2, options, area_of(args), gsd_m=args.gsd)
    Shown(report.data, list(lines(report))).emit(as_json=args.json)
    if report.exit_code:
        level = report.findings[0].level
        worst = (one.kind for one in report.findings if one.level == level)
        kinds = ", ".join(dict.fromkeys(worst))  # both dates may have the same fault
        if level == "stops":
            raise DataError(f"expected a pair that can be compared, found {kinds}; see above")
        raise DoubtfulError(f"expected a pair to be trusted, found {kinds}; see above")


def lines(report: "Report") -> Iterator[str]:
    """The report as a table."""
    data = report.data
    t1, t2 = (data["dates"][date] or {} for date in ("t1", "t2"))
    rows = [("", "t1", "t2")]
    rows += [(name, in_words(t1.get(name)), in_words(t2.get(name))) for name in t1 or t2]
    width = max(WIDTH, *(len(first) for _, first, _ in rows))
    yield from (_row(*row, width) for row in rows)
    yield from _section("between the dates", _between(data["between"], width))
    chosen = data["predict"] or {}
    wanted = ((k, v) for k, v in chosen.items() if k != "alignment")
    would = [f"  {name:<16} {in_words(value, name)}" for name, value in wanted]
    yield from _section("rscd predict would", [*would, *(f"  {line}" for line in data["says"])])
    yield ""
    if not data["findings"]:
        yield "nothing is wrong that could be seen"
    for one in data["findings"]:
        yield f"{one['level']:<6} {one['kind']}: {one['text']}"
        yield from [f"       mend: {one['mend']}"] * bool(one["mend"])
    doubtful = any(one["level"] == "doubt" for one in data["findings"])
    title = "to compare them anyway:" if doubtful else "to compare them:"
    if any(one["mend"] for one in data["findings"]):
        title = "with what helps:"
    yield from _section(title, filter(None, [data["command"]]))


def _section(title: str, found: Iterable[str]) -> Iterator[str]:
    rows = list(found)
    yield from ["", title] * bool(rows)
    yield from rows


def _between(found: Mapping[str, Any], width: int) -> Iterator[str]:
    for name, value in found.items():
        if name == "shift_map":
            yield from _map(value)
        elif isinstance(value, list) and len(value) == 2:
            yield _row(f"  {name}", in_words(value[0]), in_words(value[1]), width)
        else:
            yield f"  {name:<16} {in_words(value, name)}"


def _row(name: str, first: str, second: str, width: int) -> str:
    return f"{name:<18} {first:<{width}} {second}".rstrip()


def _map(shifts: list[list[float]]) -> Iterator[str]:
    if shifts:
        yield "  shift_map        column, row: shift to the right, downwards"
    for col, row, right, down in shifts:
        yield f"    {col:>7.0f}, {row:>7.0f}: {right:+.2f}, {down:+.2f}"
