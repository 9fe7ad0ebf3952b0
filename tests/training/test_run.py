"""Runs through the command line: stopped and resumed, on two processes, averaged, logged."""

import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor

import rscd.training.run
from rscd.base.errors import ModelError, OutputError, RscdError, UsageError
from rscd.base.files import part_of
from rscd.base.types import CARD_KEY, Batch
from rscd.cli import main
from rscd.inference.weights import write_weights
from rscd.models.networks import NETWORKS
from rscd.training.run import begin_with, panel, train, with_deep_dots

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)

TOWNS = {"patch_size": 64, "change_share": 0.8}


def config(
    folder: Path, method_args: dict[str, Any] | None = None, length: int = 4, **trainer: Any
) -> dict[str, Any]:
    """A run of the tiny network on towns that come anew in every pass."""
    stream = "rscd.synthetic.town_pairs.TownPairs"
    return {
        "trainer": {
            "default_root_dir": str(folder), "accelerator": "cpu", "max_epochs": 2,
            "log_every_n_steps": 1, **trainer,
        },
        "model": {
            "method_args": {"network": "tiny", "network_args": {"std": [50] * 3}}
            | (method_args or {}),
            "patch_size": 64,
            "halo": 16,
        },
        "last": {"every_n_train_steps": 1},
        "data": {
            "batch_size": 2,
            "streams": {
                "train": {"class_path": stream, "init_args": {"length": length, **TOWNS}},
                "val": {
                    "class_path": stream,
                    "init_args": {"length": 2, "seed": 9, "fresh": False, **TOWNS},
                },
            },
        },
    }  # fmt: skip


VIEWS = {
    "network": "siamese-mlp",  # has dropout
    "network_args": {"encoder": "tu-test_resnet", "std": [50.0] * 3},
    "weak": {"patch_size": 64, "rot90": True},
    "photometric": {"p_jitter": 0.8, "brightness": 0.3, "p_blur": 0.5},
}

PLAIN = """
from torch import nn
from rscd.models.networks import NETWORKS
from rscd.training.run import train

class Plain(nn.Module):
    multiple = 1
    def __init__(self, n_bands=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * n_bands, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 1, 1)
        )
    def forward(self, image):
        return {"logits": self.layers(image.flatten(1, 2) / 100)}

NETWORKS["plain"] = Plain
train(["-c", path])
"""
"""A network without batch statistics: cutting a batch in two makes no difference to it."""


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


class Stop(Callback):
    """Ends a run at a step, as a crash or Ctrl-C would."""

    def __init__(self, step: int, error: Any) -> None:
        self.step, self.error = step, error

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise self.error


@pytest.mark.slow
def test_a_run_stopped_at_any_step_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(tmp_path / "whole.yaml", config(tmp_path / "whole", VIEWS, length=6))
    train(["-c", one])
    expected = weights(tmp_path / "whole" / "last.ckpt")
    for step, error in ((1, RuntimeError), (5, KeyboardInterrupt)):
        folder = tmp_path / f"{step}"
        two = write(tmp_path / f"{step}.yaml", config(folder, VIEWS, length=6))
        with monkeypatch.context() as patch:
            patch.setattr(rscd.training.run, "Panels", lambda at=step, e=error: Stop(at, e("stop")))
            with pytest.raises(RscdError, match=f"resume with --ckpt_path .*{step}/last.ckpt"):
                train(["-c", two])
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == step
        train(["-c", two, "--ckpt_path", str(folder / "last.ckpt")])
        assert_equal(expected, weights(folder / "last.ckpt"))
        assert {"metrics.csv", "metrics.1.csv"} <= {path.name for path in folder.iterdir()}


@pytest.mark.filterwarnings(
    "ignore:`ModelCheckpoint.* could not find the monitored key",
    "ignore:Total length of `list` across ranks is zero",
)
@pytest.mark.parametrize("why", ["ended before a validation", "no stream val", ""])
def test_a_run_that_was_not_validated_says_that_there_is_no_best_checkpoint(
    why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = config(tmp_path / "run", length=2 if "stream" in why or not why else 4, max_epochs=1)
    if "stream" in why:
        del content["data"]["streams"]["val"]
    limit = ["--trainer.max_steps", "1"] if "ended" in why else []
    train(["-c", write(tmp_path / "run.yaml", content), *limit])
    folder = tmp_path / "run"
    assert (folder / "last.ckpt").is_file()
    assert (folder / "best.ckpt").is_file() == (not why)
    said = f"no best.ckpt was written in {folder}, what was learned is in last.ckpt: the"
    assert (said in caplog.text) == bool(why)
    assert why in caplog.text


@pytest.mark.posix
@pytest.mark.slow
def test_a_killed_run_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, forked: Callable[..., BaseProcess]
) -> None:
    path = write(tmp_path / "run.yaml", config(tmp_path / "run", length=12, max_epochs=50))
    last = tmp_path / "run" / "last.ckpt"
    process = forked(main, ["train", "-c", path])
    deadline = time.monotonic() + 200
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    stopped = torch.load(last, weights_only=True)["global_step"]
    limits = ["--trainer.max_epochs", str(stopped // 6 + 1), "--trainer.max_steps", "-1"]
    trainer = train(["-c", path, "--ckpt_path", str(last), *limits])
    assert trainer.global_step == (stopped // 6 + 1) * 6


@pytest.mark.slow
def test_two_processes_train_and_measure_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_two_processes: Callable[..., None]
) -> None:
    monkeypatch.setitem(NETWORKS, "plain", None)  # and no longer after the test
    found = {}
    ways: tuple[tuple[int, Callable[..., None]], ...] = (
        (1, lambda code, **names: exec(code, names)),
        (2, on_two_processes),
    )
    for processes, begin in ways:
        folder = tmp_path / str(processes)
        run = config(folder, devices=processes)
        run["model"] |= {"optimizer": "sgd", "lr": 0.5, "schedule": "constant"}
        run["model"]["method_args"] = {"network": "plain", "network_args": {}}
        run["data"]["batch_size"] = 4 // processes
        run["data"]["streams"]["val"]["init_args"]["length"] = 3  # does not go round
        begin(PLAIN, path=write(tmp_path / f"{processes}.yaml", run))
        found[processes] = torch.load(folder / "last.ckpt", weights_only=True)
    one, two = found[1], found[2]
    assert one["global_step"] == two["global_step"] == 2
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, two["state_dict"][name], rtol=1e-4, atol=1e-6, msg=name)
    assert one[CARD_KEY]["metrics"] == pytest.approx(two[CARD_KEY]["metrics"], abs=1e-6)


def test_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    average = {
        "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
        "init_args": {"decay": 0.5},
    }
    run = config(tmp_path / "run", max_epochs=1, callbacks=[average])
    trainer = train(["-c", write(tmp_path / "run.yaml", run)])
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    trained = kept["current_model_state"]
    moved = [k for k, v in kept["state_dict"].items() if not torch.equal(v, trained[k])]
    assert any(name.endswith("weight") for name in moved)
    assert trainer.global_step == 2


@pytest.mark.slow
def test_clipping_and_accumulation_by_configuration(tmp_path: Path) -> None:
    run = config(
        tmp_path / "run", length=8, max_epochs=1, gradient_clip_val=1e-9, accumulate_grad_batches=2
    )
    run["model"] |= {"optimizer": "sgd", "lr": 1.0}
    trainer = train(["-c", write(tmp_path / "run.yaml", run)])
    assert trainer.global_step == 2
    # a learning rate of 1 leaves the weights where they were: the gradient is clipped to nothing
    fresh = config(tmp_path / "fresh", max_epochs=0)
    first = train(["-c", write(tmp_path / "fresh.yaml", fresh)]).lightning_module
    for a, b in zip(trainer.lightning_module.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_bfloat16_trains(tmp_path: Path) -> None:
    run = config(tmp_path / "run", max_epochs=1, precision="bf16-mixed")
    trainer = train(["-c", write(tmp_path / "run.yaml", run)])
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    kept = weights(tmp_path / "run" / "last.ckpt")
    assert all(v.dtype != torch.bfloat16 for v in kept.values())


def test_logs_hold_losses_metrics_and_panels(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = config(tmp_path / "run", max_epochs=1)
    train(["-c", write(tmp_path / "run.yaml", run)])
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert "val/pairs" in events.Tags()["images"]
    shown = events.Images("val/pairs")[-1]
    assert (shown.width, shown.height) == (4 * 64, 2 * 64)
    assert {"train/loss", "train/bce", "val/f1_change"} <= set(events.Tags()["scalars"])
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/bce", "val/f1_change"} <= set(header.split(","))


def test_panel_shows_what_it_is_given() -> None:
    batch: Batch = {"image": torch.zeros(1, 2, 3, 4, 5), "mask": torch.zeros(1, 1, 4, 5).long()}
    batch["image"][0, 1] = 255
    batch["mask"][0, 0, 1, 2] = 1
    shown = panel(batch, torch.full((1, 1, 4, 5), 0.25))
    assert shown.shape == (3, 4, 20)
    t1, t2, mask, prob = shown.split(5, 2)
    assert t1.max() == 0
    assert t2.min() == 1
    assert (mask.amax(0) > 0).sum() == 1
    assert mask[0, 1, 2] == 1
    assert (prob == 0.25).all()


@pytest.mark.slow
def test_a_run_begins_with_trained_weights(tmp_path: Path) -> None:
    first = config(tmp_path / "first", max_epochs=1)
    train(["-c", write(tmp_path / "first.yaml", first)])
    trained = tmp_path / "first/last.ckpt"
    again = config(tmp_path / "again", max_epochs=1) | {"begin": str(trained)}
    again["model"] |= {"lr": 0.0}
    path = write(tmp_path / "again.yaml", again)
    train(["-c", path])
    before, after = weights(trained), weights(tmp_path / "again/last.ckpt")
    learnt = [name for name in before if name.endswith(("weight", "bias"))]
    assert_equal({n: before[n] for n in learnt}, {n: after[n] for n in learnt})
    trained.unlink()  # a run that goes on has its own
    train(["-c", path, "--ckpt_path", str(tmp_path / "again/last.ckpt"), "--trainer.max_epochs=2"])
    with pytest.raises(ModelError, match=r"found no file at .*first/last.ckpt"):
        train(["-c", path, "--overwrite"])
    assert (tmp_path / "again/last.ckpt").exists(), "replaced only once a run begins"


@pytest.mark.slow
def test_a_second_run_leaves_the_first_alone_unless_told(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", config(tmp_path / "run", max_epochs=1))
    train(["-c", path])
    folder = tmp_path / "run"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {"best.ckpt", "last.ckpt"} <= before.keys()
    with pytest.raises(OutputError, match=r"found best.ckpt, last.ckpt in .*--ckpt_path .*last"):
        train(["-c", path, "--seed_everything", "7"])
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name in before} == before
    train(["-c", path, "--seed_everything", "7", "--overwrite"])
    assert (folder / "last.ckpt").read_bytes() != before["last.ckpt"]
    assert "overwrite" not in yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_removes_parts_of_a_killed_one_and_says_its_seed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    part = part_of(folder / "step=3.ckpt")
    part.write_bytes(b"half")
    train(["-c", write(tmp_path / "run.yaml", config(folder, max_steps=2))])
    assert not part.exists()
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 0


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", config(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"--begin buildings: .* found those of semantic") as error:
        train(["-c", path, "--begin", "buildings"])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("*.ckpt"))


@pytest.mark.parametrize(
    "text", ["size mismatch", "Error(s) in loading:\n\tsize mismatch for a: 1, 2.\n\tmore"]
)
def test_a_mismatch_of_weights_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    class Other:
        def begin(self, tensors: dict[str, Tensor]) -> None:
            raise RuntimeError(text)

    other: Any = Other()
    with pytest.raises(UsageError, match=r"found those of semantic.*\(size mismatch") as error:
        begin_with(other, "buildings")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--ckpt_path", "none.ckpt"], "found no file at none.ckpt"),
        (["--ckpt_path", "plain.ckpt"], "found a file without its card"),
        (["--trainer.devices", "0"], "expected a run that this machine supports, found: .*devices"),
        (["--data.batch_size", "0"], "expected batch_size of 1 or more"),
        (["--model.lr", "-1"], "expected a learning rate of 0 or more"),
        (["--ckpt_path", "text.ckpt"], "expected a checkpoint, found text at text.ckpt"),
        (["--ckpt_path", "w.safetensors"], "start a new run with --begin w.safetensors"),
        (["--trainer.logger", "lightning.pytorch.loggers.CometLogger"], "Requirement 'comet-ml"),
        (
            ["--model.optimizer_args", "{betas: 3}"],
            "adamw: .* for betas, found 3",
        ),
        (["--model.optimizer_args", "{beta: 3}"], "optimizer_args of adamw: .*, found beta"),
        (["--data.streams.val.batch_size", "two"], "stream 'val': .* for batch_size, found 'two'"),
    ],
)
def test_runs_that_cannot_be_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}}, "plain.ckpt")
    Path("text.ckpt").write_text("no checkpoint")
    write_weights(Path("w.safetensors"), {"a": torch.zeros(1)}, {})
    path = write(tmp_path / "run.yaml", config(tmp_path / "run"))
    with pytest.raises(RscdError, match=pattern) as error:
        train(["-c", path, *options])
    assert "\n" not in str(error.value)


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UsageError, match="expected a configuration in UTF-8"):
        train(["-c", str(tmp_path / "run.yaml")])


def test_a_run_may_do_without_logs(tmp_path: Path) -> None:
    trainer = train(
        ["-c", write(tmp_path / "run.yaml", config(tmp_path / "run", max_epochs=1)),
         "--trainer.logger", "false"]
    )  # fmt: skip
    assert trainer.loggers == []
    assert not (tmp_path / "run/metrics.csv").exists()
    assert (tmp_path / "run/best.ckpt").exists()


def test_dots_reach_into_methods_and_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", config(tmp_path / "run", VIEWS))
    dots = ["--model.method_args.weak.patch_size=32", "--model.method_args.weak.p_hflip", "0.25"]
    dots += ["--data.streams.train.init_args.length=2", "--trainer.max_epochs=1"]
    train(["-c", path, *dots])
    kept = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    weak = {"patch_size": 32, "rot90": True, "p_hflip": 0.25}
    assert kept["model"]["method_args"]["weak"] == weak
    assert kept["data"]["streams"]["train"]["init_args"] == {**TOWNS, "length": 2}


def test_dots_mean_what_a_file_would(tmp_path: Path) -> None:
    content = {"model": {"method_args": {"a": {"b": 1, "c": 2}}, "lr": 3}, "data": {"streams": {}}}
    file = write(tmp_path / "run.yaml", content)
    plain = ["-c", file, "--model.lr", "1"]
    assert with_deep_dots(plain) == plain
    found = with_deep_dots([*plain, "--model.method_args.a.b=[2, 3]", "--data.streams.t.x", "no"])
    assert found == [
        *plain,
        '--model.method_args={"a": {"b": [2, 3], "c": 2}}',
        '--data.streams={"t": {"x": false}}',
    ]
    dot = "--model.method_args.a.b=4"
    whole = '--model.method_args={"a": {"b": 4, "c": 2}}'
    assert with_deep_dots([f"--config={file}", dot]) == ["--config", file, whole]
    with pytest.raises(UsageError, match="found b = 1; drop"):
        with_deep_dots(["-c", file, "--model.method_args.a.b.d=1"])
