"""Thresholds of change maps, chosen by validation or without any pixel label."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rscd.base.errors import DataError
from rscd.base.types import ByteArray, FloatArray
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.metrics.pixels import MONITOR, Counts, count, summarise

GRID = tuple(round(0.05 * k, 2) for k in range(18))
"""Thresholds tried for pseudo masks: 0, 0.05, ..., 0.85 (KD-MSI notes, section 4.4)."""
EPS = 1e-10
"""Constant added to denominators in the published evaluation."""
SAMPLE = 4_000_000
"""Most values used for Otsu's threshold."""

VALIDATION_CRITERION = MONITOR
PAPER_CRITERION = "miou"
"""The paper selects pseudo masks by the mean IoU of both classes, on the training set."""


@dataclass(frozen=True)
class Found:
    """A threshold and how it was chosen."""

    threshold: float
    """A pixel is change if its value is above it, in float32."""
    rule: str
    criterion: str | None = None
    """Metric of `rscd.metrics.pixels.summarise` that it maximises, if masks were used."""
    score: float | None = None
    """The metric at the threshold."""


def search(
    maps: Iterable[tuple[FloatArray, ByteArray]],
    rule: str,
    criterion: str = VALIDATION_CRITERION,
    thresholds: Sequence[float] = GRID,
) -> Found:
    """The first threshold with the highest metric; counts are pooled over all maps.

    Args:
        maps: (H,W) maps, empty if the image-level label is no change, and their masks (0, 1; 255 is
            ignored).
        rule: name of this search in the result.
        criterion: see `Found`.
        thresholds: to try.

    Raises:
        DataError: if there is no map.
    """
    pooled: list[Counts | None] = [None] * len(thresholds)
    for change_prob, mask in maps:
        for i, threshold in enumerate(thresholds):
            found = count(change_prob > np.float32(threshold), mask)
            before = pooled[i]
            pooled[i] = found if before is None else before + found
    scores = [summarise(counts, EPS)[criterion] for counts in pooled if counts is not None]
    if not scores:
        raise DataError("expected maps to choose a threshold by, found none; check the split")
    best = int(np.argmax(scores))
    return Found(thresholds[best], rule, criterion, scores[best])


def otsu(maps: Iterable[FloatArray], n_pixels: int) -> Found:
    """Otsu's threshold over maps of pairs with change; no mask is needed.

    Args:
        maps: of any shape.
        n_pixels: total number of pixels; if it is large, every k-th is used.

    Raises:
        DataError: if there is no map.
    """
    step = max(1, -(-n_pixels // SAMPLE))
    values = [change_prob.ravel()[::step] for change_prob in maps if change_prob.size]
    if not values:
        raise DataError(
            "expected pairs with change for Otsu's threshold, found none; check the labels"
        )
    return Found(float(otsu_threshold(np.concatenate(values))), "otsu")
