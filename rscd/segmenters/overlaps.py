"""IoU of all pairs of objects of two dates, stored sparsely: most pairs do not overlap.

Sources: DiffMatch (arXiv 2405.04788), Eq. 8 to 10: T is the IoU of every pair, S1 and S2 are its
row and column sums.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of objects that share area, and their IoU."""

    first: Indices
    """(K,) index of the object of t1."""
    second: Indices
    """(K,) index of the object of t2."""
    iou: Array
    """(K,) intersection over union, above 0."""
    counts: tuple[int, int]
    """Numbers M and N of objects of t1 and t2."""

    @classmethod
    def of(
        cls,
        first: Indices,
        second: Indices,
        common: NDArray[Any],
        area1: NDArray[Any],
        area2: NDArray[Any],
    ) -> "Overlaps":
        """From areas in any unit.

        Args:
            first: (K,) index of the object of t1.
            second: (K,) index of the object of t2.
            common: (K,) area of the intersection; pairs without one are dropped.
            area1: (M,) areas of the objects of t1.
            area2: (N,) areas of the objects of t2.
        """
        meet = common > 0
        first, second, common = first[meet], second[meet], common[meet]
        iou = common / (area1[first] + area2[second] - common)
        return cls(first, second, np.asarray(iou, float), (len(area1), len(area2)))

    def sums(self) -> tuple[Array, Array]:
        """(M,) and (N,): IoU of each object summed over all of the other date (Eq. 9, 10)."""
        m, n = self.counts
        return (
            np.bincount(self.first, self.iou, m).astype(float),
            np.bincount(self.second, self.iou, n).astype(float),
        )

    def dense(self) -> Array:
        """(M,N) matrix of IoU, 0 where objects do not overlap (Eq. 8)."""
        matrix = np.zeros(self.counts)
        matrix[self.first, self.second] = self.iou
        return matrix


def box_pairs(boxes1: Array, boxes2: Array) -> tuple[Indices, Indices]:
    """Indices (K,), (K,) of all pairs of boxes (left, bottom, right, top) that overlap or touch."""
    tree = shapely.STRtree(shapely.box(*boxes2.T))
    first, second = tree.query(shapely.box(*boxes1.T))
    return first, second
