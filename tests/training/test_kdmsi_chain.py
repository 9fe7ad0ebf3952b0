"""From yes/no labels to a detector with one command: honest, resumable, and all stages used."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import rscd.training.run
from rscd.base.types import CARD_KEY
from rscd.cli import main
from rscd.synthetic.town_folder import write_town_folder
from rscd.training.run import Panels

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)

ENCODER = {"encoder": "tu-test_resnet", "output_stride": 16}


def stage(
    method: str, root: Path, network: str, network_args: dict[str, Any], epochs: int, **masks: Any
) -> dict[str, Any]:
    folder = "rscd.data.folder.PairFolder"

    def stream(split: str, **more: Any) -> dict[str, Any]:
        return {"class_path": folder, "init_args": {"root": str(root), "split": split, **more}}

    return {
        "trainer": {"accelerator": "cpu", "max_epochs": epochs, "log_every_n_steps": 1},
        "checkpoint": {"monitor": "val/best_iou_change"},
        "model": {
            "method": method,
            "method_args": {"network": network, "network_args": network_args},
            "patch_size": 64,
            "halo": 16,
        },
        "data": {
            "batch_size": 2,
            "streams": {"train": stream("train", **masks), "val": stream("val")},
        },
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towns") / "set"
    return write_town_folder(root, {"train": 4, "val": 2}, patch_size=64, seed=3)


@pytest.fixture
def chain(tmp_path: Path, pairs: Path) -> Path:
    root = tmp_path / "set"
    shutil.copytree(pairs, root)
    kd = stage("kdmsi", root, "cam", ENCODER | {"combination": "cat"}, 2)
    masks = {
        "args": [str(root)], "checkpoint": "{kd}/best.ckpt", "split": "train", "device": "cpu",
        "scales": "fast", "quiet": True, "output": "{masks}", "overwrite": True,
    }  # fmt: skip
    detector = stage("supervised", root, "tiny", {}, 1, mask_from="{masks}")
    stages = {"kd": {"train": kd}, "masks": {"pseudolabel": masks}, "detector": {"train": detector}}
    path = tmp_path / "chain.yaml"
    content = {"folder": str(tmp_path / "run"), "stages": stages}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def losses(folder: Path) -> list[tuple[str, str]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [(row["train/cls"], row["train/kd"]) for row in rows if row.get("train/kd")]


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_masks_of_training_pairs_are_never_seen(chain: Path, tmp_path: Path) -> None:
    assert main(["train", "-c", str(chain)]) == 0
    run = tmp_path / "run"
    card = torch.load(run / "kd" / "best.ckpt", weights_only=True)[CARD_KEY]
    assert (card["network"], card["network_args"]["combination"]) == ("cam", "cat")
    noted = json.loads((run / "masks" / "run.json").read_text())
    assert noted["found"]["rule"] == "val"
    masks = {path.name: path.read_bytes() for path in (run / "masks").glob("*.png")}

    names = (tmp_path / "set" / "list" / "train.txt").read_text().split()
    for name in names:
        (tmp_path / "set" / "label" / name).unlink()
    assert len(masks) == len(names)
    assert not (tmp_path / "set" / "pseudo").exists()
    assert main(["train", "-c", str(chain), "--folder", str(tmp_path / "again")]) == 0
    again = tmp_path / "again"
    kept = {path.name: path.read_bytes() for path in (run / "masks").glob("*.png")}
    assert kept == masks, "a second chain leaves the masks of the first alone"
    assert losses(run / "kd") == losses(again / "kd")
    assert len(losses(run / "kd")) == 4
    for stage_name in ("kd", "detector"):
        first, second = (weights(side / stage_name / "last.ckpt") for side in (run, again))
        assert all(
            torch.equal(value, second[name])
            for name, value in first.items()
            if isinstance(value, torch.Tensor)
        )


@pytest.mark.slow
def test_a_stopped_chain_goes_on(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the second epoch of the first stage; what it saved last is gone on from."""
    run = tmp_path / "run"

    class Stop(Panels):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rscd.training.run, "Panels", Stop)
        assert main(["train", "-c", str(chain)]) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert torch.load(run / "kd" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert main(["train", "-c", str(chain)]) == 0
    assert torch.load(run / "kd" / "last.ckpt", weights_only=True)["global_step"] == 4
    stamps = {path: path.stat().st_mtime_ns for path in Path(run).rglob("*.ckpt")}
    assert main(["train", "-c", str(chain)]) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in Path(run).rglob("*.ckpt")}
