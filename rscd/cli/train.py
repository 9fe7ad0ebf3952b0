"""``rscd train``: one training run from a YAML file."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declare the command; its options are those of LightningCLI and are parsed there."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        add_help=False,
        help="train a detector: rscd train -c FILE.yaml [--model.lr 1e-4 ...]",
    )
    parser.set_defaults(run=run, takes_rest=True)


def run(args: argparse.Namespace) -> None:
    """Carry out the command."""
    from rscd.training import train

    train(args.rest)
