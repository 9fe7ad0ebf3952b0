"""Object-level metrics: changed objects found, matched by polygon overlap."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from rscd.geo.polygons import Polygons, iou

Indices = NDArray[np.intp]

OBJECT_IOU = 0.5
"""Smallest intersection over union of a predicted and a true object that match."""


@dataclass(frozen=True)
class ObjectCounts:
    """Object counts of one or more images; counts can be added."""

    true: int = 0
    predicted: int = 0
    matched: int = 0
    """Pairs of one predicted and one true object."""

    def __add__(self, other: "ObjectCounts") -> "ObjectCounts":
        return ObjectCounts(
            self.true + other.true, self.predicted + other.predicted, self.matched + other.matched
        )


def overlaps(
    predicted: Polygons, true: Polygons, least_iou: float
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """All pairs of polygons that overlap enough.

    An R-tree finds the pairs whose boxes touch; pairs whose areas alone rule out the required IoU
    are not intersected.

    Args:
        predicted: (N,) valid polygons.
        true: (M,) valid polygons in the same plane.
        least_iou: smallest intersection over union, above 0.

    Returns:
        Indices into ``predicted`` and ``true`` and the IoU of each pair, all (K,).
    """
    near_p, near_t = shapely.STRtree(true).query(predicted)
    area_p, area_t = shapely.area(predicted)[near_p], shapely.area(true)[near_t]
    # IoU is at most the smaller area over the larger
    possible = np.minimum(area_p, area_t) >= least_iou * np.maximum(area_p, area_t)
    near_p, near_t = near_p[possible], near_t[possible]
    found = iou(predicted[near_p], true[near_t])
    enough = found >= least_iou
    return near_p[enough], near_t[enough], found[enough]


def match(predicted: Polygons, true: Polygons, least_iou: float = OBJECT_IOU) -> Indices:
    """Pair predicted with true objects, each at most once, in as many pairs as possible.

    Above one half the pairs are unique among objects that do not overlap each other. Otherwise a
    maximum matching (Hopcroft and Karp 1973) is taken, so that the number of pairs does not depend
    on the order of the objects, as it would with greedy matching.

    Args:
        predicted: (N,) valid polygons.
        true: (M,) valid polygons in the same plane.
        least_iou: smallest intersection over union of a pair, in (0,1].

    Returns:
        (K,2) indices into ``predicted`` and ``true``, sorted.

    Raises:
        ValueError: ``least_iou`` outside (0,1].
    """
    if not 0 < least_iou <= 1:
        raise ValueError(f"expected least_iou above 0 and up to 1, found {least_iou}")
    row, col, _ = overlaps(predicted, true, least_iou)
    if row.size == 0:
        return np.empty((0, 2), np.intp)
    edges = csr_array((np.ones(row.size), (row, col)), shape=(len(predicted), len(true)))
    partner: NDArray[Any] = maximum_bipartite_matching(edges, perm_type="column")
    found = np.flatnonzero(partner >= 0)
    return np.column_stack([found, partner[found]])


def summarise_objects(counts: ObjectCounts) -> dict[str, float]:
    """``object_precision``, ``object_recall`` and ``object_f1`` as fractions; 0/0 is 0.

    Args:
        counts: pooled over a split.
    """
    return {
        "object_precision": _ratio(counts.matched, counts.predicted),
        "object_recall": _ratio(counts.matched, counts.true),
        "object_f1": _ratio(2 * counts.matched, counts.predicted + counts.true),
    }


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0
