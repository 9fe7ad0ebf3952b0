import logging

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from rscd.errors import UsageError
from rscd.metrics import MONITOR
from rscd.task import ChangeTask
from rscd.types import CARD_KEY

pytestmark = pytest.mark.filterwarnings(
    # advice of lightning to people with more cores
    "ignore:The '.*' does not have many workers",
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
)

SMALL = {
    "network": "siamese-unet",
    "network_args": {"encoder": "resnet18", "decoder_channels": [16, 8], "std": [50.0] * 3},
}


def pairs(n=4, size=32, change=True):
    """Noise with a bright square that appears in half of the image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(n, 2, 3, size, size, generator=generator) * 50
    mask = torch.zeros(n, 1, size, size, dtype=torch.long)
    if change:
        for i in range(n):
            mask[i, :, 4 : 16 + i, 8:24] = 1
            image[i, 1, :, 4 : 16 + i, 8:24] += 100
    return [{"image": image[i], "mask": mask[i]} for i in range(n)]


def fit(tmp_path, epochs=1, ckpt=None, callbacks=(), **task):
    seed_everything(0, verbose=False)
    module = ChangeTask(method_args=SMALL | task.pop("method_args", {}), **task)
    train, val = (DataLoader(pairs(), batch_size=2) for _ in range(2))
    run = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
    )
    streams = CombinedLoader({"train": train}, "max_size_cycle")
    run.fit(module, streams, val, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return module, run


def test_overfits_four_tiny_pairs(tmp_path):
    module, run = fit(tmp_path, epochs=25, lr=3e-3)
    assert float(run.callback_metrics["val/f1_change"]) > 0.9
    assert module.best[MONITOR] == pytest.approx(float(run.callback_metrics[f"val/{MONITOR}"]))


@pytest.mark.parametrize("losses", [{"bce": 1}, {"focal": 1, "dice": 0.5}, {"jaccard": 1}])
def test_losses_are_named_weighted_and_summed(tmp_path, losses):
    _, run = fit(tmp_path, method_args={"losses": losses, "swap_weight": 0.1})
    logged = {
        k.removeprefix("train/"): float(v)
        for k, v in run.callback_metrics.items()
        if k.startswith("train/")
    }
    assert set(logged) == {*losses, "swap", "loss"}
    total = sum(v for k, v in logged.items() if k != "loss")
    assert logged["loss"] == pytest.approx(total, rel=1e-5)


def test_equal_seeds_give_equal_weights(tmp_path):
    first, _ = fit(tmp_path / "a", epochs=2)
    second, _ = fit(tmp_path / "b", epochs=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_resumed_run_ends_with_the_same_weights(tmp_path):
    def keep(folder):
        return [ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)]

    whole, _ = fit(tmp_path, epochs=2, callbacks=keep(tmp_path / "a"))
    first = tmp_path / "a" / "epoch=0.ckpt"
    resumed, _ = fit(tmp_path, epochs=2, callbacks=keep(tmp_path / "b"), ckpt=first)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_is_plain_data_and_describes_itself(tmp_path):
    module, run = fit(tmp_path, halo=32, patch_size=128, card={"licence": "MIT"})
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = torch.load(tmp_path / "run.ckpt", weights_only=True)
    card = loaded[CARD_KEY]
    assert card["halo"] == 32
    assert card["multiple"] == 4
    assert card["licence"] == "MIT"
    assert card["metrics"][MONITOR] == module.best[MONITOR]
    again = ChangeTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    image = pairs()[0]["image"][None]
    assert torch.equal(again.eval().method.predict(image), module.eval().method.predict(image))


def test_collapse_is_recognised(tmp_path, caplog):
    module = ChangeTask(method_args=SMALL)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            module._watch_collapse(0, 10)
    assert "collapsed" in caplog.text
    caplog.clear()
    module._watch_collapse(5, 10)
    module._watch_collapse(0, 10)
    assert not caplog.text


def test_unknown_names_are_user_errors():
    for wrong in ({"method": "x"}, {"optimizer": "x"}, {"schedule": "x"}):
        with pytest.raises(UsageError, match="expected one of"):
            ChangeTask(**wrong)
    with pytest.raises(UsageError, match="expected losses among"):
        ChangeTask(method_args={"losses": {"mse": 1}})
