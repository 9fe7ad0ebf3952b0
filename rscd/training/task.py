"""ChangeTask: the only LightningModule. It treats all methods alike."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from rscd.base.arguments import fitted, made
from rscd.base.errors import ModelError, RscdError, UsageError
from rscd.base.types import CARD_FORMAT, CARD_KEY, Batch, Provenance
from rscd.base.version import version
from rscd.methods.parts.schedules import SCHEDULES, warmed_up
from rscd.methods.registry import METHODS
from rscd.metrics.probabilities import ChangeMetrics
from rscd.models.finite import all_finite, non_finite

log = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}

PATIENCE_WITHOUT_CHANGE = 3
"""Consecutive validations without a changed pixel after which a run counts as collapsed."""


class ChangeTask(LightningModule):
    """Train and validate a method; all arguments are plain data and stored in the checkpoint."""

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
        channels_last: bool = True,
        card: dict[str, Any] | None = None,
    ) -> None:
        """Build the method.

        Args:
            method: name in `rscd.methods.registry.METHODS`.
            method_args: of that method.
            lr: base learning rate; a method may scale it per group.
            optimizer: one of `OPTIMIZERS`.
            optimizer_args: its further arguments.
            schedule: name in `rscd.methods.parts.schedules.SCHEDULES`, per optimiser step.
            schedule_args: its further arguments.
            warmup_steps: linear warm-up before the schedule.
            patch_size: side in pixels of the input of prediction.
            halo: context in pixels per side that prediction trims from the result.
            channels_last: store weights and activations with channels last, which CPUs and GPUs
                convolve faster: a fifth less time for the tiny network on a CPU.
            card: other facts for users of the weights (bands, data, licence).

        Raises:
            UsageError: for an unknown name, a negative rate, or a halo of half the patch or more.
        """
        super().__init__()
        self.save_hyperparameters()
        for name, known in ((method, METHODS), (optimizer, OPTIMIZERS), (schedule, SCHEDULES)):
            if name not in known:
                raise UsageError(f"expected one of {', '.join(known)}, found {name!r}")
        if not 0 <= lr < float("inf"):
            raise UsageError(f"expected a learning rate of 0 or more, found lr {lr}")
        if halo < 0 or warmup_steps < 0:
            raise UsageError(
                f"expected halo and warmup_steps of 0 or more, found {halo} and {warmup_steps}"
            )
        if 2 * halo >= patch_size:
            raise UsageError(
                f"expected a halo below half of patch_size {patch_size}, found {halo}: nothing "
                "would be left of a patch"
            )
        what, own = f"schedule_args of {schedule}", schedule_args or {}
        self._schedule_args = fitted(SCHEDULES[schedule], own, what, without=("step", "total"))
        what, own = f"optimizer_args of {optimizer}", optimizer_args or {}
        self._optimizer_args = fitted(OPTIMIZERS[optimizer], own, what, without=("params", "lr"))
        _check_plain(card or {})
        self.method = made(METHODS[method], method_args, f"method_args of {method}")
        if channels_last:
            self.method = self.method.to(memory_format=torch.channels_last)
        self.metrics = ChangeMetrics()
        self.test_metrics = ChangeMetrics()
        self.others = torch.nn.ModuleDict()
        self.best: dict[str, float] = {}
        self._validations_without_change = 0
        self._parts: Iterator[dict[str, Tensor]] = iter(())
        self._terms: dict[str, Tensor] = {}

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        """Streams and keys that the method needs from the data module."""
        return self.method.needs

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random generators for every step, so that a resumed run draws the same numbers.

        The seed depends on the run, the process, the epoch and the batch; it determines dropout and
        all random numbers a method derives from ``torch.initial_seed()``.
        """
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        keys = (seed, self.global_rank, self.current_epoch, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> Tensor:
        """The first part of the method's losses; `on_after_backward` handles the others."""
        total = int(self.trainer.estimated_stepping_batches)
        parts = self.method.loss_parts(batch, self.global_step, total)
        # DDP synchronises gradients once, after a single backward pass
        if self.trainer.world_size > 1:
            parts = iter([{name: value for part in parts for name, value in part.items()}])
        self._parts, self._terms = parts, {}
        return self._sum(next(self._parts))

    def on_after_backward(self) -> None:
        """Compute and backpropagate the next part of the losses, recursively until none is left.

        Lightning clips gradients and steps afterwards, so that all parts count.
        """
        strategy = self.trainer.strategy
        with strategy.precision_plugin.train_step_context():
            part = next(self._parts, None)
            if part is None:
                return
            loss = self._sum(part) / self.trainer.accumulate_grad_batches
        strategy.backward(loss, None)

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Sum of some losses, each recorded by name.

        Raises:
            RscdError: if it is not finite: it would make all weights NaN.
        """
        self._terms |= {name: value.detach() for name, value in terms.items()}
        loss = torch.stack(list(terms.values())).sum()
        finite = all_finite(loss.detach())
        # all processes must stop together, or the others would wait forever
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            found = ", ".join(f"{name} {float(value):g}" for name, value in self._terms.items())
            raise RscdError(
                f"expected a finite loss, found {found} at step {self.global_step} "
                f"(epoch {self.current_epoch}); lower model.lr, clip gradients with "
                "trainer.gradient_clip_val, or look for NaN or infinity in the images"
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the losses."""
        size = max(len(stream["image"]) for stream in batch.values())
        for name, value in self._terms.items():
            self.log(f"train/{name}", value, batch_size=size)
        loss = torch.stack(list(self._terms.values())).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=size)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Pool the counts; returns the change probabilities (B,1,H,W)."""
        change_prob = self._numbers(self.method.evaluate(batch), "validation")
        self.metrics.update(change_prob, batch["mask"])
        for name, other in self.method.beside(batch).items():
            if name not in self.others:
                self.others[name] = ChangeMetrics().to(self.device)
            cast(ChangeMetrics, self.others[name]).update(other, batch["mask"])
        return change_prob

    def on_validation_epoch_end(self) -> None:
        """Log all metrics, and warn if nothing is ever predicted as change."""
        found = {name: float(value) for name, value in self.metrics.compute().items()}
        counts = self.metrics.counts(self.metrics.threshold)
        self.metrics.reset()
        for name, value in found.items():
            self.log(f"val/{name}", value, prog_bar=name == "f1_change")
        for other, module in self.others.items():
            metrics = cast(ChangeMetrics, module)
            for name, score in metrics.compute().items():
                self.log(f"val/{other}/{name}", float(score))
            metrics.reset()
        if not self.trainer.sanity_checking:
            self.best = found
            self._watch_collapse(counts.predicted[1], counts.true[1])

    def on_test_epoch_start(self) -> None:
        """Measure at the threshold chosen in validation, 0.5 without one."""
        threshold = self.best.get("best_threshold", 0.5)
        self.test_metrics = ChangeMetrics(threshold).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Pool the counts of predictions, which do not use the mask."""
        change_prob = self._numbers(self.method.predict(batch["image"]), "test")
        self.test_metrics.update(change_prob, batch["mask"])

    def _numbers(self, change_prob: Tensor, split: str) -> Tensor:
        """The probabilities; refuses NaN, which cannot be measured."""
        if not all_finite(change_prob):
            raise ModelError(
                f"expected probabilities from the network, found NaN in {split} at step "
                f"{self.global_step}: its weights, or values of the images, are too large; lower "
                "model.lr or clip gradients with trainer.gradient_clip_val"
            )
        return change_prob

    def on_test_epoch_end(self) -> None:
        """Log all metrics of the test split."""
        for name, value in self.test_metrics.compute().items():
            self.log(f"test/{name}", value)
        self.test_metrics.reset()

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
        optimizer = OPTIMIZERS[h["optimizer"]](groups, lr=h["lr"], **self._optimizer_args)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            value = SCHEDULES[h["schedule"]](step, total, **self._schedule_args)
            return warmed_up(value, step, h["warmup_steps"])

        steps = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": steps}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card: everything prediction needs besides the weights.

        A network built from the file gets its weights from the file, so the stored arguments no
        longer name the initial weights; the card does.

        Raises:
            ModelError: for weights that are not finite; nothing is written then.
        """
        self._check_weights(checkpoint, "to save")
        checkpoint[CARD_KEY] = self.card()
        kept = dict(checkpoint["hyper_parameters"])
        kept["method_args"] = _without_weights(kept["method_args"])
        checkpoint["hyper_parameters"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metrics, and with them the threshold.

        Raises:
            ModelError: for weights that are not finite.
        """
        self._check_weights(checkpoint, "in the checkpoint")
        self.best = dict(checkpoint[CARD_KEY]["metrics"])

    def _check_weights(self, checkpoint: Mapping[str, Any], where: str) -> None:
        broken = non_finite(checkpoint["state_dict"])
        if broken:
            raise ModelError(
                f"expected finite weights {where}, found NaN or infinity in "
                f"{len(broken)} of them, such as {broken[0]}, at step "
                f"{checkpoint['global_step']}; lower model.lr or clip gradients with "
                "trainer.gradient_clip_val, and resume from an earlier checkpoint"
            )

    def card(self) -> Provenance:
        """Plain data about the network, how to tile it, its threshold and its metrics."""
        data = getattr(self._trainer, "datamodule", None)
        return {
            "format": CARD_FORMAT,
            "method": self.hparams["method"],
            **self.method.card(),
            "patch_size": self.hparams["patch_size"],
            "halo": self.hparams["halo"],
            "threshold": self.best.get("best_threshold", 0.5),
            "metrics": self.best,
            "splits": dict(getattr(data, "split_hashes", {})),
            "versions": {name: version(name) for name in ("rscd", "torch", "lightning")},
            **(self.hparams["card"] or {}),
        }


def _check_plain(card: Mapping[str, Any]) -> None:
    """Refuse anything but plain data, so that checkpoints load without running code."""
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"expected plain data in card (text, numbers, lists), found {card}: {error}; put "
            "quotes around dates"
        ) from error


def _without_weights(method_args: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments with every ``weights`` replaced by null."""
    args = dict(method_args or {})
    for name, value in args.items():
        if isinstance(value, dict):
            args[name] = {k: None if k == "weights" else v for k, v in value.items()}
    return args
