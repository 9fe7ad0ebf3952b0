"""``rscd train``: one training run from a YAML file, or a chain of stages."""

import argparse
from typing import Any

from rscd.cli.options import add_verbosity


def add(commands: Any) -> None:
    """Declare the command; its options are those of LightningCLI, which parses them."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        help="train a detector: rscd train -c FILE.yaml [--model.lr 1e-4 ...]",
    )
    parser.set_defaults(run=run, takes_rest=True)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rscd.base.errors import Interrupted
    from rscd.training.chain import is_chain, read_chain, run_chain

    match args.rest:
        case ["-c" | "--config", path, *overrides] if is_chain(path):
            try:
                run_chain(read_chain(path, overrides), args.run_command)
            except Interrupted as error:  # a chain resumes with its own command
                raise KeyboardInterrupt from error
        case rest:
            from rscd.training.run import train

            train(rest)
