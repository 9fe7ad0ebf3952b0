"""From a folder with masks for a few pairs and guidance for all to exported weights, by command."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rscd.cli import main
from rscd.data.splits import Split
from rscd.inference.weights import read_card, read_tensors
from rscd.models.networks import build_network

SMALL = {"encoder": "tu-test_resnet", "width": 16, "std": [50.0] * 3}
LAYERS = ("vl_change", "vl_t1", "vl_t2")


def write_pairs(root: Path, n: int = 6, size: int = 64) -> None:
    """Masks lie beside labelled pairs and the one to validate on alone."""
    rng = np.random.default_rng(0)
    for i in range(n):
        for folder in ("A", "B", *LAYERS, "label"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("A", "B"):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
        for layer in LAYERS:
            values = rng.choice(np.array([0, 1, 255], np.uint8), (size, size))
            Image.fromarray(values).save(root / layer / f"{i}.png")
        if i < 2 or i == n - 1:
            mask = np.zeros((size, size), np.uint8)
            mask[:20, :20] = 255
            Image.fromarray(mask).save(root / "label" / f"{i}.png")
    parts = {"labeled": ("0", "1"), "unlabeled": ("2", "3", "4"), "val": ("5",)}
    Split(parts, "by hand").write(root / "split.json")


@pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    # how lightning 2.6 calls jsonargparse 4.50
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)
def test_one_step_on_files_and_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "pairs")
    folder = {"class_path": "rscd.data.folder.PairFolder"}
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": "run"},
        "model": {
            "method": "diffmatch",
            "method_args": {
                "network": "siamese-mlp",
                "network_args": SMALL,
                "weak": {"patch_size": 64},
            },
            "optimizer": "sgd",
            "schedule": "poly-lagged",
        },
        "data": {
            "batch_size": 1,
            "streams": {
                name: folder
                | {"init_args": {"root": "pairs", "split_file": "pairs/split.json", "split": name}}
                for name in ("labeled", "unlabeled", "val")
            },
        },
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "-c", "run.yaml", "--trainer.limit_train_batches=1"]) == 0
    assert main(["model", "export", "run/best.ckpt", "-o", "out.safetensors"]) == 0
    exported = tmp_path / "out.safetensors"
    assert read_card(exported)["network"] == "siamese-mlp"
    expected = build_network("siamese-mlp", SMALL).state_dict()
    assert read_tensors(exported).keys() == expected.keys()
