"""The ladder of KD-MSI's paper on synthetic towns: what each step of the method adds.

    python benchmarks/ladder_kdmsi.py --seeds 3 --work runs/ladder_kdmsi [--out ladder.jsonl]

Per seed, on a country of its own: teacher and student are trained on yes/no labels; the maps of the
teacher, the student, the student over scales (MI, MSI), and the paper's baseline (MI of the
teacher) are measured on the training split, gated by labels, at the threshold that validation
chooses (and at the best one for that very split, ``oracle``); then detectors are trained on the
masks of MSI, of the baseline, and on true masks, and measured on the test split.

One JSON line per measurement, written as soon as it is known. Give the same command again to go
on: what is in the file or the folder is not computed again. ``--summary`` only prints mean and
deviation over the seeds.

The teacher does not depend on the student, so it is the baseline's network as well; of its best and
its last checkpoint, validation chooses.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from rscd.cli import run_command
from rscd.data.folder import PairFolder
from rscd.evaluation.thresholds import GRID, search
from rscd.inference.network import Network, load_network, save_weights
from rscd.inference.views import ImageMaps
from rscd.labels.from_checkpoint import labelled_maps
from rscd.methods.parts.multiscale import PRESETS, Views
from rscd.metrics.pixels import count, summarise
from rscd.models.lite_encoder import DEVIATION, IMAGENET, MEAN
from rscd.models.smp_encoders import LITE
from rscd.synthetic.town_folder import write_town_folder
from rscd.training.chain import read_chain, run_chain
from rscd.training.task import ChangeTask

MAPS = {
    "teacher": ("teacher", "cam"),
    "student": ("student", "single"),
    "student / maximum": ("student", "cam"),
    "student + MI": ("student", "mi"),
    "student + MSI": ("student", "msi"),
    "CAM baseline": ("teacher", "mi"),
}
"""Rung -> whose network, and which of `rscd.methods.parts.multiscale.MAPS`. Not in the paper: the
student's map divided by its maximum in each picture, which says what the scales bring to MI."""

DETECTORS = {"KD-MSI": "pseudo", "CAM": "pseudo_cam", "supervised": "true"}
"""Rung -> masks it is trained on."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/ladder_kdmsi"))
    parser.add_argument("--out", type=Path, help="default WORK/ladder.jsonl")
    parser.add_argument("--summary", action="store_true", help="only print what the file says")
    parser.add_argument("--size", type=int, default=96, help="side of a pair, pixels")
    parser.add_argument("--gsd", type=float, default=0.5, help="metres per pixel")
    parser.add_argument("--change", type=float, default=0.5, help="share of lots that change")
    parser.add_argument("--growth", type=float, default=1.0, help="share of changes that build")
    parser.add_argument("--nuisance", type=float, default=0.3)
    parser.add_argument("--pairs", type=int, default=600, help="for training")
    parser.add_argument("--held-out", type=int, default=120, help="for validation, and for test")
    parser.add_argument("--encoder", default=LITE)
    parser.add_argument("--depth", type=int, default=4, help="stages of the encoder")
    parser.add_argument("--weights", default=IMAGENET, help="of the encoder; '' for random")
    parser.add_argument("--teacher", default="abs")
    parser.add_argument("--student", default="cat")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--detector", default="tiny")
    parser.add_argument("--detector-epochs", type=int, default=8)
    parser.add_argument("--accelerator", default="cpu")
    return parser.parse_args()


class Results:
    """JSON lines that are looked up before they are computed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if (
            path.exists()
        ) else []  # fmt: skip

    def has(self, **key: Any) -> bool:
        """Whether a line holds all of these."""
        return any(all(line.get(k) == v for k, v in key.items()) for line in self.lines)

    def add(self, **line: Any) -> None:
        """Keep and print a line."""
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def pair_folder(args: argparse.Namespace, seed: int) -> Path:
    """The towns of a seed."""
    root: Path = args.work / f"seed{seed}" / "pairs"
    if not (root / "complete").exists():
        counts = {"train": args.pairs, "val": args.held_out, "test": args.held_out}
        knobs = {
            "gsd_m": args.gsd,
            "change_share": args.change,
            "nuisance": {"strength": args.nuisance},
            "style": {"growth": args.growth},
        }
        write_town_folder(
            root,
            counts,
            seed=1000 * seed,
            patch_size=args.size,
            min_change_pixels=20,
            town_args=knobs,
        )
        (root / "complete").touch()
    return root


def training(
    args: argparse.Namespace, seed: int, root: Path, method: str, method_args: Any, epochs: int,
    masks: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The configuration of a training."""

    def stream(split: str, **more: Any) -> dict[str, Any]:
        folder = {"root": str(root), "split": split, **more}
        return {"class_path": "rscd.data.folder.PairFolder", "init_args": folder}

    chosen = {} if masks is None else {"mask_from": masks}
    limits = {"max_epochs": epochs, "log_every_n_steps": 10, "enable_progress_bar": False}
    return {
        "seed_everything": seed,
        "trainer": {"accelerator": args.accelerator, **limits},
        "checkpoint": {"monitor": "val/best_iou_change"},
        "model": {
            "method": method,
            "method_args": method_args,
            "lr": args.lr if masks is None else 3e-3,
            "optimizer_args": {"weight_decay": 0.01},
            "schedule": "cosine",
            "warmup_steps": 30,
            "patch_size": args.size,
            "halo": 16,
        },
        "data": {
            "batch_size": 16,
            "seed": seed,
            "streams": {"train": stream("train", **chosen), "val": stream("val")},
        },
    }


def carry_out(folder: Path, name: str, command: str, settings: dict[str, Any]) -> Path:
    """One stage of a chain, unless it was finished before; its folder."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder), "stages": {name: {command: settings}}}))
    run_chain(read_chain(path), run_command)
    return folder / name


def export(run: Path, kind: str, which: str) -> Network:
    """The teacher or the student of a training as a weights file, loaded."""
    target = run / f"{kind}_{which}.safetensors"
    if not target.exists():
        task = ChangeTask.load_from_checkpoint(run / f"{which}.ckpt", weights_only=True)
        method: Any = task.method
        args = dict(task.hparams["method_args"]["network_args"]) | {"weights": None}
        if kind == "teacher":
            args["combination"] = method.teacher.combination
        network = method.teacher if kind == "teacher" else method.network
        card = {"halo": 16, "multiple": network.multiple, "patch_size": 64, "threshold": 0.5}
        save_weights(target, network.eval().cpu(), "cam", args, card)
    return load_network(target, "auto", torch.get_num_threads())


def gated_maps(root: Path, split: str, maps: ImageMaps) -> list[tuple[Any, Any]]:
    """Maps of a split, empty where the label says so, and true masks."""
    data = PairFolder(root, split, keys={"image", "mask", "label"})
    silent = lambda stage, done, total: None  # noqa: E731
    return list(labelled_maps(data, maps, gated=True, progress=silent, stage=""))


def iou_at(pairs: list[tuple[Any, Any]], threshold: float) -> float:
    """Change IoU over all pairs."""
    counts = [count(prob > np.float32(threshold), mask) for prob, mask in pairs]
    return summarise(sum(counts[1:], counts[0]))["iou_change"]


def teacher_of(run: Path, root: Path, views: Views) -> str:
    """``best`` or ``last``: which teacher's baseline maps are better on validation."""
    scores = {
        which: search(
            gated_maps(root, "val", ImageMaps(export(run, "teacher", which), "mi", views)), "val"
        ).score
        for which in ("best", "last")
    }
    return max(scores, key=lambda which: scores[which] or 0.0)


def measure_maps(
    seed: int, run: Path, root: Path, results: Results
) -> Iterator[tuple[str, str, Network]]:
    """Write a line per rung; yields name, kind of maps, and network of those for detectors."""
    views = Views(PRESETS["paper"])
    chosen = {"student": "best", "teacher": teacher_of(run, root, views)}
    for rung, (whose, kind) in MAPS.items():
        network = export(run, whose, chosen[whose])
        if not results.has(seed=seed, maps=rung):
            make = partial(gated_maps, maps=ImageMaps(network, kind, views))
            found = search(make(root, "val"), "val")
            train = make(root, "train")
            oracle = search(train, "train_oracle", thresholds=GRID)
            results.add(
                seed=seed,
                maps=rung,
                iou=round(iou_at(train, found.threshold), 4),
                threshold=found.threshold,
                val_iou=found.score,
                oracle_iou=oracle.score,
                oracle_threshold=oracle.threshold,
                checkpoint=chosen[whose],
            )
        if rung in ("student + MSI", "CAM baseline"):
            yield rung, kind, network


def one_seed(args: argparse.Namespace, seed: int, results: Results) -> None:
    """All rungs of one seed."""
    folder = args.work / f"seed{seed}"
    root = pair_folder(args, seed)
    network = {
        "encoder": args.encoder,
        "depth": args.depth,
        "weights": args.weights or None,
        "combination": args.student,
        "mean": [MEAN] * 3,
        "std": [DEVIATION] * 3,
    }
    kd = {"network": "cam", "network_args": network, "teacher": args.teacher}
    run = carry_out(folder, "kd", "train", training(args, seed, root, "kdmsi", kd, args.epochs))
    names = {"student + MSI": DETECTORS["KD-MSI"], "CAM baseline": DETECTORS["CAM"]}
    for rung, kind, made_by in measure_maps(seed, run, root, results):
        labels = {"args": [str(root)], "checkpoint": str(made_by.path), "split": "train"}
        options = {"maps": kind, "name": names[rung], "threshold": "val", "quiet": True}
        carry_out(folder, names[rung], "pseudolabel", labels | options)
    for rung, masks in DETECTORS.items():
        if results.has(seed=seed, detector=rung):
            continue
        statistic = {"mean": [127.5] * 3, "std": [127.5] * 3}
        net = {"network": args.detector, "network_args": statistic, "losses": {"bce": 1}}
        setting = training(args, seed, root, "supervised", net, args.detector_epochs, masks)
        weights = carry_out(folder, f"detector_{masks}", "train", setting) / "best.ckpt"
        results.add(seed=seed, detector=rung, **test_of(weights, root))


def test_of(weights: Path, root: Path) -> dict[str, float]:
    """Change IoU on the test split, ungated, at the threshold that validation chose."""
    network = load_network(weights, "auto", torch.get_num_threads())
    data = PairFolder(root, "test", keys={"image", "mask"})
    pairs = []
    for index in range(len(data)):
        sample = data[index]
        image = sample["image"].numpy()[None]
        pairs.append((network(image, np.ones(image.shape[:1] + image.shape[-2:], bool))[0],
                      sample["mask"][0].numpy().astype(np.uint8)))  # fmt: skip
    return {
        "iou": round(iou_at(pairs, network.threshold), 4),
        "iou_at_half": round(iou_at(pairs, 0.5), 4),
        "threshold": network.threshold,
    }


def summary(results: Results) -> None:
    """Mean and deviation over the seeds, as a table."""
    for kind in ("maps", "detector"):
        for rung in dict.fromkeys(line[kind] for line in results.lines if kind in line):
            values = [line["iou"] for line in results.lines if line.get(kind) == rung]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            print(f"| {kind} | {rung} | {statistics.mean(values):.3f} ± {spread:.3f} | {values} |")


def main() -> None:
    """Measure what is missing and sum up."""
    args = arguments()
    results = Results(args.out or args.work / "ladder.jsonl")
    if not args.summary:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            one_seed(args, seed, results)
    summary(results)


if __name__ == "__main__":
    main()
