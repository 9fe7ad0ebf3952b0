"""Training runs: LightningCLI over the one module and the one data module.

A run is a YAML file with ``trainer``, ``model`` and ``data``; everything in it can be overridden
on the command line with dots. The run's folder holds the resolved configuration, logs and
checkpoints.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rscd.data.module import ChangeDataModule
from rscd.errors import UsageError
from rscd.metrics import MODE, MONITOR
from rscd.task import ChangeTask


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
        """Best and last checkpoint by the declared measure and direction."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": f"val/{MONITOR}",
                "checkpoint.mode": MODE,
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Logs and checkpoints go to ``trainer.default_root_dir``."""
        folder = Path(self._get(self.config_init, "trainer")["default_root_dir"] or "runs")
        kwargs.setdefault("logger", [CSVLogger(folder, "", ""), TensorBoardLogger(folder, "", "")])
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder)
        trainer.callbacks.append(LearningRateMonitor("step"))  # type: ignore[attr-defined]
        return trainer


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
    try:
        with warnings.catch_warnings():
            # ours are those of the command line; logs and checkpoints share the run's folder
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            return _run(["fit", *args])
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"expected a configuration that fits, found: {reason}") from error


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
        parser_kwargs={**strict, "fit": strict},
    )
    trainer: Trainer = cli.trainer
    return trainer
