"""``rscd train``: one training run from a YAML file, or a chain of stages."""

import argparse
from typing import Any

from rscd.cli.options import add_verbosity


def add(commands: Any) -> None:
    """Declare the command; its options are those of LightningCLI and are parsed there."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        help="train a detector: rscd train -c FILE.yaml [--model.lr 1e-4 ...]",
    )
    parser.set_defaults(run=run, takes_rest=True)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from rscd.chain import is_chain, read_chain, run_chain
    from rscd.errors import Interrupted

    match args.rest:
        case ["-c" | "--config", path, *overrides] if is_chain(path):
            try:
                run_chain(read_chain(path, overrides), run_command)
            except Interrupted as error:  # a chain is resumed by its own command
                raise KeyboardInterrupt from error
        case rest:
            from rscd.training import train

            train(rest)


def run_command(line: list[str]) -> None:
    """Carry out a command line in this process; what fails is raised."""
    from rscd.cli import build_parser

    args, rest = build_parser().parse_known_args(line)
    args.rest = rest
    args.run(args)
