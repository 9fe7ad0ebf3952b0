"""Checkpoints: written whole, saved where a run can be resumed exactly, never replaced unasked."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rscd.base.files
from rscd.base.errors import OutputError
from rscd.training.checkpoints import LAST, LastCheckpoint, VerifiedIO, check_own, written_by

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The '.*' does not have many workers",
    "ignore:The number of training batches",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The dirpath has changed",
)


class Line(LightningModule):
    """Learns one weight; its validation gives another best epoch than the last."""

    SCORES = (0.3, 0.9, 0.5, 0.2, 0.95, 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.validated: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return ((self.weight - batch.mean()) ** 2).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.global_step)
        self.log("score", self.SCORES[self.global_step // 2 % len(self.SCORES)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Kept(VerifiedIO):
    """Also keeps a copy of every ``last.ckpt``, by its number."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        if Path(path).name == LAST:
            state = self.folder / str(len(list(self.folder.iterdir())))
            shutil.copytree(Path(path).parent, state)


def fit(folder: Path, states: Path, *, ckpt: Path | None = None, **options: Any) -> Line:
    module = Line()
    best = ModelCheckpoint(
        folder, "best", monitor="score", mode="max", enable_version_counter=False, save_last=True
    )
    last = LastCheckpoint(folder, "last", every_n_train_steps=1, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[best, last],
        plugins=[Kept(states)], **options,
    )  # fmt: skip
    numbers: Any = torch.arange(4.0)  # a tensor is a dataset, though it does not say so
    nought: Any = torch.zeros(1)
    train: DataLoader[Any] = DataLoader(numbers, batch_size=1)
    val: DataLoader[Any] = DataLoader(nought)
    trainer.fit(module, train, val, ckpt_path=ckpt, weights_only=True)
    return module


def content(folder: Path) -> dict[str, tuple[int, float]]:
    found = {}
    for name in ("best", "last"):
        state = torch.load(folder / f"{name}.ckpt", weights_only=True)
        found[name] = (state["global_step"], float(state["state_dict"]["weight"]))
    return found


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2}], ids=["epoch", "within"])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_ends_the_same_from_whatever_was_saved_last(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Whenever it is killed: what is left then is one of the states of its folder."""
    states = tmp_path / "states"
    states.mkdir()
    whole = fit(tmp_path / "run", states, **options)
    expected = content(tmp_path / "run")
    assert expected["last"][0] == 12, "the end is saved, whether or not it is the best"
    assert expected["best"][0] != 12
    at_ends = [s for s in states.iterdir() if content_step(s) % 4 == 0]
    assert at_ends
    for state in at_ends:  # in between, this loader cannot be resumed; those of rscd can
        folder = tmp_path / f"again{state.name}"
        shutil.copytree(state, tmp_path / "run", dirs_exist_ok=True)
        (tmp_path / "spare" / folder.name).mkdir(parents=True)
        again = fit(tmp_path / "run", tmp_path / "spare" / folder.name,
                    ckpt=tmp_path / "run" / LAST, **options)  # fmt: skip
        assert content(tmp_path / "run") == expected, f"from step {content_step(state)}"
        assert set(again.validated) == {s for s in whole.validated if s > content_step(state)}


def content_step(folder: Path) -> int:
    return int(torch.load(folder / LAST, weights_only=True)["global_step"])


@pytest.mark.parametrize("fault", ["full", "other"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "run" / LAST
    VerifiedIO().save_checkpoint({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    if fault == "full":
        monkeypatch.setattr(os, "fsync", full)
    else:  # a lost write: the file is shorter than what was given
        real = rscd.base.files.sha256_of
        monkeypatch.setattr(
            rscd.base.files, "sha256_of", lambda p: (p.write_bytes(p.read_bytes()[:9]), real(p))[1]
        )
    with pytest.raises(OSError, match=r"No space left|read-back mismatch"):
        VerifiedIO().save_checkpoint({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [LAST]


def test_whose_checkpoints_lie_in_a_folder(tmp_path: Path) -> None:
    savers = [
        ModelCheckpoint(tmp_path, "best-{epoch}", monitor="x", save_last=True),
        LastCheckpoint(tmp_path, "latest", every_n_train_steps=1),
    ]
    assert written_by(savers) == []
    for name in ("best-epoch=3.ckpt", "last.ckpt", "latest.ckpt", "mine.ckpt", "best.txt"):
        (tmp_path / name).touch()
    found = written_by(savers)
    assert [path.name for path in found] == ["best-epoch=3.ckpt", "last.ckpt", "latest.ckpt"]
    check_own([], None)
    check_own(found, str(tmp_path / "mine.ckpt"))
    check_own(found, "last")
    for resumed in (None, str(tmp_path / "elsewhere" / LAST)):
        with pytest.raises(OutputError, match=rf"--ckpt_path .*{LAST}, .*default_root_dir.*--over"):
            check_own(found, resumed)


def test_checkpoints_of_earlier_versions_know_the_callback() -> None:
    options: dict[str, Any] = {"every_n_train_steps": 5}
    assert LastCheckpoint(**options).state_key == ModelCheckpoint(**options).state_key
