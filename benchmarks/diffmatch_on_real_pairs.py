"""What unlabelled real pairs bring beside a few labelled ones: DiffMatch and its baselines.

    python benchmarks/diffmatch_on_real_pairs.py DATA OUT --weights ENCODER [--steps 300]

DATA holds the sets of ``train_on_real_pairs.py``, brought to about 0.5 m, and folders of pairs in
``unlabelled``. The labelled training pairs are the few, the unlabelled pairs and those without
their masks the many. Guidance comes from the buildings that the network which ships with rscd sees
at each date (it learned them from synthetic towns), turned into change events
(`rscd.events.pixels`). Measured on the test pairs of each set at the best threshold of the
labelled ones; no pair is left to validate on, so the last weights count. Prints JSON lines; a
training whose line is in OUT/results.jsonl is not run again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from machine import machine
from pretrain_encoder import MEAN, STD
from torch.utils.data import Dataset
from train_on_real_pairs import SETS, prepare

from rscd.base.types import LAYERS
from rscd.data.folder import PairFolder
from rscd.geo.measure import ground_of
from rscd.inference.shipped import shipped_path
from rscd.inference.weights import read_card, read_tensors
from rscd.labels.from_segmenter import LabelOptions, labels_of
from rscd.metrics.pixels import ChangeMetrics, count, summarise
from rscd.models.networks import build_network
from rscd.segmenters.segmenter import SemanticPrediction
from rscd.synthetic.town_pairs import TownPairs
from rscd.training.module import ChangeDataModule, Stream
from rscd.training.task import ChangeTask

GAMMA = 0.8
WIDTH = 32
VARIANTS = ("supervised", "fixmatch", "unimatch", "decoupled", "diffmatch")
SHOWN = ("f1_change", "precision", "recall")

Sample = dict[str, Any]


class Patches(Dataset[Sample]):
    """Random windows of samples in memory."""

    def __init__(self, samples: Sequence[Sample], length: int, side: int, seed: int) -> None:
        """Keep them; `length` windows of `side` pixels."""
        self.samples, self.length, self.side, self.seed = samples, length, side, seed

    def __len__(self) -> int:
        """Number of windows."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Window number `index` of a sample drawn by its size."""
        random = np.random.default_rng((self.seed, index))
        areas = np.array([np.prod(s["image"].shape[-2:]) for s in self.samples], float)
        sample = self.samples[random.choice(len(areas), p=areas / areas.sum())]
        height, width = sample["image"].shape[-2:]
        top, left = random.integers((height - self.side + 1, width - self.side + 1))
        window = (..., slice(top, top + self.side), slice(left, left + self.side))
        maps = {key: value for key, value in sample.items() if isinstance(value, torch.Tensor)}
        return {key: value[window] for key, value in maps.items()}


def buildings_of(image: torch.Tensor, network: Any) -> np.ndarray[Any, Any]:
    """(2,H,W) float32: probability of a building at each date."""
    height, width = image.shape[-2:]
    padded = F.pad(
        image, (0, -width % network.multiple, 0, -height % network.multiple), mode="reflect"
    )
    with torch.inference_mode():
        maps = network.neck(network.encoder(network.normalize(padded)))
        prob = F.interpolate(network.neck.building_logits(maps), scale_factor=2.0, mode="bilinear")
    return prob.sigmoid()[:, 0, :height, :width].numpy()


def guided(sample: Sample, network: Any) -> Sample:
    """The sample with labels of change and of each date."""
    dates = [
        SemanticPrediction(np.stack([prob, 1 - prob]), ("building", "other"), n_foreground=1)
        for prob in buildings_of(sample["image"], network)
    ]
    rules = LabelOptions(gamma=GAMMA, gamma_seg=GAMMA, instance_threshold=0.5, min_object_m2=14)
    labels = labels_of(dates, rules, ground_of(None, 0.5))
    maps = (labels.mixed, labels.seg1, labels.seg2)
    layers = {
        name: torch.from_numpy(mask[None].astype(np.int64))
        for name, mask in zip(LAYERS, maps, strict=True)
    }
    return sample | layers


def gathered(data: Path, out: Path) -> tuple[list[Sample], list[Sample]]:
    """Labelled pairs, and all pairs without masks; both with guidance."""
    card = read_card(shipped_path())
    network = build_network(card["network"], card["network_args"])
    network.load_state_dict(read_tensors(shipped_path()))
    network.eval()
    labelled, unlabelled = [], []
    for name in SETS:
        folder = PairFolder(out / "pairs" / name, "train", keys={"image", "mask"})
        labelled += [guided(folder[i], network) for i in range(len(folder))]
    for place in sorted((data / "unlabelled").iterdir()):
        folder = PairFolder(place, keys={"image"})
        unlabelled += [guided(folder[i], network) for i in range(len(folder))]
    bare = [{k: v for k, v in sample.items() if k != "mask"} for sample in labelled]
    return labelled, unlabelled + bare


def trained(
    variant: str, labelled: Sequence[Sample], unlabelled: Sequence[Sample], args: Any
) -> ChangeTask:
    """One training."""
    task = ChangeTask(
        method="diffmatch",
        method_args={
            "network": "siamese-mlp",
            "network_args": {
                "encoder": args.encoder,
                "weights": args.weights,
                "width": WIDTH,
                "mean": list(MEAN),
                "std": list(STD),
            },
            "variant": variant,
            "weak": {"patch_size": args.side, "p_vflip": 0.5, "rot90": True},
        },
        lr=args.lr,
        optimizer="sgd",
        optimizer_args={"momentum": 0.9, "weight_decay": 1e-4},
        schedule="poly-lagged",
    )
    if args.start is not None:
        network: torch.nn.Module = task.method.network
        network.load_state_dict(torch.load(args.start, weights_only=True))
    if not args.steps:
        return task
    length = args.steps * args.batch
    streams = {
        "labeled": Patches(labelled, length, args.side, args.seed),
        "unlabeled": Patches(unlabelled, length, args.side, args.seed + 1),
    }
    needs: Mapping[str, Any] = task.method.needs
    data = ChangeDataModule(
        {name: Stream.of(streams[name]) for name in needs},
        batch_size=args.batch,
        seed=args.seed,
        needs=needs,
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=args.steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, data)
    return task


def town_network(args: Any) -> dict[str, torch.Tensor]:
    """Tensors of the network after some steps on 500 masks of half a metre."""
    towns = TownPairs(
        500, 5, 2 * args.side, gsd_m=0.5, change_share=(0.2, 0.8), fresh=False,
        cache=args.out / "towns", keys=("image", "mask"),
    )  # fmt: skip
    seed_everything(args.seed, verbose=False)
    plain = argparse.Namespace(**vars(args) | {"start": None, "steps": args.towns, "lr": 0.02})
    task = trained("supervised", [towns[i] for i in range(len(towns))], [], plain)
    network: torch.nn.Module = task.method.network
    return network.state_dict()


def predicted(task: ChangeTask, samples: Sequence[Sample]) -> ChangeMetrics:
    """Counts of what the network says of whole pairs, at all thresholds."""
    metrics = ChangeMetrics()
    for sample in samples:
        image = sample["image"]
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="reflect")[None]
        with torch.inference_mode():
            prob = task.method.predict(padded)[0, :, :height, :width]
        metrics.update(prob, sample["mask"])
    return metrics


def measured(task: ChangeTask, out: Path, threshold: float) -> dict[str, dict[str, float]]:
    """Scores on the test pairs of each set."""
    found = {}
    for name in SETS:
        folder = PairFolder(out / "pairs" / name, "test", keys={"image", "mask"})
        metrics = predicted(task, [folder[i] for i in range(len(folder))])
        scores = summarise(metrics.counts(threshold))
        found[name] = {key: round(scores[key], 3) for key in SHOWN}
    return found


def labels_quality(samples: Sequence[Sample]) -> dict[str, float]:
    """How good guidance is on the labelled pairs."""
    label = torch.cat([s["vl_change"].flatten() for s in samples])
    mask = torch.cat([s["mask"].flatten() for s in samples])
    used = label != 255
    scores = summarise(count(label[used].numpy(), mask[used].numpy()))
    return {key: round(scores[key], 3) for key in SHOWN} | {
        "reliable": round(float(used.float().mean()), 3)
    }


def main() -> None:
    """Prepare, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", required=True, help="of the encoder, see pretrain_encoder.py")
    parser.add_argument("--encoder", default="tu-test_resnet")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--start", type=Path, help="a network that has seen towns, see --towns")
    parser.add_argument("--towns", type=int, metavar="STEPS", help="first make --start: train")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.towns is not None:
        torch.save(town_network(args), args.start)
    prepare(args.data, args.out)
    labelled, unlabelled = gathered(args.data, args.out)
    about = {"labelled": len(labelled), "unlabelled": len(unlabelled)}
    print(json.dumps(about | {"guidance": labels_quality(labelled), **machine("torch")}))
    results = args.out / "results.jsonl"
    kept = results.read_text().splitlines() if results.exists() else []
    before = ["start"] if args.start is not None else []
    for variant in [*before, *args.variants]:
        key = {"variant": variant, "seed": args.seed, "steps": args.steps, "side": args.side}
        key |= {"lr": args.lr, "start": str(args.start)}
        if any(key.items() <= json.loads(line).items() for line in kept):
            continue
        started = time.process_time()
        seed_everything(args.seed, verbose=False)
        steps = argparse.Namespace(**vars(args) | ({"steps": 0} if variant == "start" else {}))
        method = "supervised" if variant == "start" else variant
        task = trained(method, labelled, unlabelled, steps)
        task.method.eval()
        threshold = predicted(task, labelled).best_threshold()
        test = measured(task, args.out, threshold)
        line = key | {
            "threshold": threshold,
            "test": test,
            "cpu_s": round(time.process_time() - started),
        }
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
