"""``rscd train``: one training run from a YAML file, or a chain of stages."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from rscd.cli.options import add_verbosity
from rscd.cli.parser import Parser

DESCRIPTION = """\
Train a network by one YAML file with the sections trainer, model and data. Every key
can be given here with dots. A file with stages: is a chain of such runs.
"""

EPILOG = """\
configuration:
  -c, --config FILE.yaml   the run; a bare NAME means a configuration that comes with
                           rscd (rscd config list)
  --print_config           print it with every default and stop
  --begin WEIGHTS          weights that the network begins with: FILE.safetensors,
                           FILE.ckpt, or buildings, which ships with rscd
  --review LAYER           reviewed polygons to learn from, of from_review and the like
  --ckpt_path LAST.ckpt    resume a stopped run
  --overwrite              replace the checkpoints of an earlier run in its folder
  --help-all               explain every key

often given:
  --trainer.default_root_dir DIR   the run's folder: logs and checkpoints (runs)
  --trainer.max_steps N            optimiser steps; --trainer.max_epochs N
  --trainer.accelerator cpu|gpu    (auto); --trainer.devices N
  --seed_everything N              seed of all random numbers
  --model.lr RATE                  learning rate
  --data.batch_size N, --data.num_workers N

examples:
  rscd train -c supervised_town
  rscd train -c supervised_tiles --model.lr 1e-4 --trainer.max_steps 2000
  rscd config copy finetune_buildings -o mine.yaml && rscd train -c mine.yaml
"""

CONFIG = ("-c", "--config")


def add(commands: Any) -> None:
    """Declare the command; its options are those of LightningCLI and are parsed there."""
    parser: Parser = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        help="train a network by a configuration: rscd train -c supervised_town",
        usage="rscd train -c FILE.yaml [--KEY.KEY VALUE ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.set_defaults(run=run, takes_rest=True)
    add_verbosity(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rscd.base.errors import Interrupted, UsageError
    from rscd.training.chain import is_chain, read_chain, run_chain

    match list(_with_files(args.rest)):
        case [word, *_] if not word.startswith("-"):
            raise UsageError(
                f"expected a configuration with -c, found {word!r} without; rscd train -c {word}"
            )
        case ["-c" | "--config", path, *overrides] if is_chain(path):
            try:
                run_chain(read_chain(path, overrides), args.run_command)
            except Interrupted as error:  # a chain resumes with its own command
                raise KeyboardInterrupt from error
        case ["-h" | "--help"]:
            args.parser.print_help()
        case rest:
            from rscd.training.run import train

            train(["--help" if word == "--help-all" else word for word in rest])


def _with_files(rest: Sequence[str]) -> Iterator[str]:
    """The words, with files in place of the names of configurations."""
    from rscd.training.configurations import find

    for before, word in zip(["", *rest], rest, strict=False):
        option, equals, value = word.partition("=")
        if before in CONFIG:
            yield str(find(word))
        elif equals and option in CONFIG:
            yield f"{option}={find(value)}"
        else:
            yield word
