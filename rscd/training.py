"""Training runs: LightningCLI over the one module and the one data module.

A run is a YAML file with ``trainer``, ``model`` and ``data``; everything in it can be overridden
on the command line with dots. The run's folder holds the resolved configuration, logs and
checkpoints.
"""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from rscd.data.module import ChangeDataModule
from rscd.data.plots import to_colours, to_rgb
from rscd.errors import UsageError
from rscd.inference.shipped import SHIPPED, shipped_path
from rscd.inference.weights import read_card, read_tensors
from rscd.metrics import MODE, MONITOR
from rscd.task import ChangeTask
from rscd.types import Batch

RESUME_STEPS = 100
"""Optimiser steps between two savings of ``last.ckpt``."""

USAGE = "rscd train -c FILE.yaml [--KEY.KEY VALUE ...] [--ckpt_path LAST.ckpt] [--print_config]"
BEGIN = (
    "weights that the network begins with: FILE.safetensors, FILE.ckpt, or buildings, which ships "
    "with rscd; a run that goes on with --ckpt_path does not need them"
)
DESCRIPTION = (
    "Train a detector by one YAML file. Every key of it can be given here with dots, such as "
    "--model.lr 1e-4. A stopped run goes on with --ckpt_path."
)

PLAIN_DATA = ("model.method_args", "data.streams")
"""Where a configuration holds plain data that the parser has no arguments for."""

PANELS = 4
"""Pairs shown in TensorBoard after each validation."""


class Panels(Callback):
    """Shows the first validation pairs in TensorBoard: t1, t2, mask and change probability."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx > 0 or not isinstance(outputs, Tensor):
            return
        picture = panel(batch, outputs)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/pairs", picture, trainer.global_step)


def panel(batch: Batch, change_prob: Tensor) -> Tensor:
    """A picture (3,h,w) in [0,1] with a row per pair: t1, t2, mask, change probability.

    Args:
        batch: ``image`` (B,2,C,H,W) and ``mask`` (B,1,H,W).
        change_prob: (B,1,H,W) in [0,1].
    """
    rows = []
    for i in range(min(PANELS, len(change_prob))):
        t1, t2 = to_rgb(batch["image"][i].float().cpu().numpy())
        mask = to_colours(batch["mask"][i, 0].cpu().numpy())
        prob = change_prob[i, 0].float().cpu().numpy()
        rows.append(np.concatenate([t1, t2, mask, np.repeat(prob[..., None], 3, 2)], axis=1))
    return torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1)


CHECKPOINT_WORDS = ("last", "best", "hpc")
"""What Lightning takes as ``--ckpt_path`` instead of a file."""


class KeepConfig(SaveConfigCallback):
    """Saves the resolved configuration as ``config.yaml`` in the run's folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it where the checkpoints lie."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(
            self.config, folder / "config.yaml", skip_none=False, overwrite=True, multifile=False
        )


class TrainingCLI(LightningCLI):
    """Gives every run its callbacks and logs."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Best checkpoint by the declared measure and direction; the last one every few steps."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ModelCheckpoint, "last")
        parser.add_argument("--begin", type=str | None, default=None, help=BEGIN)
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": f"val/{MONITOR}",
                "checkpoint.mode": MODE,
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
                "last.filename": "last",
                "last.every_n_train_steps": RESUME_STEPS,
                "last.enable_version_counter": False,
            }
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Logs and checkpoints go to ``trainer.default_root_dir``."""
        asked = self._get(self.config_init, "trainer")
        folder = Path(asked["default_root_dir"] or "runs")
        if asked["logger"] is None:
            _set_aside(folder / "metrics.csv")
            kwargs["logger"] = [CSVLogger(folder, "", ""), TensorBoardLogger(folder, "", "")]
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder)
        rates = [LearningRateMonitor("step")] if trainer.loggers else []
        trainer.callbacks += [*rates, Panels()]  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Take up the weights to begin with; look at the checkpoint to go on from."""
        begin, checkpoint = (self._get(self.config, name) for name in ("begin", "ckpt_path"))
        if checkpoint is not None and checkpoint not in CHECKPOINT_WORDS:
            read_card(Path(checkpoint))
        if begin is not None and checkpoint is None:
            begin_with(self.model.method.network, begin)


def begin_with(network: nn.Module, name: str) -> None:
    """Give a network trained weights.

    Args:
        network: of the same kind, bands and sizes as the trained one.
        name: file, or the network that ships with rscd.

    Raises:
        UsageError: for weights of another network.
        ModelError: for a file that holds none.
    """
    path = shipped_path() if name == SHIPPED else Path(name)
    trained = read_card(path)
    try:
        network.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        mismatch = str(error).split("\n")[1].strip()
        raise UsageError(
            f"--begin {name}: expected weights of the network to train, found those of "
            f"{trained['network']} with {trained['network_args']} ({mismatch}); give the network "
            "the same name and network_args"
        ) from error


def _set_aside(path: Path) -> None:
    """Rename the log of an earlier start, metrics.csv to metrics.1.csv: the logger deletes it."""
    if path.exists():
        number = len(list(path.parent.glob(f"{path.stem}*{path.suffix}")))
        path.replace(path.with_suffix(f".{number}{path.suffix}"))


def with_deep_dots(args: Sequence[str]) -> list[str]:
    """Arguments in which dots that reach into `PLAIN_DATA` stand for the whole of it.

    The parser knows the arguments of classes, not what lies in plain data. What the configuration
    files say there is read here, changed, and handed over as one value.

    Args:
        args: as on the command line, ``-c FILE``, ``--name value`` or ``--name=value``.
    """
    given, rest, files = [], [], []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-c", "--config"):
            files.append(value if equals else next(words, ""))
            rest += [name, files[-1]]
        elif name.startswith(tuple(f"--{place}." for place in PLAIN_DATA)):
            given.append((name.removeprefix("--"), value if equals else next(words, "")))
        else:
            rest.append(word)
    if not given:
        return list(args)
    content: dict[str, Any] = {}
    for file in filter(os.path.isfile, files):  # the parser says what is wrong with others
        try:
            found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except yaml.YAMLError:
            return list(args)
        content = merged(content, found or {})
    for name, text in given:
        *path, last = name.split(".")
        inner = content
        for step in path:
            known = inner.get(step) or {}
            if not isinstance(known, Mapping):
                raise UsageError(
                    f"--{name}: expected dots that lead to a value, found {step} = {known!r}; "
                    "leave out what follows it"
                )
            inner[step] = dict(known)
            inner = inner[step]
        inner[last] = yaml.safe_load(text)
    touched = [p for p in PLAIN_DATA if any(name.startswith(f"{p}.") for name, _ in given)]
    values = {place: content[place.split(".")[0]][place.split(".")[1]] for place in touched}
    return [*rest, *(f"--{place}={json.dumps(value)}" for place, value in values.items())]


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second on top of the first."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        if isinstance(first[name], Mapping) and isinstance(second[name], Mapping):
            both[name] = merged(first[name], second[name])
    return both


def train(args: Sequence[str]) -> Trainer:
    """One run.

    Args:
        args: as on the command line: ``-c FILE.yaml``, dotted overrides, ``--ckpt_path``,
            ``--print_config``.

    Raises:
        UsageError: for a configuration that cannot be meant.
        RscdError: for data or environment to be fixed.
    """
    if not args:
        raise UsageError("expected a configuration, found none; try rscd train -c FILE.yaml")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_news)
    try:
        with warnings.catch_warnings():
            # ours are those of the command line; logs and checkpoints share the run's folder
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", "Experiment logs directory .* is not empty")
            warnings.filterwarnings("ignore", "Precision .* is not supported by the model summary")
            # frozen batch norms are meant to be
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
            return _run(["fit", *with_deep_dots(args)])
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"expected a configuration that fits, found: {reason}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"expected a configuration in UTF-8, found: {error}") from error
    except MisconfigurationException as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"expected a run that this machine can do, found: {reason}") from error


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning is about the run: it also recommends other products."""
    return "Tip:" not in record.getMessage()


def _run(args: list[str]) -> Trainer:
    strict = {"exit_on_error": False}
    cli = TrainingCLI(
        ChangeTask,
        ChangeDataModule,
        args=args,
        save_config_callback=KeepConfig,
        save_config_kwargs={"overwrite": True},  # a run that goes on does so in its own folder
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={**strict, "fit": {**strict, "usage": USAGE, "description": DESCRIPTION}},
    )
    trainer: Trainer = cli.trainer
    return trainer
