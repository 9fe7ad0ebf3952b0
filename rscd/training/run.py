"""Training runs: LightningCLI with our module and data module.

A run is a YAML file with ``trainer``, ``model`` and ``data``; everything in it can be overridden
on the command line with dots. The run's folder holds the resolved configuration, logs and
checkpoints.
"""

import json
import logging
import os
import textwrap
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from rscd.base.errors import Interrupted, ModelError, OutputError, RscdError, UsageError
from rscd.base.files import read_value
from rscd.base.types import Batch
from rscd.data.plots import to_colours, to_rgb
from rscd.inference.shipped import SHIPPED, shipped_path
from rscd.inference.weights import read_card, read_tensors
from rscd.methods.base import Method
from rscd.metrics.pixels import MODE, MONITOR
from rscd.training.checkpoints import (
    LAST,
    SUFFIX,
    WORDS,
    LastCheckpoint,
    VerifiedIO,
    check_own,
    remove_parts,
    written_by,
)
from rscd.training.module import ChangeDataModule
from rscd.training.review import with_reviews
from rscd.training.task import ChangeTask

log = logging.getLogger(__name__)

RESUME_STEPS = 100
"""Optimiser steps between saves of ``last.ckpt``."""

USAGE = "rscd train -c FILE.yaml [--KEY.KEY VALUE ...] [--ckpt_path LAST.ckpt] [--print_config]"
BEGIN = (
    "initial weights of the network: FILE.safetensors, FILE.ckpt, or buildings, which ships "
    "with rscd; not needed when a run is resumed with --ckpt_path"
)
DESCRIPTION = (
    "Train a network from one YAML file. Every key can be overridden with dots, such as "
    "--model.lr 1e-4. --ckpt_path resumes an interrupted run."
)
REVIEW = (
    "reviewed change layer, whose decisions and rasters take the place of scenes {review: ...} of "
    "the configuration; may be repeated"
)
OVERWRITE = "replace the checkpoints of an earlier run in the run's folder"

PLAIN_DATA = ("model.method_args", "data.streams")
"""Keys whose values are plain data for which the parser has no arguments."""

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
        """Show the first batch."""
        if batch_idx > 0 or not isinstance(outputs, Tensor):
            return
        picture = panel(batch, outputs)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/pairs", picture, trainer.global_step)


def panel(batch: Batch, change_prob: Tensor) -> Tensor:
    """An image (3,h,w) in [0,1] with a row per pair: t1, t2, mask, change probability.

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


class KeepConfig(SaveConfigCallback):
    """Saves the resolved configuration as ``config.yaml`` in the run's folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it beside the checkpoints, without what applies only once."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        kept = self.config.clone()
        for name in ("overwrite", "review"):
            kept.pop(name, None)
        self.parser.save(
            kept, folder / "config.yaml", skip_none=False, overwrite=True, multifile=False
        )


class WaysOn(Callback):
    """Adds a note on how to resume to the exception that ends a run early."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Add the note to the exception."""
        folders = [s.dirpath for s in _savers(trainer) if isinstance(s, LastCheckpoint)]
        last = [path for path in (Path(f or ".") / LAST for f in folders) if path.is_file()]
        exception.add_note(
            f"resume with --ckpt_path {last[0]}" if last else "nothing was saved: start again"
        )


class TrainingCLI(LightningCLI):
    """Adds callbacks and loggers to every run."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Training alone: a parser for each of the others would take half a second together."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add checkpoints: the best by the declared metric, and the last every few steps."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.add_argument("--begin", type=str | None, default=None, help=BEGIN)
        parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
        parser.add_argument("--review", type=str | None, default=None, help=REVIEW)
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
        """Direct logs and checkpoints to ``trainer.default_root_dir``."""
        asked = self._get(self.config_init, "trainer")
        folder = Path(asked["default_root_dir"] or "runs")
        if asked["logger"] is None:
            kwargs["logger"] = [CSVLogger(folder, "", ""), TensorBoardLogger(folder, "", "")]
        trainer = super().instantiate_trainer(**kwargs)
        for callback in _savers(trainer):
            callback.dirpath = callback.dirpath or str(folder)
        rates = [LearningRateMonitor("step")] if trainer.loggers else []
        trainer.callbacks += [*rates, Panels(), WaysOn()]  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not that of a strategy
            trainer.strategy.checkpoint_io = VerifiedIO()
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint to resume before Lightning reads its arguments.

        Raises:
            ModelError: if it cannot be used.
        """
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        if checkpoint is not None and checkpoint not in WORDS:
            check_resumable(Path(checkpoint))
        super()._parse_ckpt_path()

    def before_fit(self) -> None:
        """Load the initial weights and check the folder.

        Raises:
            ModelError: for weights that cannot be used.
            OutputError: if checkpoints of another run would be replaced.
        """
        begin, checkpoint = (self._get(self.config, name) for name in ("begin", "ckpt_path"))
        if begin is not None and checkpoint is None:
            begin_with(self.model.method, begin)
        if self.trainer.is_global_zero:
            self._take_folder(checkpoint)

    def after_fit(self) -> None:
        """Say where no checkpoint was chosen because nothing was validated."""
        if any(name.startswith("val/") for name in self.trainer.callback_metrics):
            return
        if self.trainer.val_dataloaders:
            why = (
                "the run ended before a validation. Give trainer.max_steps or max_epochs more, or "
                "validate sooner with trainer.val_check_interval"
            )
        else:
            why = "there is no stream val to choose it by. Add one, or set checkpoint.monitor: null"
        for saver in _savers(self.trainer):
            if saver.monitor is not None and not saver.best_model_path:
                log.warning(
                    "no %s was written in %s, what was learned is in %s: %s",
                    *(f"{saver.filename}{SUFFIX}", saver.dirpath, LAST, why),
                )

    def _take_folder(self, checkpoint: str | None) -> None:
        """Check that the run's folder belongs to this run."""
        savers = _savers(self.trainer)
        found = written_by(savers)
        if not self._get(self.config, "overwrite"):
            check_own(found, checkpoint)
        # otherwise a run interrupted early would resume from the old checkpoints
        elif checkpoint is None:
            for path in found:
                path.unlink()
        remove_parts({Path(saver.dirpath) for saver in savers if saver.dirpath is not None})
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                _set_aside(Path(logger.log_dir) / "metrics.csv")


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]


def check_resumable(path: Path) -> None:
    """Check that a file is a training checkpoint of rscd.

    Raises:
        ModelError: if it is not.
    """
    if path.suffix == ".safetensors":
        raise ModelError(
            f"expected a training checkpoint ({SUFFIX}) for --ckpt_path, found the exported "
            f"weights {path}, which have no training state; start a new run with --begin {path}"
        )
    read_card(path)
    read_tensors(path)


def begin_with(method: Method, name: str) -> None:
    """Initialise a method's network, and everything derived from it, with trained weights.

    Args:
        method: its network must have the same type, bands and sizes as the trained one.
        name: file, or the network that ships with rscd.

    Raises:
        UsageError: for weights of another network.
        ModelError: for a file without weights.
    """
    path = shipped_path() if name == SHIPPED else Path(name)
    trained = read_card(path)
    try:
        method.begin(read_tensors(path))
    except RuntimeError as error:
        first, *more = str(error).splitlines()  # torch names the first mismatch below a heading
        mismatch = more[0].strip() if more else first
        raise UsageError(
            f"--begin {name}: expected weights of the network to train, found those of "
            f"{trained['network']} with {trained['network_args']} ({mismatch}); give the network "
            "the same name and network_args"
        ) from error


def _set_aside(path: Path) -> None:
    """Rename an earlier log, metrics.csv to metrics.1.csv: the logger would delete it."""
    if path.exists():
        number = len(list(path.parent.glob(f"{path.stem}*{path.suffix}")))
        path.replace(path.with_suffix(f".{number}{path.suffix}"))


def with_deep_dots(args: Sequence[str]) -> list[str]:
    """Merge dotted overrides that reach into `PLAIN_DATA` into one value per key.

    The parser knows the arguments of classes, not the structure of plain data. Its value in the
    configuration files is read here, changed, and passed on as one value.

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
    try:
        content = _merged_files(files)
    except yaml.YAMLError:  # the parser reports what is wrong
        return list(args)
    for name, text in given:
        *path, last = name.split(".")
        inner = content
        for step in path:
            known = inner.get(step) or {}
            if not isinstance(known, Mapping):
                raise UsageError(
                    f"--{name}: expected a path of nested keys, found {step} = {known!r}; "
                    "drop the part after it"
                )
            inner[step] = dict(known)
            inner = inner[step]
        inner[last] = read_value(name, text)
    touched = [p for p in PLAIN_DATA if any(name.startswith(f"{p}.") for name, _ in given)]
    values = {place: content[place.split(".")[0]][place.split(".")[1]] for place in touched}
    return [*rest, *(f"--{place}={json.dumps(value)}" for place, value in values.items())]


def _merged_files(files: Sequence[str]) -> dict[str, Any]:
    """Merged contents of configuration files, later ones first; unreadable ones are ignored."""
    content: dict[str, Any] = {}
    for file in filter(os.path.isfile, files):
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if isinstance(found, Mapping):
            content = merged(content, found)
    return content


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second takes precedence."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        if isinstance(first[name], Mapping) and isinstance(second[name], Mapping):
            both[name] = merged(first[name], second[name])
    return both


def train(args: Sequence[str]) -> Trainer:
    """Run a training.

    Args:
        args: as on the command line: ``-c FILE.yaml``, dotted overrides, ``--ckpt_path``,
            ``--review``, ``--print_config``.

    Raises:
        UsageError: for an invalid configuration.
        RscdError: for problems with data or environment.
    """
    if not args:
        raise UsageError("expected a configuration, found none; try rscd train -c FILE.yaml")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_news)
    try:
        with warnings.catch_warnings():
            # arguments come from our command line; logs and checkpoints share the run's folder
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", "Experiment logs directory .* is not empty")
            warnings.filterwarnings("ignore", "Precision .* is not supported by the model summary")
            # frozen batch norms are intended
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
            with log_failures_in_one_line():
                return _run(["fit", *with_deep_dots(with_reviews(args))])
    except RscdError:
        raise
    except SystemExit as error:
        # Lightning converts a keyboard interrupt to SystemExit
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted(f"interrupted{_ways_on(error.__context__)}") from error
        raise
    except Exception as error:
        log.debug("the run failed", exc_info=True)
        raise _explained(error) from error


def _explained(error: Exception) -> RscdError:
    """Convert an exception of any library to an error with one line for the user."""
    reason = " ".join(str(error).split()) or "no details"
    kind: type[RscdError] = UsageError
    match error:
        case ArgumentError():
            found = textwrap.shorten(reason, 300, placeholder=" ... (-v tells all)")
            text = f"expected a valid configuration, found: {found}; see rscd train --help"
        case UnicodeDecodeError():
            text = f"expected a configuration in UTF-8, found: {reason}"
        case MisconfigurationException():
            text = f"expected a run that this machine supports, found: {reason}"
        case ImportError():
            text = (
                f"expected an installed package, found: {reason}; install it, or choose other "
                "loggers, callbacks and classes in the configuration"
            )
        case OSError():
            kind, name = OutputError, os.fsdecode(error.filename or "files")
            text = (
                f"expected to read and write {name}, found: {error.strerror or reason}; check "
                "path, permissions and free space"
            )
        case torch.OutOfMemoryError() | MemoryError():
            kind = RscdError
            text = f"expected enough memory, found: {reason}; reduce data.batch_size"
        case _:
            own = [f for f in traceback.extract_tb(error.__traceback__) if "rscd" in f.filename]
            place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
            text = (
                f"expected a configuration that can be trained, found {type(error).__name__}: "
                f"{reason}{place}; check the values of model and data"
            )
    return kind(text + _ways_on(error))


def _ways_on(error: BaseException) -> str:
    """Text of the note added by `WaysOn`."""
    # a log that also fails while the run ends hides the error with the note
    chain: list[BaseException] = [error]
    while (earlier := chain[-1].__context__) is not None and earlier not in chain:
        chain.append(earlier)
    notes = [note for one in chain for note in getattr(one, "__notes__", ())]
    return f"; {notes[0]}" if notes else ""


@contextmanager
def log_failures_in_one_line() -> Iterator[None]:
    """Log errors of background log writers in one line: the run raises them as well."""
    usual = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError):
            log.warning("a log could not be written: %s", args.exc_value)
        else:
            usual(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual


def is_news(record: logging.LogRecord) -> bool:
    """Whether a log line of Lightning is about the run: it also advertises other products."""
    return "Tip:" not in record.getMessage()


def _run(args: list[str]) -> Trainer:
    strict = {"exit_on_error": False}
    cli = TrainingCLI(
        ChangeTask,
        ChangeDataModule,
        args=args,
        save_config_callback=KeepConfig,
        save_config_kwargs={"overwrite": True},  # a resumed run continues in its own folder
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={**strict, "fit": {**strict, "usage": USAGE, "description": DESCRIPTION}},
    )
    trainer: Trainer = cli.trainer
    return trainer
