"""Checkpoints of a run: how they are written, when, and whose they are."""

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
"""What Lightning takes as ``--ckpt_path`` instead of a file."""


class VerifiedIO(TorchCheckpointIO):
    """Writes checkpoints that appear whole and read back as they were meant."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write one.

        Raises:
            OSError: where it cannot be written; what was there before is still there.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_verified(target, buffer.getbuffer())


class LastCheckpoint(ModelCheckpoint):
    """Saves a run every few steps where it can be resumed exactly, and once more at its end.

    Lightning resumes a run that was saved between the last batch of an epoch and the validation
    behind it without that validation, and what should have been the best checkpoint is missed. Here
    such a save waits until the validation is over.
    """

    @property
    def state_key(self) -> str:
        """That of the parent, by which checkpoints of earlier versions know this callback."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step the run begins or resumes at."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, unless a validation or the end of the epoch comes next."""
        if self._every_n_train_steps < 1:  # by time or by epochs, as a configuration may say
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif not _pauses(trainer):
            self._save_when_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time; at the end of an epoch, `on_train_epoch_end` does."""
        if self._every_n_train_steps < 1:
            super().on_validation_end(trainer, pl_module)
        elif not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_when_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time."""
        if self._every_n_train_steps < 1:
            super().on_train_epoch_end(trainer, pl_module)
        else:
            self._save_when_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run, whatever step it is."""
        self._save_once(trainer)

    def _save_when_due(self, trainer: Trainer) -> None:
        every = self._every_n_train_steps
        if trainer.global_step // every > self._last_global_step_saved // every:
            self._save_once(trainer)

    def _save_once(self, trainer: Trainer) -> None:
        if self.save_top_k and not self._should_skip_saving_checkpoint(trainer):
            path = self.format_checkpoint_name({})
            self.best_model_path = self.last_model_path = path  # part of what is saved
            self._save_checkpoint(trainer, path)


def _pauses(trainer: Trainer) -> bool:
    """Whether the batch just trained on is followed by a validation or the end of the epoch."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch:
        return True
    every = trainer.val_check_batch
    done = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return every is not None and trainer.enable_validation and (done + 1) % every == 0


def written_by(callbacks: Iterable[Any]) -> list[Path]:
    """The checkpoints that are there under names that these callbacks will write, sorted."""
    found: set[Path] = set()
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            names = [LAST] if callback.save_last else []
            names += [f"{callback.filename}{SUFFIX}"] if callback.filename else [f"epoch=*{SUFFIX}"]
            for name in names:
                found |= set(Path(callback.dirpath).glob(re.sub(r"\{.*?\}", "*", name)))
    return sorted(found)


def check_own(found: Iterable[Path], resumed: str | None) -> None:
    """Find out whether checkpoints may be replaced: they are those of the run that is resumed.

    Args:
        found: see `written_by`.
        resumed: what ``--ckpt_path`` names.

    Raises:
        OutputError: otherwise, with the ways on.
    """
    others = [path for path in found if not _of_run(path, resumed)]
    if others:
        last = next((path for path in others if path.name == LAST), others[0])
        raise OutputError(
            f"expected a folder without checkpoints for a new run, found "
            f"{', '.join(path.name for path in others)} in {others[0].parent}; resume that run "
            f"with --ckpt_path {last}, take another folder with --trainer.default_root_dir, or "
            "replace them with --overwrite"
        )


def _of_run(path: Path, resumed: str | None) -> bool:
    if resumed is None:
        return False
    return resumed in WORDS or Path(resumed).resolve().parent == path.resolve().parent


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half written."""
    for folder in folders:
        for part in parts_in(folder, SUFFIX):
            part.unlink(missing_ok=True)
