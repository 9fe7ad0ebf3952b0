"""Metrics of probabilities of change, at many thresholds at once; counted by torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from rscd.base.types import IGNORE
from rscd.metrics.pixels import MONITOR, THRESHOLDS, Counts, ratio, summarise

CALIBRATION_BINS = 15


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
        return float(ratio(np.abs(changed - prob).sum(), pixels.sum()))

    def reliability(self) -> NDArray[np.float64]:
        """(3, bins): mean probability, share of changed pixels, share of all pixels, by bin."""
        pixels, changed, prob = self.bins.cpu().numpy()
        return np.stack([ratio(prob, pixels), ratio(changed, pixels), ratio(pixels, pixels.sum())])

    def compute(self) -> dict[str, Tensor]:
        """`summarise` at ``threshold``, ``ece``, ``best_threshold`` and ``best_`` + `MONITOR`."""
        best = self.best_threshold()
        found = summarise(self.counts(self.threshold)) | {
            "ece": self.calibration_error(),
            "best_threshold": best,
            f"best_{MONITOR}": summarise(self.counts(best))[MONITOR],
        }
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
