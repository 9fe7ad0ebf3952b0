"""From a training run of ``configs/default_model.yaml`` to the weights that ship, with their card.

    python benchmarks/default_model.py RUN.ckpt rscd/weights/buildings.safetensors
        --singles FOLDER [--data FOLDER] [--threshold 0.5]

1. Calibrate: slope and intercept of the logits (Platt 1999) on synthetic towns and on pairs made of
   pictures of one date (``--singles``, see `rscd.synthetic.single_date`) that training never saw,
   half and half; both are folded into the last layer.
2. Choose the threshold of best F1 on the same pairs (the mean of both halves), unless one is given;
   and the least score of a polygon: the lowest with at most one false polygon per square kilometre
   of unchanged ground, as long as it costs at most two points of F1.
3. Measure labelled real pairs in FOLDER, ``<set>/{train,test}/{A,B,label}``; none was trained on.
4. Write the weights and the card, with a checksum beside. Prints the card.

``--average WEIGHTS`` first takes the mean of the tensors of RUN.ckpt and of the weights it began
with, which keeps what fine-tuning loses elsewhere (Wortsman et al. 2022, arXiv 2109.01903).

Instead of RUN.ckpt the weights that ship may be named: they keep calibration and threshold, and
the rest is done again.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from real_pairs import measured
from scipy.ndimage import label, mean
from torch import nn
from torch.nn import functional as F

from rscd.base.files import sha256_of
from rscd.base.types import IGNORE
from rscd.inference.graphs import export_graph
from rscd.inference.network import save_weights
from rscd.inference.shipped import CHECKSUMS
from rscd.inference.weights import read_card, read_tensors
from rscd.metrics.pixels import THRESHOLDS
from rscd.models.networks import build_network
from rscd.synthetic.single_date import SingleDatePairs
from rscd.synthetic.town_pairs import TownPairs

CONFIG = Path(__file__).parents[1] / "configs" / "default_model.yaml"
TOWNS, PAIRS, KEPT = 80, 160, 240
"""Towns, pairs of pictures of one date, and such pairs of unchanged ground."""
SEED = 4711
"""Of the towns and pairs; no training uses it."""
SCORES = [round(0.05 * step, 2) for step in range(20)]
POINTS = 0.02
"""Of F1, what fewer false polygons may cost."""
FALSE_PER_KM2 = 1.0

Floats = NDArray[np.float32]
Found = list[tuple[Floats, NDArray[np.uint8]]]
"""Logits and truth (0, 1, 255) of pairs, all (H,W)."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--singles", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--average", type=Path)
    options = parser.parse_args()
    recipe = yaml.safe_load(CONFIG.read_text())
    card = read_card(options.checkpoint) | recipe["model"]["card"]
    # they decided what the network began with, and its tensors are all here
    card["network_args"] = {k: v for k, v in card["network_args"].items() if k != "weights"}
    network = build_network(card["network"], card["network_args"])
    tensors = read_tensors(options.checkpoint)
    if options.average is not None:
        tensors = averaged(tensors, read_tensors(options.average))
    network.load_state_dict(tensors)
    parts = validation(network.eval(), recipe["data"]["streams"], options.singles)
    if "calibration" not in card:
        card |= {key: recipe["model"][key] for key in ("patch_size", "halo")}
        card["steps"] = torch.load(options.checkpoint, weights_only=True)["global_step"]
        slope, intercept = platt(parts["towns"], parts["pairs"])
        fold(network, slope, intercept)
        card["calibration"] = {
            "slope": slope,
            "intercept": intercept,
            "towns": TOWNS,
            "pairs": PAIRS,
        }
        card["metrics"] = {
            f"ece_before_{k}": calibration_error(parts[k]) for k in ("towns", "pairs")
        }
        parts = {k: [(slope * x + intercept, y) for x, y in v] for k, v in parts.items()}
        scores = {t: np.mean([f1(parts[k], t) for k in ("towns", "pairs")]) for t in THRESHOLDS}
        card["threshold"] = options.threshold or max(scores, key=lambda t: scores[t])
    for key in ("towns", "pairs"):
        card["metrics"] |= {
            f"f1_change_{key}": f1(parts[key], card["threshold"]),
            f"ece_{key}": calibration_error(parts[key]),
        }
    card["min_score"], others = least_score(parts, card)
    card["metrics"] |= others
    write(options.weights, network, card)
    if options.data is not None:
        card["measured"] = measured(str(options.weights), options.data)
        card["summary"] = summary(card, options.weights)
        write(options.weights, network, card)
    print(json.dumps(card, indent=2, sort_keys=True))


def averaged(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Mean of two networks, of which one began with the other."""
    return {
        name: (value.float() + other[name].float()) / 2 if value.is_floating_point() else value
        for name, value in one.items()
    }


def validation(network: nn.Module, streams: Mapping[str, Any], singles: Path) -> dict[str, Found]:
    """What the network says of ``towns``, of ``pairs`` made of one date, and of ``kept`` ground."""
    towns_of = streams["train"]["init_args"] | {"length": TOWNS, "seed": SEED, "cache": None}
    pairs_of = streams["val"]["init_args"] | {"root": singles, "seed": SEED}
    towns = TownPairs(**towns_of)
    pairs = SingleDatePairs(**pairs_of | {"length": PAIRS, "kinds": (0.1, 0.6, 0.3)})
    kept = SingleDatePairs(**pairs_of | {"length": KEPT, "kinds": (0, 0, 1), "gsd_m": (0.5, 0.5)})
    return {
        "towns": said(network, (towns[i] for i in range(TOWNS))),
        "pairs": said(network, (pairs[i] for i in range(PAIRS))),
        "kept": said(network, (kept[i] for i in range(KEPT))),
    }


def said(network: nn.Module, samples: Iterable[Mapping[str, Any]]) -> Found:
    """Logits and truth of samples."""
    with torch.inference_mode():
        return [
            (
                network(sample["image"][None])["logits"][0, 0].numpy(),
                sample["mask"][0].numpy().astype(np.uint8),
            )
            for sample in samples
        ]


def pixels(found: Found) -> tuple[Floats, NDArray[np.bool_]]:
    """Logits and truth of all pixels that count."""
    logits = np.concatenate([x[y != IGNORE] for x, y in found])
    return logits, np.concatenate([y[y != IGNORE] == 1 for _, y in found])


def sigmoid(logits: Floats) -> Floats:
    """Probabilities."""
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def least_score(parts: Mapping[str, Found], card: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """The least score of a polygon, see the module; and figures with and without it."""
    drawn = {key: [outlined(x, y, card) for x, y in found] for key, found in parts.items()}
    scores = {}
    for least in SCORES:
        maps = {k: [np.where(score >= least, 1, 0) for score, _ in v] for k, v in drawn.items()}
        scores[least] = float(
            np.mean([f1_of(maps[k], [y for _, y in parts[k]]) for k in ("towns", "pairs")])
        )
    area_km2 = sum(y.size for _, y in parts["kept"]) * card["gsd_m"] ** 2 / 1e6
    false = np.concatenate([scores_of_parts for _, scores_of_parts in drawn["kept"]])
    per_km2 = {least: float((false >= least).sum() / area_km2) for least in SCORES}
    quiet = [least for least in SCORES if per_km2[least] <= FALSE_PER_KM2]
    cheap = [least for least in SCORES if scores[least] >= scores[0.0] - POINTS]
    chosen = min(quiet) if quiet and min(quiet) <= max(cheap) else max(cheap)
    return chosen, {
        "f1_in_polygons_of_any_score": scores[0.0],
        "f1_in_polygons": scores[chosen],
        "false_polygons_per_km2_of_any_score": per_km2[0.0],
        "false_polygons_per_km2": per_km2[chosen],
        "f1_with_one_false_polygon_per_km2": scores[min(quiet)] if quiet else 0.0,
    }


def outlined(
    logits: Floats, truth: NDArray[np.uint8], card: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """(H,W) score of the polygon over each pixel, -1 outside; and the scores of the polygons."""
    prob = sigmoid(logits)
    regions, n = label(prob >= card["threshold"])
    score = np.asarray(mean(prob, regions, np.arange(1, n + 1)), np.float32).reshape(-1)
    area = np.bincount(regions.ravel(), minlength=n + 1)[1:] * card["gsd_m"] ** 2
    score = np.where(area >= card["min_area_m2"], score, -1).astype(np.float32)
    return np.concatenate([[-1], score]).astype(np.float32)[regions], score


def platt(*parts: Found) -> tuple[float, float]:
    """Slope and intercept of least cross-entropy; every part weighs the same."""
    rng = np.random.default_rng(0)
    xs, ys = [], []
    for logits, truth in map(pixels, parts):
        chosen = rng.choice(len(logits), min(len(logits), 300_000), replace=False)
        xs.append(torch.from_numpy(logits[chosen]).double())
        ys.append(torch.from_numpy(truth[chosen]).double())
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = [
            F.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
            for x, y in zip(xs, ys, strict=True)
        ]
        loss = torch.stack(losses).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    slope, intercept = line.detach().tolist()
    return slope, intercept


def fold(network: Any, slope: float, intercept: float) -> None:
    """Let the last layer give ``slope * logit + intercept``."""
    with torch.no_grad():
        network.head.weight *= slope
        network.head.bias.mul_(slope).add_(intercept)


def f1(found: Found, threshold: float) -> float:
    """F1 of change at a threshold of the probability."""
    least = np.log(threshold / (1 - threshold))
    return f1_of([x >= least for x, _ in found], [y for _, y in found])


def f1_of(called: Sequence[NDArray[Any]], truth: Sequence[NDArray[np.uint8]]) -> float:
    """F1 of change of maps; pixels of 255 do not count."""
    hit = said = true = 0
    for x, y in zip(called, truth, strict=True):
        hit += int(((x == 1) & (y == 1)).sum())
        said += int(((x == 1) & (y != IGNORE)).sum())
        true += int((y == 1).sum())
    return 2 * hit / max(said + true, 1)


def calibration_error(found: Found, bins: int = 15) -> float:
    """Mean distance of probability and frequency over bins of equal width."""
    logits, truth = pixels(found)
    prob = sigmoid(logits)
    index = np.minimum((prob * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.bincount(index, prob, bins) - np.bincount(index, truth, bins)
    return float(np.abs(gap).sum() / count.sum())


def summary(card: dict[str, Any], path: Path) -> str:
    """One line for ``rscd model list``."""
    levir, fotbcd = (
        card["measured"][f"{name} test"]["f1"] for name in ("levir-cd", "fotbcd-binary")
    )
    low, high = card["gsd_range_m"]
    size = path.stat().st_size / 1e6
    return (
        f"buildings that came or went in {card['bands']} images of {low:g} to {high:g} m; "
        f"{card['licence']}, {size:.1f} MB; F1 {levir:.2f} on LEVIR-CD and {fotbcd:.2f} on FOTBCD "
        "samples"
    )


def write(path: Path, network: nn.Module, card: dict[str, Any]) -> None:
    """Weights for torch and for ONNX Runtime, and their card with both checksums beside."""
    own = {k: v for k, v in card.items() if k not in ("network", "network_args", "splits")}
    save_weights(path, network, card["network"], card["network_args"], own)
    export_graph(path, path.with_suffix(".onnx"))
    beside = read_card(path) | {
        key: sha256_of(path.with_suffix(suffix)) for suffix, key in CHECKSUMS.items()
    }
    text = json.dumps(beside, indent=2, sort_keys=True)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
