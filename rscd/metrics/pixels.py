"""Metrics of a whole split, from counts pooled over all pixels of all images.

The metric that selects checkpoints, `MONITOR`, and its direction, `MODE`, are defined here only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import IGNORE

MONITOR = "iou_change"
MODE = "max"

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Candidate thresholds for validation: 0.05, 0.10, ..., 0.95."""


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
    iou = ratio(hit, union)
    precision, recall = ratio(hit, predicted + eps), ratio(hit, true + eps)
    f1 = ratio(2 * precision * recall, precision + recall + eps)
    total = true.sum()
    oa = float(ratio(hit.sum(), total))
    chance = float(ratio((true * predicted).sum(), total**2))
    return {
        "iou_change": float(iou[1]),
        "iou_no_change": float(iou[0]),
        "miou": float(iou.mean()),
        "precision": float(precision[1]),
        "recall": float(recall[1]),
        "f1_change": float(f1[1]),
        "f1_macro": float(f1.mean()),
        "oa": oa,
        "fp_union": float(ratio(predicted[1] - hit[1], union[1])),
        "fn_union": float(ratio(true[1] - hit[1], union[1])),
        "kappa": float(ratio(oa - chance, 1 - chance)),
    }


def ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Quotients, 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, float), np.asarray(denominator, float)
    )
    quotient = np.zeros(numerator.shape)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
