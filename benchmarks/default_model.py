"""From a training run of ``configs/default_model.yaml`` to the weights that ship, with their card.

    python benchmarks/default_model.py RUN.ckpt rscd/weights/buildings.safetensors
        [--data FOLDER] [--threshold 0.5]

1. Calibrate: slope and intercept of the logits (Platt 1999) on synthetic validation towns that
   training never saw; both are folded into the last layer.
2. Choose the threshold of best F1 on the same towns, unless one is given; and the least score of a
   polygon, the highest that costs at most a point of F1 there.
3. Measure labelled real pairs in FOLDER, ``<set>/{train,test}/{A,B,label}``; none was trained on.
4. Write the weights and the card, with a checksum beside. Prints the card.

Instead of RUN.ckpt the weights that ship may be named: they keep calibration and threshold, and
the rest is done again.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy.ndimage import label, mean
from torch import nn
from torch.nn import functional as F

from rscd.data.town_dataset import TownPairs
from rscd.evaluation.dataset import Split, evaluate_split, facts, labelled_folder
from rscd.inference.models import scene_model
from rscd.inference.network import save_weights
from rscd.inference.weights import read_card, read_tensors
from rscd.metrics import THRESHOLDS, count
from rscd.models.networks import build_network

CONFIG = Path(__file__).parents[1] / "configs" / "default_model.yaml"
TOWNS = 80
SCORES = [round(0.05 * step, 2) for step in range(20)]
POINT = 0.01
"""Of F1, what fewer false polygons may cost."""
SETS = {"levir-cd": 0.5, "levir-cd-grid": 0.5, "fotbcd-binary": 0.2}
"""Real sets and the metres of their pixels."""

Floats = NDArray[np.float32]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threshold", type=float)
    options = parser.parse_args()
    recipe = yaml.safe_load(CONFIG.read_text())
    card = read_card(options.checkpoint) | recipe["model"]["card"]
    network = build_network(card["network"], card["network_args"])
    network.load_state_dict(read_tensors(options.checkpoint))
    logits, truth = validation(network.eval(), recipe["data"]["streams"]["val"]["init_args"])
    if "calibration" not in card:
        card |= {key: recipe["model"][key] for key in ("patch_size", "halo")}
        card["steps"] = torch.load(options.checkpoint, weights_only=True)["global_step"]
        slope, intercept = platt(logits.ravel(), truth.ravel())
        fold(network, slope, intercept)
        card["calibration"] = {"slope": slope, "intercept": intercept, "towns": TOWNS}
        card["metrics"] = {"ece_before": calibration_error(sigmoid(logits).ravel(), truth.ravel())}
        logits = slope * logits + intercept
        scores = {t: f1(sigmoid(logits) >= t, truth) for t in THRESHOLDS}
        card["threshold"] = options.threshold or max(scores, key=lambda t: scores[t])
    prob = sigmoid(logits)
    card["metrics"] |= {
        "f1_change": f1(prob >= card["threshold"], truth),
        "ece": calibration_error(prob.ravel(), truth.ravel()),
    }
    card["min_score"], right = least_score(prob, truth, card)
    card["metrics"] |= right
    write(options.weights, network, card)
    if options.data is not None:
        card["measured"] = measured(options.weights, options.data)
        card["summary"] = summary(card)
        write(options.weights, network, card)
    print(json.dumps(card, indent=2, sort_keys=True))


def sigmoid(logits: Floats) -> Floats:
    """Probabilities."""
    return 1 / (1 + np.exp(-logits))


def validation(network: nn.Module, towns_of: dict[str, Any]) -> tuple[Floats, NDArray[np.bool_]]:
    """Logits and truth of the validation towns, both (N,H,W)."""
    towns = TownPairs(**towns_of | {"length": TOWNS})
    logits, truth = [], []
    with torch.inference_mode():
        for town in (towns[i] for i in range(TOWNS)):
            logits.append(network(town["image"][None])["logits"][0, 0].numpy())
            truth.append(town["mask"][0].numpy() == 1)
    return np.stack(logits), np.stack(truth)


def least_score(
    prob: Floats, truth: NDArray[np.bool_], card: dict[str, Any]
) -> tuple[float, dict[str, float]]:
    """The least score of a polygon, and the share of right polygons without and with it.

    A polygon is right where at least half of its pixels are change.
    """
    area_m2, min_area_m2 = card["gsd_m"] ** 2, card["min_area_m2"]
    kept = {least: np.zeros(prob.shape, bool) for least in SCORES}
    polygons = []
    for number, (scores, true) in enumerate(zip(prob, truth, strict=True)):
        regions, n = label(scores >= card["threshold"])
        index = np.arange(1, n + 1)
        large = np.bincount(regions.ravel(), minlength=n + 1)[1:] * area_m2 >= min_area_m2
        score, right = (mean(of, regions, index) for of in (scores, true.astype(float)))
        polygons.append(np.stack([score, right], 1)[large])
        for least, maps in kept.items():
            maps[number] = np.concatenate([[False], large & (score >= least)])[regions]
    found = {least: f1(maps, truth) for least, maps in kept.items()}
    chosen = max(least for least in SCORES if found[least] >= found[0.0] - POINT)
    score, right = np.concatenate(polygons).T
    return chosen, {
        "f1_change_in_polygons": found[chosen],
        "right_polygons_of_any_score": float((right >= 0.5).mean()),
        "right_polygons": float((right[score >= chosen] >= 0.5).mean()),
    }


def platt(logits: Floats, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of least cross-entropy."""
    chosen = np.random.default_rng(0).choice(len(logits), min(len(logits), 500_000), replace=False)
    x, y = torch.from_numpy(logits[chosen]).double(), torch.from_numpy(truth[chosen]).double()
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()
        return loss

    optimizer.step(closure)
    slope, intercept = line.detach().tolist()
    return slope, intercept


def fold(network: Any, slope: float, intercept: float) -> None:
    """Let the last layer give ``slope * logit + intercept``."""
    with torch.no_grad():
        network.decoder.head.weight *= slope
        network.decoder.head.bias.mul_(slope).add_(intercept)


def f1(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """F1 of change."""
    return float(2 * (called & truth).sum() / max(called.sum() + truth.sum(), 1))


def calibration_error(prob: Floats, truth: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance of probability and frequency over bins of equal width."""
    index = np.minimum((prob * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.bincount(index, prob, bins) - np.bincount(index, truth, bins)
    return float(np.abs(gap).sum() / count.sum())


def measured(weights: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Pooled scores on real pairs, by set and split."""
    found = {}
    for name, gsd_m in SETS.items():
        for split in ("test", "train"):
            data = labelled_folder(folder / name, split)
            trial = Split(data, scene_model(str(weights), facts(data, gsd_m)), None)
            report = evaluate_split(trial)
            unchanged = [s for s in report.samples if not s.counts.true[1]]
            outlined = {s.index: in_polygons(trial, s.index, gsd_m) for s in report.samples}
            drawn = [count(outlined[i], data[i]["mask"][0].numpy()) for i in outlined]
            found[f"{name} {split}"] = scores_of(report.counts) | {
                "pairs": len(report.samples),
                "f1_in_polygons": scores_of(sum(drawn[1:], drawn[0]))["f1"],
                "unchanged": len(unchanged),
                "unchanged_without_a_changed_pixel": sum(
                    not s.counts.predicted[1] for s in unchanged
                ),
                "unchanged_without_a_polygon": sum(not outlined[s.index].any() for s in unchanged),
            }
    return found


def in_polygons(trial: Split, index: int, gsd_m: float) -> NDArray[np.bool_]:
    """Pixels of a pair within polygons that `rscd predict` would write by default."""
    _, prob, threshold = trial.predict(index)
    card = trial.model.card()
    regions, n = label(prob >= threshold)
    large = np.bincount(regions.ravel(), minlength=n + 1)[1:] * gsd_m**2 >= card["min_area_m2"]
    sure = np.asarray(mean(prob, regions, np.arange(1, n + 1))) >= card["min_score"]
    return np.concatenate([[False], large & sure])[regions]


def scores_of(counts: Any) -> dict[str, float]:
    """F1, IoU, precision and recall of change."""
    hit, called, true = counts.hit[1], counts.predicted[1], counts.true[1]
    return {
        "f1": round(2 * hit / (called + true), 4),
        "iou": round(hit / (called + true - hit), 4),
        "precision": round(hit / max(called, 1), 4),
        "recall": round(hit / true, 4),
    }


def summary(card: dict[str, Any]) -> str:
    """One line for ``rscd model list``."""
    levir, fotbcd = (
        card["measured"][f"{name} test"]["f1"] for name in ("levir-cd", "fotbcd-binary")
    )
    low, high = card["gsd_range_m"]
    return (
        f"buildings that came or went in {card['bands']} images of {low:g} to {high:g} m; "
        f"{card['licence']}, 1.7 MB; F1 {levir:.2f} on LEVIR-CD and {fotbcd:.2f} on FOTBCD samples"
    )


def write(path: Path, network: nn.Module, card: dict[str, Any]) -> None:
    """Weights with their card, and the card with their checksum beside."""
    own = {k: v for k, v in card.items() if k not in ("network", "network_args", "splits")}
    save_weights(path, network, card["network"], card["network_args"], own)
    beside = read_card(path) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    text = json.dumps(beside, indent=2, sort_keys=True)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
