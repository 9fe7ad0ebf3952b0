"""From a folder of pairs to polygons, through the commands a user types."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from rscd.base.types import CARD_KEY
from rscd.cli import main
from rscd.synthetic.town_pairs import TownPairs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    towns = TownPairs(length=6, patch_size=64, seed=3, change_share=0.8)
    for i in range(6):
        sample, part = towns[i], "train" if i < 4 else "val"
        pixels = [date.permute(1, 2, 0).numpy()[..., ::-1] for date in sample["image"]]
        pixels.append(sample["mask"][0].numpy() * 255)
        for name, values in zip(("A", "B", "label"), pixels, strict=True):
            (tmp_path / "set" / part / name).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "set" / part / name / f"town{i}.png"
            cv2.imwrite(str(path), values.astype(np.uint8))
    return tmp_path / "set"


@pytest.mark.slow
def test_train_export_predict_evaluate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(split: str) -> dict[str, Any]:
        args = {"root": str(folder), "split": split}
        return {"class_path": "rscd.data.folder.PairFolder", "init_args": args}

    config = {
        "trainer": {"default_root_dir": str(tmp_path / "run"), "accelerator": "cpu"},
        "model": {"method_args": {"network": "tiny"}, "patch_size": 64, "halo": 16},
        "data": {"batch_size": 2, "streams": {"train": stream("train"), "val": stream("val")}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "-c", str(tmp_path / "run.yaml"), "--trainer.max_epochs", "2"]) == 0
    checkpoint = tmp_path / "run" / "best.ckpt"
    last = str(tmp_path / "run" / "last.ckpt")
    again = ["train", "-c", str(tmp_path / "run.yaml"), "--trainer.max_epochs", "3"]
    assert main([*again, "--ckpt_path", last]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 3 * 2
    card = torch.load(checkpoint, weights_only=True)[CARD_KEY]
    assert set(card["splits"]) == {"train", "val"}
    weights = tmp_path / "town.safetensors"
    assert main(["model", "export", str(checkpoint), "-o", str(weights)]) == 0

    assert main(["sample", "-o", str(tmp_path / "town"), "--size", "96,128", "-q"]) == 0
    dates = [str(tmp_path / "town" / f"scene_t{i}.tif") for i in (1, 2)]
    results = []
    for i, model in enumerate((checkpoint, weights)):
        capsys.readouterr()
        output = str(tmp_path / f"{i}.geojson")
        assert main(["predict", *dates, "-m", str(model), "-o", output, "--json", "-q"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["changed_pixels"] == results[1]["changed_pixels"]
    assert results[0]["threshold"] == card["threshold"]

    evaluate = ["evaluate", str(folder), "--split", "val", "-m", str(weights), "--json", "-q"]
    assert main(evaluate) == 0
    assert json.loads(capsys.readouterr().out)
