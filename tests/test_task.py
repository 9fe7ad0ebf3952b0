import copy
import logging

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from rscd.errors import UsageError
from rscd.methods.losses import mask_loss
from rscd.methods.registry import METHODS
from rscd.methods.supervised import Supervised
from rscd.metrics import MONITOR
from rscd.models.logits import change_logit
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


def quiet_trainer(tmp_path, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(options.get("callbacks")),
        **options,
    )


def fit(tmp_path, epochs=1, ckpt=None, callbacks=(), **task):
    seed_everything(0, verbose=False)
    module = ChangeTask(method_args=copy.deepcopy(SMALL) | task.pop("method_args", {}), **task)
    train, val = (DataLoader(pairs(), batch_size=2) for _ in range(2))
    run = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=list(callbacks))
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
    with pytest.raises(UsageError, match="halo below half of patch_size 64, found 32"):
        ChangeTask(method_args=SMALL, patch_size=64, halo=32)


class Halves(Supervised):
    """The mean of the losses of the two halves of a batch, as two parts or as one."""

    apart = True

    def losses(self, batches, step, total):
        logit = change_logit(self.network(batches["train"]["image"])["logits"])
        loss = mask_loss(logit, batches["train"]["mask"], "bce")
        return {"a": 0.5 * loss, "b": 0.25 * loss}

    def loss_parts(self, batches, step, total):
        if not self.apart:
            yield self.losses(batches, step, total)
            return
        for name in ("a", "b"):
            yield {name: self.losses(batches, step, total)[name]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_in_parts_give_the_gradients_of_their_sum(tmp_path, monkeypatch, accumulate):
    """Frozen statistics, so that a second forward pass sees what the first saw."""
    monkeypatch.setitem(METHODS, "halves", Halves)
    found = []
    for apart in (True, False):
        monkeypatch.setattr(Halves, "apart", apart)
        seed_everything(0, verbose=False)
        args = {"network": "tiny", "network_args": {"std": [50.0] * 3}}
        module = ChangeTask("halves", args, optimizer="sgd", lr=0.01)
        run = quiet_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=accumulate)
        streams = CombinedLoader({"train": DataLoader(pairs(), batch_size=2)}, "max_size_cycle")
        run.fit(module, streams, DataLoader(pairs(), batch_size=2))
        found.append(dict(module.named_parameters()))
        assert {"train/a", "train/b", "train/loss"} <= set(run.callback_metrics)
        logged = {k: float(v) for k, v in run.callback_metrics.items()}
        assert logged["train/loss"] == pytest.approx(logged["train/a"] + logged["train/b"])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_test_split_is_measured_at_the_stored_threshold(tmp_path):
    module, run = fit(tmp_path, epochs=2)
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = ChangeTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert again.best == module.best
    found = run.test(again, DataLoader(pairs(), batch_size=2), verbose=False)[0]
    assert again.test_metrics.threshold == module.best["best_threshold"]
    assert found["test/iou_change"] == pytest.approx(module.best["best_iou_change"])
    assert again.metrics.threshold == 0.5  # what validation, and with it `best`, goes by


def test_what_a_checkpoint_builds_downloads_nothing(tmp_path, monkeypatch):
    module, run = fit(tmp_path)
    for args in (module.hparams["method_args"]["network_args"], module.method.network_args):
        args["weights"] = "imagenet"
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = ChangeTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert again.hparams["method_args"]["network_args"]["weights"] is None
    card = torch.load(tmp_path / "run.ckpt", weights_only=True)[CARD_KEY]
    assert card["network_args"]["weights"] == "imagenet"


def test_views_turn_pair_and_mask_together():
    """A network that sees the difference exactly keeps seeing it in every view."""
    batch = {key: torch.stack([p[key] for p in pairs()]) for key in ("image", "mask")}
    method = Supervised(
        "tiny", weak={"patch_size": 32, "scale": [1.0, 1.0], "p_vflip": 0.5, "rot90": True}
    )
    moved = 0
    for seed in range(4):
        torch.manual_seed(seed)
        view = method._view(batch)
        changed = (view["image"][:, 1] - view["image"][:, 0]).mean(1, keepdim=True) > 60
        assert torch.equal(changed.long(), view["mask"])
        moved += not torch.equal(view["mask"], batch["mask"])
        torch.manual_seed(seed)
        assert torch.equal(method._view(batch)["image"], view["image"])
    assert moved


def test_photometric_view_changes_values_only():
    batch = {key: torch.stack([p[key] for p in pairs()]) for key in ("image", "mask")}
    method = Supervised("tiny", photometric={"p_jitter": 1.0, "brightness": 0.3})
    view = method._view(batch)
    assert torch.equal(view["mask"], batch["mask"])
    assert not torch.equal(view["image"], batch["image"])
    with pytest.raises(UsageError, match="photometric view: expected p_jitter"):
        Supervised("tiny", photometric={"p_jiter": 1.0})


class WithTeacher(Supervised):
    """Shows another network beside its own: one that calls everything change."""

    def beside(self, batch):
        return {"teacher": torch.ones_like(batch["mask"], dtype=torch.float32)}


def test_other_networks_are_measured_beside_the_selected_one(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "with-teacher", WithTeacher)
    module, run = fit(tmp_path, method="with-teacher")
    logged = run.callback_metrics
    assert float(logged["val/teacher/recall"]) == 1
    masks = torch.stack([pair["mask"] for pair in pairs()])
    assert float(logged["val/teacher/precision"]) == pytest.approx(float(masks.float().mean()))
    assert module.best[MONITOR] == pytest.approx(float(logged[f"val/{MONITOR}"]))
    assert not any(name.startswith("others") for name in module.state_dict())
