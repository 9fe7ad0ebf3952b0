import copy
import datetime
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from rscd.base.errors import ModelError, RscdError, UsageError
from rscd.base.types import CARD_KEY, Batch
from rscd.inference.network import export_weights, load_network
from rscd.methods.parts.losses import mask_loss
from rscd.methods.registry import METHODS
from rscd.methods.supervised import Supervised
from rscd.metrics.pixels import MONITOR
from rscd.models.folding import folded
from rscd.models.logits import change_logit
from rscd.models.networks import probe_image
from rscd.training.run import begin_with
from rscd.training.task import ChangeTask

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


def pairs(n: int = 4, size: int = 32, change: bool = True) -> list[Batch]:
    """Noise with a bright square that appears in half of the image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(n, 2, 3, size, size, generator=generator) * 50
    mask = torch.zeros(n, 1, size, size, dtype=torch.long)
    if change:
        for i in range(n):
            mask[i, :, 4 : 16 + i, 8:24] = 1
            image[i, 1, :, 4 : 16 + i, 8:24] += 100
    return [{"image": image[i], "mask": mask[i]} for i in range(n)]


def loader() -> DataLoader[Any]:
    everything: Any = pairs()  # a list is a dataset, though it does not say so
    return DataLoader(everything, batch_size=2)


def quiet_trainer(tmp_path: Path, **options: Any) -> Trainer:
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


def fit(
    tmp_path: Path,
    epochs: int = 1,
    ckpt: Path | None = None,
    callbacks: Sequence[ModelCheckpoint] = (),
    **task: Any,
) -> tuple[ChangeTask, Trainer]:
    seed_everything(0, verbose=False)
    module = ChangeTask(method_args=copy.deepcopy(SMALL) | task.pop("method_args", {}), **task)
    train, val = loader(), loader()
    run = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=list(callbacks))
    streams = CombinedLoader({"train": train}, "max_size_cycle")
    run.fit(module, streams, val, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return module, run


def test_overfits_four_tiny_pairs(tmp_path: Path) -> None:
    module, run = fit(tmp_path, epochs=25, lr=3e-3)
    assert float(run.callback_metrics["val/f1_change"]) > 0.9
    assert module.best[MONITOR] == pytest.approx(float(run.callback_metrics[f"val/{MONITOR}"]))


@pytest.mark.parametrize("losses", [{"bce": 1}, {"focal": 1, "dice": 0.5}, {"jaccard": 1}])
def test_losses_are_named_weighted_and_summed(tmp_path: Path, losses: dict[str, float]) -> None:
    _, run = fit(tmp_path, method_args={"losses": losses, "swap_weight": 0.1})
    logged = {
        k.removeprefix("train/"): float(v)
        for k, v in run.callback_metrics.items()
        if k.startswith("train/")
    }
    assert set(logged) == {*losses, "swap", "loss"}
    total = sum(v for k, v in logged.items() if k != "loss")
    assert logged["loss"] == pytest.approx(total, rel=1e-5)


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, _ = fit(tmp_path / "a", epochs=2)
    second, _ = fit(tmp_path / "b", epochs=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    def keep(folder: Path) -> list[ModelCheckpoint]:
        return [ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)]

    whole, _ = fit(tmp_path, epochs=2, callbacks=keep(tmp_path / "a"))
    first = tmp_path / "a" / "epoch=0.ckpt"
    resumed, _ = fit(tmp_path, epochs=2, callbacks=keep(tmp_path / "b"), ckpt=first)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_is_plain_data_and_describes_itself(tmp_path: Path) -> None:
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


def test_collapse_is_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = ChangeTask(method_args=SMALL)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            module._watch_collapse(0, 10)
    assert "collapsed" in caplog.text
    caplog.clear()
    module._watch_collapse(5, 10)
    module._watch_collapse(0, 10)
    assert not caplog.text


def test_unknown_names_are_user_errors() -> None:
    for name in ("method", "optimizer", "schedule"):
        wrong: dict[str, Any] = {name: "x"}
        with pytest.raises(UsageError, match="expected one of"):
            ChangeTask(**wrong)
    with pytest.raises(UsageError, match="losses: expected"):
        ChangeTask(method_args={"losses": {"mse": 1}})
    with pytest.raises(UsageError, match="halo below half of patch_size 64, found 32"):
        ChangeTask(method_args=SMALL, patch_size=64, halo=32)


class Halves(Supervised):
    """The mean of the losses of the two halves of a batch, as two parts or as one."""

    apart = True

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        logit = change_logit(self.network(batches["train"]["image"])["logits"])
        loss = mask_loss(logit, batches["train"]["mask"], "bce")
        return {"a": 0.5 * loss, "b": 0.25 * loss}

    def loss_parts(
        self, batches: Mapping[str, Batch], step: int, total: int
    ) -> Iterator[dict[str, Tensor]]:
        if not self.apart:
            yield self.losses(batches, step, total)
            return
        for name in ("a", "b"):
            yield {name: self.losses(batches, step, total)[name]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_in_parts_give_the_gradients_of_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Frozen statistics, so that a second forward pass sees what the first saw."""
    monkeypatch.setitem(METHODS, "halves", Halves)
    found = []
    for apart in (True, False):
        monkeypatch.setattr(Halves, "apart", apart)
        seed_everything(0, verbose=False)
        args = {"network": "tiny", "network_args": {"std": [50.0] * 3}}
        module = ChangeTask("halves", args, optimizer="sgd", lr=0.01)
        run = quiet_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=accumulate)
        streams = CombinedLoader({"train": loader()}, "max_size_cycle")
        run.fit(module, streams, loader())
        found.append(dict(module.named_parameters()))
        assert {"train/a", "train/b", "train/loss"} <= set(run.callback_metrics)
        logged = {k: float(v) for k, v in run.callback_metrics.items()}
        assert logged["train/loss"] == pytest.approx(logged["train/a"] + logged["train/b"])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_test_split_is_measured_at_the_stored_threshold(tmp_path: Path) -> None:
    module, run = fit(tmp_path, epochs=2)
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = ChangeTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert again.best == module.best
    found = run.test(again, loader(), verbose=False)[0]
    assert again.test_metrics.threshold == module.best["best_threshold"]
    assert found["test/iou_change"] == pytest.approx(module.best["best_iou_change"])
    assert again.metrics.threshold == 0.5  # what validation, and with it `best`, goes by


def test_what_a_checkpoint_builds_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = fit(tmp_path)
    own: Any = module.method.network_args
    for args in (module.hparams["method_args"]["network_args"], own):
        args["weights"] = "imagenet"
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = ChangeTask.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert again.hparams["method_args"]["network_args"]["weights"] is None
    card = torch.load(tmp_path / "run.ckpt", weights_only=True)[CARD_KEY]
    assert card["network_args"]["weights"] == "imagenet"


def whole_batch() -> Batch:
    single = pairs()
    return {
        "image": torch.stack([one["image"] for one in single]),
        "mask": torch.stack([one["mask"] for one in single]),
    }


def test_views_turn_pair_and_mask_together() -> None:
    """A network that sees the difference exactly keeps seeing it in every view."""
    batch = whole_batch()
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


def test_photometric_view_changes_values_only() -> None:
    batch = whole_batch()
    method = Supervised("tiny", photometric={"p_jitter": 1.0, "brightness": 0.3})
    view = method._view(batch)
    assert torch.equal(view["mask"], batch["mask"])
    assert not torch.equal(view["image"], batch["image"])
    with pytest.raises(UsageError, match="photometric view: expected p_jitter"):
        Supervised("tiny", photometric={"p_jiter": 1.0})


class WithTeacher(Supervised):
    """Shows another network beside its own: one that calls everything change."""

    def beside(self, batch: Batch) -> dict[str, Tensor]:
        return {"teacher": torch.ones_like(batch["mask"], dtype=torch.float32)}


def test_other_networks_are_measured_beside_the_selected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "with-teacher", WithTeacher)
    module, run = fit(tmp_path, method="with-teacher")
    logged = run.callback_metrics
    assert float(logged["val/teacher/recall"]) == 1
    masks = torch.stack([pair["mask"] for pair in pairs()])
    assert float(logged["val/teacher/precision"]) == pytest.approx(float(masks.float().mean()))
    assert module.best[MONITOR] == pytest.approx(float(logged[f"val/{MONITOR}"]))
    assert not any(name.startswith("others") for name in module.state_dict())


class Diverging(Supervised):
    """Its loss stops being a number at one step."""

    def losses(self, batches: Mapping[str, Batch], step: int, total: int) -> dict[str, Tensor]:
        terms = super().losses(batches, step, total)
        return terms | {"extra": terms["bce"] * float("nan")} if step == 3 else terms


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "diverging", Diverging)
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(RscdError, match=r"found bce 0\.\d+, extra nan at step 3 \(epoch 1\)"):
        fit(tmp_path, epochs=3, method="diverging", callbacks=[keep])
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"step={n}.ckpt" for n in (1, 2, 3)}


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    module, run = fit(tmp_path)
    run.save_checkpoint(tmp_path / "good.ckpt")
    content = torch.load(tmp_path / "good.ckpt", weights_only=True)
    name = next(key for key in content["state_dict"] if key.endswith("bias"))
    module.state_dict()[name][0] = float("nan")
    with pytest.raises(ModelError, match=f"expected finite weights to save.* such as {name}"):
        run.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()
    content["state_dict"][name][0] = float("inf")
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match="finite weights in the checkpoint"):
        ChangeTask.load_from_checkpoint(tmp_path / "bad.ckpt", weights_only=True)
    one = pairs()[0]
    with pytest.raises(ModelError, match="expected probabilities from the network, found NaN"):
        module.validation_step({"image": one["image"][None], "mask": one["mask"][None]}, 0)


CAM = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "minus"}
SCENE = {"network": "scene-compact", "network_args": {"low_size": 64}}
SMALLEST: dict[str, dict[str, Any]] = {
    "supervised": {"network": "tiny", "network_args": {"n_bands": 4}},
    "detector": {"network": "tiny", "network_args": {"symmetric": True}},
    "building-change": {},
    "building-change-mixed": {},
    "cam": {"network": "cam", "network_args": CAM},
    "kdmsi": {"network": "cam", "network_args": CAM, "teacher": "cat"},
    "diffmatch": {
        "network": "siamese-mlp",
        "network_args": {"encoder": "tu-test_resnet"},
    },
    "scene-pretrain": SCENE,
    "scene": SCENE,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_itself_what_its_checkpoint_must(tmp_path: Path, method: str) -> None:
    args = SMALLEST[method]
    task = ChangeTask(method, args, card={"licence": "MIT"})
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    trained = load_network(tmp_path / "run.ckpt", "cpu", 1)
    card = trained.card()
    assert card["licence"] == "MIT"
    usual = inspect.signature(METHODS[method]).parameters["network"].default
    assert card["network"] == args.get("network", usual)
    assert card["network_args"] == args.get("network_args", {})
    n_bands = args.get("network_args", {}).get("n_bands", 3)
    assert trained.n_bands == n_bands
    assert trained.tiling.whole_pictures == method.startswith("scene")
    assert trained.tiling.multiple == task.method.network.multiple
    image = torch.rand(1, 2, n_bands, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    if method != "cam":  # which predicts by its activation map: `rscd pseudolabel --maps cam`
        network = task.eval().method.network  # as loaded, with the same rounding
        task.method.network = folded(network, probe_image(network, n_bands))
        expected = task.method.predict(image)[:, 0].detach().numpy()
        found = trained(image.numpy(), np.ones((1, 64, 64), bool))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    if method.startswith("scene"):
        exported = export_weights(tmp_path / "run.ckpt", tmp_path / "out.safetensors")
        assert exported["whole_pictures"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method_args": {"networt": "tiny"}}, "method_args of supervised: expected network"),
        ({"method_args": {"losses": {"bce": "much"}}}, "for losses.bce, found 'much'"),
        ({"method_args": {"weak": {"scale": 2}}}, "weak view: expected .* for scale, found 2"),
        ({"method_args": {"loss_args": {"bce": {"gamma": 2}}}}, "loss_args of bce: expected class"),
        ({"method_args": {"network_args": {"n_bands": "three"}}}, "network_args of siamese-unet"),
        ({"method_args": {"network_args": {"decoder_channels": [-8]}}}, "can be built"),
        ({"schedule": "poly", "schedule_args": {"power": []}}, "schedule_args of poly"),
        ({"card": {"date": datetime.date(2024, 1, 1)}}, "expected plain data in card"),
        ({"halo": -1}, "expected halo and warmup_steps of 0 or more"),
    ],
)
def test_values_of_another_type_are_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RscdError, match=message) as error:
        ChangeTask(**wrong)
    assert "\n" not in str(error.value)


CAM = {
    "network": "cam",
    "network_args": {"encoder": "tu-test_resnet", "combination": "minus"},
}
COMPACT = {"network": "scene-compact", "network_args": {"low_size": 64}}
MLP = {"network": "siamese-mlp", "network_args": {"encoder": "tu-test_resnet"}}


@pytest.mark.parametrize(
    ("trained", "method", "args", "teacher"),
    [
        ("kdmsi", "kdmsi", CAM, "network"),
        ("scene-pretrain", "scene", COMPACT, "network.decoder"),
        ("scene", "scene", COMPACT, "network.decoder"),
        ("diffmatch", "diffmatch", MLP, None),
    ],
)
def test_what_a_checkpoint_holds_reaches_all_that_a_method_begins_with(
    tmp_path: Path, trained: str, method: str, args: dict[str, Any], teacher: str | None
) -> None:
    torch.manual_seed(1)
    task = ChangeTask(trained, args)
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    torch.manual_seed(2)
    fresh = ChangeTask(method, args).method
    begin_with(fresh, str(tmp_path / "run.ckpt"))
    wanted = task.method.network.state_dict()
    state = fresh.state_dict()
    for key, value in wanted.items():
        assert torch.equal(state[f"network.{key}"], value), key
    twins = [key.removeprefix("teacher.") for key in state if key.startswith("teacher.")]
    assert bool(twins) == (teacher is not None)
    for key in twins:
        assert torch.equal(state[f"teacher.{key}"], state[f"{teacher}.{key}"]), key
