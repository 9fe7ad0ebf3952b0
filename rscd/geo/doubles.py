"""One polygon for one change, where pairs overlap that were compared one by one.

The rule. Polygons of two pairs are doubles if the time spans of their pairs have more than an
instant in common (a missing date is anywhere), their kinds do not contradict each other (one
appeared, the other vanished) and they share at least half of the smaller one. Polygons are taken
from the largest to the smallest, as an object that the edge of a scene cuts is smaller than the
whole one; each is kept unless it is the double of one that was kept. So no two that are kept are
doubles, each that is left out is the double of one that is kept, and none is changed or cut: ground
that two polygons share by less than half of either stays in both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from rscd.base.types import BoolArray
from rscd.geo.polygons import Polygons

LEAST_SHARED = 0.5
"""Fraction of the smaller polygon from which two are doubles."""

OPPOSITES = frozenset({"appeared", "vanished"})


@dataclass(frozen=True)
class Found:
    """Polygons of several pairs; (N,) each."""

    polygons: Polygons
    """In one CRS."""
    pair: NDArray[Any]
    """Which pair each is of."""
    kind: NDArray[Any]
    start: NDArray[np.datetime64]
    """Day of t1, NaT where it is not known."""
    end: NDArray[np.datetime64]
    """Of t2."""
    score: NDArray[np.float64]
    """Mean probability, or NaN; of two polygons of one size the higher is kept."""


def without_doubles(found: Found) -> BoolArray:
    """Which polygons to keep; see the rule above.

    The result does not depend on the order of polygons, but for those that are equal in all but
    their pair: of these the one of the least pair is kept.

    Args:
        found: polygons; those of one pair are never doubles of each other.

    Returns:
        (N,) whether to keep each.
    """
    areas = shapely.area(found.polygons)
    first, second = _doubles(found, areas)
    bounds = shapely.bounds(found.polygons)
    scores = np.nan_to_num(found.score, nan=-1.0)
    _, pair = np.unique(found.pair, return_inverse=True)
    # ties are broken by place and pair, not by position
    order = np.lexsort((pair, *bounds.T[::-1], -scores, -areas))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    swap = rank[first] > rank[second]
    first[swap], second[swap] = second[swap], first[swap]
    keep = np.ones(len(areas), bool)
    # from the largest that may go: what came before it is decided
    for better, worse in sorted(zip(first, second, strict=True), key=lambda e: rank[e[1]]):
        if keep[better]:
            keep[worse] = False
    return keep


def _doubles(found: Found, areas: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of all polygons that are doubles, two by two."""
    tree = shapely.STRtree(found.polygons)
    first, second = tree.query(found.polygons, predicate="intersects")
    apart = (first < second) & (found.pair[first] != found.pair[second])
    first, second = first[apart], second[apart]
    able = _one_time(found, first, second) & ~_opposed(found.kind[first], found.kind[second])
    first, second = first[able], second[able]
    whole = found.polygons.copy()
    near = np.union1d(first, second)
    whole[near] = shapely.make_valid(whole[near])  # GEOS intersects no others
    shared = shapely.area(shapely.intersection(whole[first], whole[second]))
    double = shared >= LEAST_SHARED * np.minimum(areas[first], areas[second])
    return first[double], second[double]


def _one_time(found: Found, first: NDArray[np.intp], second: NDArray[np.intp]) -> BoolArray:
    """Whether time spans have more than an instant in common, or are of the same day."""
    start, end = found.start, found.end
    apart: BoolArray = (end[first] <= start[second]) | (end[second] <= start[first])  # NaT: false
    same: BoolArray = (start[first] == start[second]) & (end[first] == end[second])
    return ~apart | same


def _opposed(first: NDArray[Any], second: NDArray[Any]) -> BoolArray:
    both = [np.isin(kinds, list(OPPOSITES)) for kinds in (first, second)]
    opposed: BoolArray = both[0] & both[1] & (first != second)
    return opposed
