"""What the network that ships scores on labelled real pairs, and how far its scores can be trusted.

    python benchmarks/real_pairs.py FOLDER [--model buildings]

FOLDER holds ``<set>/{train,test}/{A,B,label}``; no pair was trained on. Counts are pooled over the
pairs of a split, at the model's own threshold. F1, IoU, precision and recall count the pixels of
the mask; F1 within polygons counts what `rscd predict` outlines by default. The expected
calibration error (ECE) is the mean distance of probability and frequency over 15 bins of equal
width: of all pixels, and of those beyond the first bin, since most ground is easy. Prints a table
in Markdown.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label, mean
from tables import markdown

from rscd.data.folder import PairFolder
from rscd.evaluation.dataset import facts, labelled_folder, predict_pair
from rscd.evaluation.report import Probabilities
from rscd.inference.models import scene_model
from rscd.inference.predictor import Model
from rscd.metrics.pixels import count
from rscd.metrics.probabilities import ChangeMetrics

SETS = {"levir-cd": 0.5, "levir-cd-grid": 0.5, "fotbcd-binary": 0.2, "fotbcd-instances": 0.2}
"""Real sets and the metres of their pixels."""
SPLITS = ("test", "train")

COLUMNS = {
    "pairs": "pairs",
    "f1": "F1",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1_in_polygons": "F1 within polygons",
    "ece": "ECE",
    "ece_beyond_first_bin": "ECE beyond the first bin",
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="buildings")
    options = parser.parse_args()
    rows = []
    for name, found in measured(options.model, options.folder).items():
        quiet = f"{found['unchanged_without_a_polygon']} of {found['unchanged']}"
        cells = [found[key] for key in COLUMNS]
        rows.append((name, *cells, quiet if found["unchanged"] else ""))
    print(markdown(("folder", *COLUMNS.values(), "unchanged pairs without a polygon"), rows))


def measured(model: str, folder: Path) -> dict[str, dict[str, float]]:
    """Pooled scores on real pairs, by set and split.

    Args:
        model: name or weights.
        folder: of the sets.
    """
    found = {}
    for name, gsd_m in SETS.items():
        for split in SPLITS:
            data = labelled_folder(folder / name, split)
            found[f"{name} {split}"] = scores(data, scene_model(model, facts(data, gsd_m)), gsd_m)
    return found


def scores(data: PairFolder, model: Model, gsd_m: float) -> dict[str, float]:
    """Of the pairs of a split."""
    card = model.card()
    metrics = ChangeMetrics(card["threshold"])
    called, drawn = [], []
    for index in range(len(data)):
        sample = data[index]
        truth = sample["mask"][0]
        prob, threshold = predict_pair(model, sample["image"].numpy(), sample["valid"][0].numpy())
        metrics.update(torch.from_numpy(prob), truth)
        called.append(count(prob >= threshold, truth.numpy()))
        drawn.append(count(in_polygons(prob, card, gsd_m), truth.numpy()))
    unchanged = [i for i, counts in enumerate(called) if not counts.true[1]]
    probabilities = Probabilities.of(metrics)
    return scores_of(sum(called[1:], called[0])) | {
        "pairs": len(data),
        "f1_in_polygons": scores_of(sum(drawn[1:], drawn[0]))["f1"],
        "unchanged": len(unchanged),
        "unchanged_without_a_changed_pixel": sum(not called[i].predicted[1] for i in unchanged),
        "unchanged_without_a_polygon": sum(not drawn[i].predicted[1] for i in unchanged),
        "ece": round(probabilities.ece, 4),
        "ece_beyond_first_bin": round(beyond_first_bin(probabilities), 4),
    }


def beyond_first_bin(probabilities: Probabilities) -> float:
    """Expected calibration error of the pixels whose probability lies beyond the first bin."""
    prob, frequency, share = np.array(probabilities.reliability)[:, 1:]
    return float((np.abs(prob - frequency) * share).sum() / max(share.sum(), 1e-9))


def in_polygons(
    prob: NDArray[np.float32], card: Mapping[str, Any], gsd_m: float
) -> NDArray[np.bool_]:
    """Pixels of a pair within polygons that `rscd predict` would write by default."""
    regions, n = label(prob >= card["threshold"])
    large = np.bincount(regions.ravel(), minlength=n + 1)[1:] * gsd_m**2 >= card["min_area_m2"]
    sure = np.asarray(mean(prob, regions, np.arange(1, n + 1))) >= card["min_score"]
    kept: NDArray[np.bool_] = np.concatenate([[False], large & sure])[regions]
    return kept


def scores_of(counts: Any) -> dict[str, float]:
    """F1, IoU, precision and recall of change."""
    hit, called, true = counts.hit[1], counts.predicted[1], counts.true[1]
    return {
        "f1": round(2 * hit / (called + true), 4),
        "iou": round(hit / (called + true - hit), 4),
        "precision": round(hit / max(called, 1), 4),
        "recall": round(hit / true, 4),
    }


if __name__ == "__main__":
    main()
