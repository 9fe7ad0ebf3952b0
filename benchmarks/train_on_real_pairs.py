"""What a few real building pairs bring to a network trained on synthetic towns.

    python benchmarks/train_on_real_pairs.py DATA OUT [--steps 600] [--start CHECKPOINT]
    python benchmarks/train_on_real_pairs.py DATA OUT --network semantic-lite --lr 0.0005 \
        --mixes real --start rscd/weights/buildings.safetensors

DATA holds ``levir-cd``, ``levir-cd-grid``, ``fotbcd-binary`` and ``fotbcd-instances`` as
``<set>/{train,test}/{A,B,label}``. All are brought to about 0.5 m per pixel (FOTBCD is halved) and
written to OUT/pairs. From ``--start`` (``rscd train -c configs/supervised_town.yaml``) or from
random weights, the network goes on for some steps

* on the towns of that configuration alone (``towns``),
* on the real training pairs alone (``real``),
* on both, half and half (``both``),

and every result is measured on the test pairs of each set at the threshold 0.5, beside the
training-free detectors at theirs. Prints one JSON object; sheets of best, median and worst test
pairs are written to OUT. The masks of the test pairs are read by nothing but the measurement; no
validation split is left of so few pairs, so the last weights count.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import Trainer, seed_everything
from machine import machine
from torch.utils.data import ConcatDataset, Dataset

import rscd.training.task
from rscd.data.folder import PairFolder
from rscd.inference.weights import read_tensors
from rscd.synthetic.town_pairs import TownPairs
from rscd.training.module import ChangeDataModule, Stream

SETS = {"levir-cd": 1, "levir-cd-grid": 1, "fotbcd-binary": 2, "fotbcd-instances": 2}
"""By how much each is reduced."""
DETECTORS = ("irmad", "cva", "pca-kmeans")
MIXES = ("real", "towns", "both")
OF_TOWNS = {"mean": [110, 110, 100], "std": [50, 50, 50]}
NETWORKS: dict[str, dict[str, Any]] = {
    "tiny": {"network_args": OF_TOWNS, "patch_size": 512, "halo": 64},
    "semantic": {"network_args": OF_TOWNS, "patch_size": 512, "halo": 144},
    "semantic-lite": {"network_args": {}, "patch_size": 1280, "halo": 192},
}


PATCH = 192
"""Side of what is read of a pair, pixels; views cut 128 of it."""


Pairs = TownPairs | ConcatDataset[Any]


class Patches(Dataset[dict[str, Any]]):
    """As many patches of one size, with image and mask alone, as asked for: they stack."""

    def __init__(self, inner: Pairs, length: int) -> None:
        self.inner, self.length = inner, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.inner[index % len(self.inner)]
        height, width = sample["image"].shape[-2:]
        top, left = np.random.default_rng(index).integers((height - PATCH + 1, width - PATCH + 1))
        window = (..., slice(top, top + PATCH), slice(left, left + PATCH))
        cut = {key: sample[key][window] for key in ("image", "mask")}
        return {"name": sample["name"], **cut}


def prepare(data: Path, out: Path) -> None:
    """Pairs of all sets at about 0.5 m, as OUT/pairs/<set>/{train,test}/{A,B,label}."""
    for name, factor in SETS.items():
        for source in sorted((data / name).glob("*/*/*.png")):
            target = out / "pairs" / source.relative_to(data)
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
            assert image is not None, source
            size = (image.shape[1] // factor, image.shape[0] // factor)
            smooth = cv2.INTER_NEAREST if source.parent.name == "label" else cv2.INTER_AREA
            cv2.imwrite(str(target), cv2.resize(image, size, interpolation=smooth))


def real_pairs(out: Path) -> ConcatDataset[Any]:
    """All training pairs of all sets."""
    keys = {"image", "mask"}
    return ConcatDataset(
        [PairFolder(str(out / "pairs" / name), split="train", keys=keys) for name in SETS]
    )


def go_on(out: Path, name: str, parts: list[Pairs], options: argparse.Namespace) -> Path:
    """Train on equal numbers of samples of each part; returns the checkpoint."""
    checkpoint = out / f"{name}.ckpt"
    if checkpoint.exists():
        return checkpoint
    seed_everything(0, verbose=False)
    repeated = [Patches(part, options.steps * 16 // len(parts)) for part in parts]
    module = ChangeDataModule(
        {"train": Stream.of(ConcatDataset(repeated))},
        batch_size=16,
        num_workers=1,
        needs={"train": {"image", "mask"}},
    )
    task = rscd.training.task.ChangeTask(
        "supervised",
        {
            "network": options.network,
            "network_args": NETWORKS[options.network]["network_args"],
            "losses": {"bce": 1, "dice": 1},
            "weak": {"patch_size": 128, "scale": [0.8, 1.2], "p_vflip": 0.5, "rot90": True},
            "photometric": {
                "p_jitter": 0.8, "brightness": 0.2, "contrast": 0.3, "saturation": 0.3,
                "p_blur": 0.3, "blur_sigma": [0.3, 1.2],
            },
        },
        lr=options.lr,
        warmup_steps=20,
        patch_size=NETWORKS[options.network]["patch_size"],
        halo=NETWORKS[options.network]["halo"],
    )  # fmt: skip
    if options.start:
        task.method.network.load_state_dict(read_tensors(options.start))
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, module)
    trainer.save_checkpoint(checkpoint)
    return checkpoint


def measure(out: Path, model: str, name: str, sheet: bool) -> dict[str, dict[str, float]]:
    """Test metrics of every set."""
    found = {}
    for folder in SETS:
        command = [
            sys.executable, "-m", "rscd", "evaluate", str(out / "pairs" / folder),
            "--split", "test", "-m", model, "--json", "-q",
        ]  # fmt: skip
        if sheet:
            command += ["-o", str(out / f"{name}_{folder}.png")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        metrics = json.loads(done.stdout)["metrics"]
        keys = ("f1_change", "precision", "recall", "iou_change")
        found[folder] = {k: round(metrics[k], 3) for k in keys}
    return found


def main() -> None:
    """Prepare, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="tiny")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare(options.data, options.out)
    towns = TownPairs(
        length=1000, patch_size=PATCH, seed=1, change_share=(0.2, 0.6), fresh=False,
        keys=("image", "mask"), cache=options.out / "towns",
    )  # fmt: skip
    real = real_pairs(options.out)
    started = time.process_time()
    models = {name: name for name in DETECTORS}
    if options.start:
        models["start"] = str(options.start)
    parts: dict[str, list[Pairs]] = {"real": [real], "towns": [towns], "both": [towns, real]}
    for name in options.mixes:
        models[name] = str(go_on(options.out, name, parts[name], options))
    report = {
        name: measure(options.out, model, name, name not in DETECTORS)
        for name, model in models.items()
    }
    settings = {"steps": options.steps, "start": str(options.start), "network": options.network}
    settings |= {"lr": options.lr, "real_pairs": len(real)}
    seconds = round(time.process_time() - started)
    print(json.dumps({"settings": settings, "cpu_s": seconds, "test": report, **machine("torch")}))


if __name__ == "__main__":
    main()
