"""Checkpoints of a run: how and when they are written, and which run they belong to."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rscd.base.errors import OutputError
from rscd.base.files import parts_in, write_verified

SUFFIX = ModelCheckpoint.FILE_EXTENSION
LAST = f"{ModelCheckpoint.CHECKPOINT_NAME_LAST}{SUFFIX}"
WORDS = ("last", "best", "hpc")
"""Values of ``--ckpt_path`` that Lightning accepts instead of a file."""


class VerifiedIO(TorchCheckpointIO):
    """Writes checkpoints that appear whole and are verified by reading them back."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written; an existing file is unchanged.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_verified(target, buffer.getbuffer())


class LastCheckpoint(ModelCheckpoint):
    """Saves a run every few steps, where it can be resumed exactly, and at its end.

    If a run was saved between the last batch of an epoch and the validation after it, Lightning
    resumes it without that validation, which may miss the best checkpoint. This callback delays
    such a save until the validation has finished.
    """

    @property
    def state_key(self) -> str:
        """The parent's key, which checkpoints of earlier versions contain."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step at which the run starts or resumes."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due, unless a validation or the end of the epoch comes next."""
        if self._every_n_train_steps < 1:  # a configuration may save by time or by epochs instead
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif not _pauses(trainer):
            self._save_when_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if due; at the end of an epoch, `on_train_epoch_end` does it."""
        if self._every_n_train_steps < 1:
            super().on_validation_end(trainer, pl_module)
        elif not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_when_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if due."""
        if self._every_n_train_steps < 1:
            super().on_train_epoch_end(trainer, pl_module)
        else:
            self._save_when_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run, at whatever step."""
        self._save_once(trainer)

    def _save_when_due(self, trainer: Trainer) -> None:
        every = self._every_n_train_steps
        if trainer.global_step // every > self._last_global_step_saved // every:
            self._save_once(trainer)

    def _save_once(self, trainer: Trainer) -> None:
        if self.save_top_k and not self._should_skip_saving_checkpoint(trainer):
            path = self.format_checkpoint_name({})
            # set before saving, because it is part of the state
            self.best_model_path = self.last_model_path = path
            self._save_checkpoint(trainer, path)


def _pauses(trainer: Trainer) -> bool:
    """Whether a validation or the end of the epoch follows the current batch."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch:
        return True
    every = trainer.val_check_batch
    done = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return every is not None and trainer.enable_validation and (done + 1) % every == 0


def written_by(callbacks: Iterable[Any]) -> list[Path]:
    """Existing checkpoints with names that these callbacks will write, sorted."""
    found: set[Path] = set()
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            names = [LAST] if callback.save_last else []
            names += [f"{callback.filename}{SUFFIX}"] if callback.filename else [f"epoch=*{SUFFIX}"]
            for name in names:
                found |= set(Path(callback.dirpath).glob(re.sub(r"\{.*?\}", "*", name)))
    return sorted(found)


def check_own(found: Iterable[Path], resumed: str | None) -> None:
    """Check that existing checkpoints belong to the resumed run, so that they may be replaced.

    Args:
        found: see `written_by`.
        resumed: value of ``--ckpt_path``.

    Raises:
        OutputError: if they do not; the message lists the options.
    """
    own = None if resumed is None or resumed in WORDS else Path(resumed).resolve().parent
    others = [p for p in found if resumed not in WORDS and p.resolve().parent != own]
    if others:
        last = next((path for path in others if path.name == LAST), others[0])
        raise OutputError(
            f"expected a folder without checkpoints for a new run, found "
            f"{', '.join(path.name for path in others)} in {others[0].parent}; resume that run "
            f"with --ckpt_path {last}, choose another folder with --trainer.default_root_dir, or "
            "replace them with --overwrite"
        )


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove partial files that a killed run left."""
    for folder in folders:
        for part in parts_in(folder, SUFFIX):
            part.unlink(missing_ok=True)
