"""``rscd config``: the configurations that come with the package."""

import argparse
from typing import Any

from rscd.cli.options import Shown, add_action, add_actions, add_json, add_verbosity, emit

NAME = "one of those that rscd config list names"

EXAMPLES = (
    "rscd config list",
    "rscd config show supervised_town",
    "rscd config copy finetune_buildings -o mine.yaml",
)


def add(commands: Any) -> None:
    """Declare the command."""
    about = "list, show and copy configurations for rscd train"
    actions = add_actions(commands, "config", about, EXAMPLES)
    listing = add_action(
        actions, "list", "names for rscd train -c, and what each trains", EXAMPLES[0]
    )
    listing.set_defaults(run=run_list)
    add_json(listing)
    showing = add_action(actions, "show", "print a configuration", EXAMPLES[1])
    showing.add_argument("name", metavar="NAME", help=NAME)
    showing.set_defaults(run=run_show)
    copying = add_action(
        actions, "copy", "write a configuration to a file, to change it", EXAMPLES[2]
    )
    copying.add_argument("name", metavar="NAME", help=NAME)
    copying.add_argument(
        "-o",
        "--output",
        metavar="FILE.yaml",
        help="file to write (default: NAME.yaml in this folder)",
    )
    copying.add_argument("--overwrite", action="store_true", help="replace an existing file")
    copying.set_defaults(run=run_copy)
    add_json(copying)
    for action in (listing, showing, copying):
        add_verbosity(action)


def run_list(args: argparse.Namespace) -> None:
    """Print names with one line each."""
    from rscd.training.configurations import about, configurations

    found = {name: about(path) for name, path in configurations().items()}
    width = max(map(len, found))
    Shown(found, [f"{name:<{width}}  {line}" for name, line in found.items()]).emit(
        as_json=args.json
    )


def run_show(args: argparse.Namespace) -> None:
    """Print a file."""
    emit(_text(args.name).rstrip("\n"))


def run_copy(args: argparse.Namespace) -> None:
    """Write a file."""
    from pathlib import Path

    from rscd.base.errors import OutputError, UsageError
    from rscd.base.files import write_whole, writing
    from rscd.training.configurations import SUFFIX

    text = _text(args.name)
    target = Path(args.output or Path(args.name).with_suffix(SUFFIX).name)
    if target.suffix != SUFFIX:
        raise UsageError(f"expected -o ending in {SUFFIX}, found {target}")
    if target.exists() and not args.overwrite:
        raise OutputError(f"expected no file {target}, found one; give --overwrite or another -o")
    with writing(target):
        write_whole(target, text)
    Shown({"path": str(target)}, [str(target)]).emit(as_json=args.json)


def _text(name: str) -> str:
    from rscd.base.errors import DataError
    from rscd.training.configurations import find

    path = find(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a YAML file or the name of a configuration, found {name}: {error}"
        ) from error
