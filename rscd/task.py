"""ChangeTask: the one LightningModule. It never asks which method it holds."""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from rscd.errors import UsageError
from rscd.methods.registry import METHODS
from rscd.methods.schedules import SCHEDULES, warmed_up
from rscd.metrics import ChangeMetrics
from rscd.types import CARD_FORMAT, CARD_KEY, Batch, Provenance

log = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}

PATIENCE_WITHOUT_CHANGE = 3
"""Validations in a row without a changed pixel after which the run is called collapsed."""


class ChangeTask(LightningModule):
    """Train and validate a method; all arguments are plain data and lie in the checkpoint."""

    def __init__(
        self,
        method: str = "supervised",
        method_args: dict[str, Any] | None = None,
        lr: float = 1e-3,
        optimizer: str = "adamw",
        optimizer_args: dict[str, Any] | None = None,
        schedule: str = "cosine",
        schedule_args: dict[str, Any] | None = None,
        warmup_steps: int = 0,
        patch_size: int = 256,
        halo: int = 64,
        card: dict[str, Any] | None = None,
    ) -> None:
        """Build the method.

        Args:
            method: name in `rscd.methods.registry.METHODS`.
            method_args: of that method.
            lr: base learning rate; a method may scale it by group.
            optimizer: one of `OPTIMIZERS`.
            optimizer_args: its further arguments.
            schedule: name in `rscd.methods.schedules.SCHEDULES`, per optimiser step.
            schedule_args: its further arguments.
            warmup_steps: linear warm-up before the schedule.
            patch_size: pixels per side that prediction feeds at once.
            halo: pixels of context per side of which prediction trims the result.
            card: whatever else a user of the weights should know (bands, data, licence).

        Raises:
            UsageError: for an unknown name.
        """
        super().__init__()
        self.save_hyperparameters()
        for name, known in (
            (method, METHODS),
            (optimizer, OPTIMIZERS),
            (schedule, SCHEDULES),
        ):
            if name not in known:
                raise UsageError(f"expected one of {', '.join(known)}, found {name!r}")
        self.method = METHODS[method](**(method_args or {}))
        self.metrics = ChangeMetrics()
        self.best: dict[str, float] = {}
        self._validations_without_change = 0

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        """Streams and keys the method asks the data module for."""
        return self.method.needs

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> Tensor:
        """Sum of the method's losses, each logged by its name."""
        total = int(self.trainer.estimated_stepping_batches)
        terms = self.method.losses(batch, self.global_step, total)
        size = max(len(stream["image"]) for stream in batch.values())
        for name, value in terms.items():
            self.log(f"train/{name}", value.detach(), batch_size=size)
        loss = torch.stack(list(terms.values())).sum()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the method move its teacher, once per optimiser step."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.method.after_step(self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Pool the counts."""
        self.metrics.update(self.method.predict(batch["image"]), batch["mask"])

    def on_validation_epoch_end(self) -> None:
        """Log all metrics, and say so when nothing is ever called change."""
        found = {name: float(value) for name, value in self.metrics.compute().items()}
        counts = self.metrics.counts(self.metrics.threshold)
        self.metrics.reset()
        for name, value in found.items():
            self.log(f"val/{name}", value, prog_bar=name == "f1_change")
        if not self.trainer.sanity_checking:
            self.best = found
            self._watch_collapse(counts.predicted[1], counts.true[1])

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log all metrics of the test split."""
        for name, value in self.metrics.compute().items():
            self.log(f"test/{name}", value)
        self.metrics.reset()

    def _watch_collapse(self, predicted: int, true: int) -> None:
        without = self._validations_without_change + 1
        self._validations_without_change = without if true and not predicted else 0
        if self._validations_without_change == PATIENCE_WITHOUT_CHANGE:
            log.warning(
                "%d validations without one changed pixel, though %d are: the run has collapsed to "
                "'no change'; try a lower lr, losses {bce: 1, dice: 1}, class_weights that favour "
                "change, or more patches that contain change",
                without,
                true,
            )

    def configure_optimizers(self) -> Any:
        """The optimiser over the method's groups and a schedule per step."""
        h = self.hparams
        groups = self.method.parameter_groups(h["lr"])
        optimizer = OPTIMIZERS[h["optimizer"]](groups, lr=h["lr"], **(h["optimizer_args"] or {}))
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            value = SCHEDULES[h["schedule"]](step, total, **(h["schedule_args"] or {}))
            return warmed_up(value, step, h["warmup_steps"])

        scheduler = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card: all that prediction needs beside the weights."""
        checkpoint[CARD_KEY] = self.card()

    def _split_hashes(self) -> dict[str, str]:
        trainer = self._trainer
        return dict(getattr(getattr(trainer, "datamodule", None), "split_hashes", {}))

    def card(self) -> Provenance:
        """Plain data about the network, how to tile it, its threshold and its metrics."""
        args: Mapping[str, Any] = self.hparams["method_args"] or {}
        return {
            "format": CARD_FORMAT,
            "method": self.hparams["method"],
            "network": args.get("network", "siamese-unet"),
            "network_args": dict(args.get("network_args") or {}),
            "patch_size": self.hparams["patch_size"],
            "halo": self.hparams["halo"],
            "multiple": int(getattr(self.method.network, "multiple", 32)),
            "threshold": self.best.get("best_threshold", 0.5),
            "metrics": self.best,
            "splits": self._split_hashes(),
            "versions": {name: version(name) for name in ("rscd", "torch", "lightning")},
            **(self.hparams["card"] or {}),
        }
