"""Metrics of a whole split, from counts pooled over all pixels of all images.

The metric that selects checkpoints, `MONITOR`, and its direction, `MODE`, are defined here only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from rscd.base.types import IGNORE

MONITOR = "iou_change"
MODE = "max"

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Candidate thresholds for validation: 0.05, 0.10, ..., 0.95."""

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Counts:
    """Pixel counts of both classes: index 0 no change, 1 change."""

    true: tuple[int, int]
    """Pixels whose true class it is, by class."""
    predicted: tuple[int, int]
    """Pixels predicted as the class, by class."""
    hit: tuple[int, int]
    """Pixels that are both, by class."""

    @classmethod
    def none(cls) -> "Counts":
        """No pixel."""
        return cls((0, 0), (0, 0), (0, 0))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            _add(self.true, other.true),
            _add(self.predicted, other.predicted),
            _add(self.hit, other.hit),
        )


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def count(prediction: NDArray[Any], mask: NDArray[Any], ignore: int = IGNORE) -> Counts:
    """Count the pixels of one or more images.

    Args:
        prediction: any shape, 0 or 1.
        mask: same shape; pixels equal to `ignore` are ignored. Values other than 0 and 1 belong to
            neither class: they count as predicted only (KD-MSI notes, section 6).
        ignore: value of pixels that do not count.
    """
    used = mask != ignore
    truth, guess = mask[used], prediction[used]

    def per_class(which: NDArray[Any]) -> tuple[int, int]:
        return int(np.count_nonzero(which[0])), int(np.count_nonzero(which[1]))

    true = np.stack([truth == 0, truth == 1])
    predicted = np.stack([guess == 0, guess == 1])
    return Counts(per_class(true), per_class(predicted), per_class(true & predicted))


def summarise(counts: Counts, eps: float = 0.0) -> dict[str, float]:
    """All pixel metrics as fractions.

    Args:
        counts: pooled over a split.
        eps: added to the denominators of IoU, precision, recall and F1, as the KD-MSI evaluation
            does with 1e-10. With 0, a quotient 0/0 is 0.

    Returns:
        ``iou_change``, ``iou_no_change``, ``miou`` (their mean), ``precision``, ``recall``,
        ``f1_change``, ``f1_macro`` (mean of both classes), ``oa`` (overall accuracy), ``fp_union``
        and ``fn_union`` (false positives and negatives over the union of class 1: with
        ``iou_change`` they sum to 1), ``kappa`` (Cohen).
    """
    true, predicted, hit = (np.array(c, float) for c in (counts.true, counts.predicted, counts.hit))
    union = true + predicted - hit + eps
    iou = _ratio(hit, union)
    precision, recall = _ratio(hit, predicted + eps), _ratio(hit, true + eps)
    f1 = _ratio(2 * precision * recall, precision + recall + eps)
    total = true.sum()
    oa = float(_ratio(hit.sum(), total))
    chance = float(_ratio((true * predicted).sum(), total**2))
    return {
        "iou_change": float(iou[1]),
        "iou_no_change": float(iou[0]),
        "miou": float(iou.mean()),
        "precision": float(precision[1]),
        "recall": float(recall[1]),
        "f1_change": float(f1[1]),
        "f1_macro": float(f1.mean()),
        "oa": oa,
        "fp_union": float(_ratio(predicted[1] - hit[1], union[1])),
        "fn_union": float(_ratio(true[1] - hit[1], union[1])),
        "kappa": float(_ratio(oa - chance, 1 - chance)),
    }


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, float), np.asarray(denominator, float)
    )
    quotient = np.zeros(numerator.shape)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


class ChangeMetrics(Metric):
    """Metrics of change probabilities over a split, at all `THRESHOLDS` and one chosen threshold.

    All state is sums, so several processes give the same numbers as one.
    """

    full_state_update = False
    hits: Tensor
    true: Tensor
    bins: Tensor

    def __init__(self, threshold: float = 0.5, thresholds: Sequence[float] = THRESHOLDS) -> None:
        """Count at ``thresholds`` and at ``threshold``; a pixel is change at or above."""
        super().__init__()
        self.threshold = threshold
        self.edges = sorted({*thresholds, threshold})
        levels = len(self.edges) + 1
        zeros = torch.zeros
        # pixels by class and by number of thresholds that their probability reaches
        self.add_state("hits", zeros(2, levels, dtype=torch.int64), dist_reduce_fx="sum")
        # pixels, changed pixels and summed probability by bin of probability
        self.add_state(
            "bins", zeros(3, CALIBRATION_BINS, dtype=torch.float64), dist_reduce_fx="sum"
        )

    def update(self, change_prob: Tensor, mask: Tensor) -> None:
        """Add a batch.

        Args:
            change_prob: any shape, float in [0,1]; NaN and infinity count as neither class, so the
                caller must refuse them.
            mask: same shape, 0 or 1; 255 is ignored.
        """
        used = (mask != IGNORE) & torch.isfinite(change_prob)
        prob, truth = change_prob[used].float(), mask[used].long()
        edges = torch.tensor(self.edges, dtype=torch.float32, device=prob.device)
        reached = torch.bucketize(prob, edges, right=True)
        levels = self.hits.shape[1]
        self.hits += torch.bincount(truth * levels + reached, minlength=2 * levels).view(2, levels)
        place = (prob * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)
        for row, weight in enumerate((torch.ones_like(prob), truth, prob)):
            self.bins[row] += torch.bincount(
                place, weights=weight.double(), minlength=CALIBRATION_BINS
            )

    def counts(self, threshold: float) -> Counts:
        """Pixel counts at one of the thresholds."""
        below = 1 + self.edges.index(threshold)
        no_change, change = self.hits.cpu().numpy()
        true = int(no_change.sum()), int(change.sum())
        hit = int(no_change[:below].sum()), int(change[below:].sum())
        false_change, false_no = true[0] - hit[0], true[1] - hit[1]
        return Counts(true, (hit[0] + false_no, hit[1] + false_change), hit)

    def best_threshold(self) -> float:
        """The threshold with the highest `MONITOR`; among ties, the one nearest to 0.5."""
        return max(
            self.edges, key=lambda edge: (summarise(self.counts(edge))[MONITOR], -abs(edge - 0.5))
        )

    def calibration_error(self) -> float:
        """Expected calibration error: mean gap between probability and frequency of change."""
        pixels, changed, prob = self.bins.cpu().numpy()
        return float(_ratio(np.abs(changed - prob).sum(), pixels.sum()))

    def reliability(self) -> NDArray[np.float64]:
        """(3, bins): mean probability, share of changed pixels, share of all pixels, by bin."""
        pixels, changed, prob = self.bins.cpu().numpy()
        return np.stack(
            [_ratio(prob, pixels), _ratio(changed, pixels), _ratio(pixels, pixels.sum())]
        )

    def compute(self) -> dict[str, Tensor]:
        """`summarise` at ``threshold``, ``ece``, ``best_threshold`` and ``best_`` + `MONITOR`."""
        best = self.best_threshold()
        found = summarise(self.counts(self.threshold)) | {
            "ece": self.calibration_error(),
            "best_threshold": best,
            f"best_{MONITOR}": summarise(self.counts(best))[MONITOR],
        }
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
