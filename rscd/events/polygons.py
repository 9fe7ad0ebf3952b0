"""The instance level on polygons: which footprints appeared, vanished or stayed.

The IoU of two polygons equals that of their pixels exactly when both are traced along pixel edges
on one grid; it is invariant under affine maps. Nothing here depends on a CRS: both dates are in one
plane.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from rscd.base.types import BoolArray
from rscd.events.pixels import DELTA, change_of
from rscd.geo.vectors import polygonal
from rscd.segmenters.overlaps import Array, Indices, Overlaps

Polygons = NDArray[np.object_]
"""(N,) valid shapely Polygon or MultiPolygon; each is one instance, whatever its parts."""

ROUNDING_SHARE = 1e-9
"""Shared area below this fraction of the smaller polygon is rounding, as along shared walls."""

BOX_SHARE = 1 - 1e-12
"""A polygon that fills its bounding box up to rounding is treated as that box."""

_CHUNK = 20_000  # polygons of t1 queried, and pairs intersected, at a time


@dataclass(frozen=True, eq=False)
class PolygonEvents:
    """Fate of the polygons of both dates."""

    overlaps: Overlaps
    iou_sum1: Array
    """(M,) IoU summed over all polygons of t2."""
    iou_sum2: Array
    """(N,) IoU summed over all polygons of t1."""
    vanished: BoolArray
    """(M,) polygons of t1 that are change events."""
    appeared: BoolArray
    """(N,) polygons of t2 that are change events."""


def polygon_events(
    first: Polygons,
    second: Polygons,
    *,
    delta: float = DELTA,
    min_overlap: float | Array = 0.0,
    threads: int | None = None,
) -> PolygonEvents:
    """Whole polygons that appeared or vanished (DiffMatch, Eq. 8 to 10).

    Args:
        first: (M,) valid polygons of t1; they may overlap each other.
        second: (N,) valid polygons of t2 in the same plane.
        delta: largest IoU sum of an event.
        min_overlap: see `polygon_overlaps`.
        threads: see `polygon_overlaps`.

    Raises:
        UsageError: if delta is negative.
    """
    overlaps = polygon_overlaps(first, second, min_overlap=min_overlap, threads=threads)
    sum1, sum2 = overlaps.sums()
    return PolygonEvents(overlaps, sum1, sum2, change_of(sum1, delta), change_of(sum2, delta))


def polygon_overlaps(
    first: Polygons,
    second: Polygons,
    *,
    min_overlap: float | Array = 0.0,
    threads: int | None = None,
) -> Overlaps:
    """IoU of all pairs of polygons that share area, in time close to linear in their number.

    An R-tree of t2 finds the pairs whose boxes share area; only these are intersected, except pairs
    of boxes or identical polygons, which need no intersection. Memory grows with the number of
    pairs: intersections are computed in chunks.

    Args:
        first: (M,) valid polygons of t1.
        second: (N,) valid polygons of t2 in the same plane.
        min_overlap: shared area up to which two polygons do not overlap, in square units of the
            plane: one value, or (M,) one for each polygon of t1.
        threads: number of parallel threads; default one per core, at most 4.

    Returns:
        Pairs ordered by their polygon of t1.
    """
    area1, area2 = shapely.area(first), shapely.area(second)
    least = np.broadcast_to(np.asarray(min_overlap, float), len(first))
    tree = shapely.STRtree(second)
    boxes = _Boxes.of(first, area1), _Boxes.of(second, area2)
    work = partial(_pairs_of, first, second, tree, boxes, (area1, area2), least)
    parts = list(_mapped(work, _chunks(len(first)), threads or min(4, os.cpu_count() or 1)))
    nothing = np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    near1, near2, common = (np.concatenate(column) for column in zip(nothing, *parts, strict=True))
    return Overlaps.of(near1, near2, common, area1, area2)


def repaired(geometries: NDArray[np.object_]) -> tuple[Polygons, BoolArray]:
    """Make polygons valid: bow-ties, rings that cross or touch themselves.

    Args:
        geometries: (N,) shapely geometries or None.

    Returns:
        (N,) the polygonal parts of each, in two dimensions, an empty polygon if there are none; and
        (N,) which geometries were invalid.
    """
    bad = ~shapely.is_valid(geometries) & ~shapely.is_missing(geometries)
    return polygonal(geometries), bad


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Bounding boxes of polygons, and which of them their polygon fills."""

    bounds: Array
    """(N,4) left, bottom, right, top."""
    filled: BoolArray
    """(N,)."""

    @classmethod
    def of(cls, polygons: Polygons, area: Array) -> "_Boxes":
        bounds = shapely.bounds(polygons)
        left, bottom, right, top = bounds.T
        return cls(bounds, area >= BOX_SHARE * (right - left) * (top - bottom))


def _pairs_of(
    first: Polygons,
    second: Polygons,
    tree: shapely.STRtree,
    boxes: tuple[_Boxes, _Boxes],
    areas: tuple[Array, Array],
    least: Array,
    part: slice,
) -> tuple[Indices, Indices, Array]:
    """Pairs of one chunk of t1 that share more than rounding, and their shared areas."""
    near1, near2 = tree.query(first[part])
    near1 = near1 + part.start
    common_of = partial(_common, first, second, boxes, areas)
    found = [common_of(near1[some], near2[some]) for some in _chunks(len(near1))]
    common = np.concatenate([np.empty(0), *found])
    smaller = np.minimum(areas[0][near1], areas[1][near2])
    meet = (common > ROUNDING_SHARE * smaller) & (common > least[near1])
    return near1[meet], near2[meet], common[meet]


def _common(
    first: Polygons,
    second: Polygons,
    boxes: tuple[_Boxes, _Boxes],
    areas: tuple[Array, Array],
    near1: Indices,
    near2: Indices,
) -> Array:
    """(K,) shared areas, by the cheapest exact method."""
    bounds1, bounds2 = boxes[0].bounds[near1], boxes[1].bounds[near2]
    sides = np.minimum(bounds1[:, 2:], bounds2[:, 2:]) - np.maximum(bounds1[:, :2], bounds2[:, :2])
    common: Array = sides.prod(axis=1)  # area shared by the boxes: an upper bound for the polygons
    rest = (common > 0) & ~(boxes[0].filled[near1] & boxes[1].filled[near2])
    same = np.zeros(len(near1), bool)
    same[rest] = shapely.equals_exact(first[near1[rest]], second[near2[rest]])
    common[same] = areas[0][near1[same]]
    rest &= ~same
    common[rest] = shapely.area(shapely.intersection(first[near1[rest]], second[near2[rest]]))
    return common


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


def _mapped(
    work: Callable[[slice], Any], parts: Iterator[slice], threads: int
) -> Iterator[tuple[Indices, Indices, Array]]:
    """Results in order; GEOS releases the GIL, so threads run in parallel."""
    if threads == 1:
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, parts)
