"""Outlines of few corners, as buildings have them, in place of pixel edges.

The edges of a simplified outline are made parallel or perpendicular to one main direction, parallel
neighbours are merged, and short edges are removed. Where the result departs too far from the
original, or would overlap a neighbour, the outline is simplified only (Douglas-Peucker); where that
departs too far as well, it stays unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from rscd.geo.polygons import Polygons, chunks, geometries, iou

Points = NDArray[np.float64]

LARGEST_AREA_ERROR = 0.1
"""Largest change of area, as a fraction of the original."""
LEAST_IOU = 0.85
"""Least IoU of right angles with the original: below it, the outline is not rectangular."""


@dataclass(frozen=True)
class Square:
    """How outlines are squared; lengths in the unit of the polygons.

    Attributes:
        tolerance: of the simplification, before edges are extracted or in place of right angles.
        shortest: shorter edges are removed; no corner lies further outside the original.
    """

    tolerance: float = 0.8
    shortest: float = 1.8


def regularize(polygons: Polygons, settings: Square = Square()) -> Polygons:
    """Give polygons right angles where they fit, and few vertices elsewhere.

    Args:
        polygons: (N,) valid polygons that do not overlap, in a plane where lengths are true.
        settings: see `Square`.

    Returns:
        (N,) valid polygons that do not overlap, whatever the order of the given ones. Each has an
        area within 10 % of the original. One with right angles has an IoU of `LEAST_IOU` or more
        with it.
    """
    if len(polygons) == 0:
        return polygons
    simple = shapely.simplify(polygons, settings.tolerance, preserve_topology=True)
    squared = geometries(
        _squared(polygon, outline, settings)
        for polygon, outline in zip(polygons, simple, strict=True)
    )
    kept = np.where(_is_close(simple, polygons), simple, polygons)
    best = np.where(shapely.is_missing(squared), kept, squared)
    return _apart(np.stack([best, kept, polygons]))


def _squared(
    polygon: shapely.Polygon, simple: shapely.Polygon, settings: Square
) -> shapely.Polygon | None:
    """The best right-angled outline that is close to the polygon; None if there is none."""
    best, best_iou = None, LEAST_IOU
    for angle in _directions(simple):
        found = _along(simple, angle, settings.shortest)
        if found is None or not _is_close(found, polygon):
            continue
        corners = shapely.points(shapely.get_coordinates(found))
        if shapely.distance(corners, polygon).max() > settings.shortest:
            continue
        own = float(iou(found, polygon))
        if own >= best_iou:
            best, best_iou = found, own
    return best


def _is_close(outlines: Polygons, polygons: Polygons) -> NDArray[np.bool_]:
    """Which outlines are valid and have about the areas of the polygons."""
    area = shapely.area(polygons)
    similar = np.abs(shapely.area(outlines) - area) <= LARGEST_AREA_ERROR * area
    close: NDArray[np.bool_] = shapely.is_valid(outlines) & similar
    return close


def _directions(polygon: shapely.Polygon) -> list[float]:
    """Two candidate directions in [0, pi/2) radians: by edge length, by minimum rectangle."""
    edges = np.diff(shapely.get_coordinates(polygon.exterior), axis=0)
    turns = np.arctan2(edges[:, 1], edges[:, 0]) * 4
    weight = np.hypot(edges[:, 0], edges[:, 1]) ** 2
    most = np.arctan2((weight * np.sin(turns)).sum(), (weight * np.cos(turns)).sum()) / 4
    box = shapely.get_coordinates(shapely.minimum_rotated_rectangle(polygon))
    side = box[1] - box[0]
    return [float(most), float(np.arctan2(side[1], side[0]))]


def _along(polygon: shapely.Polygon, angle: float, shortest: float) -> shapely.Polygon | None:
    """The polygon with all edges along or across a direction; None if impossible."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    rings = []
    for ring in (polygon.exterior, *polygon.interiors):
        found = _stairs(shapely.get_coordinates(ring)[:-1] @ turn.T, shortest)
        if found is not None:
            rings.append(found @ turn)
        elif ring is polygon.exterior or not rings:
            return None  # a hole this small is closed
    return shapely.Polygon(rings[0], rings[1:])


def _stairs(corners: Points, shortest: float) -> Points | None:
    """(K,2) corners of a ring whose edges alternate between x and y; None below four."""
    edges = np.roll(corners, -1, axis=0) - corners
    middle = corners + edges / 2
    length = np.hypot(edges[:, 0], edges[:, 1])
    across = np.abs(edges[:, 1]) > np.abs(edges[:, 0])
    # a run along x has one y, a run along y has one x
    runs = [
        _Run(bool(way), float(size), float(point[0] if way else point[1]))
        for way, size, point in zip(across, length, middle, strict=True)
    ]
    runs = _merged(runs)
    while len(runs) > 4:
        sizes = [abs(runs[i - 1].place - runs[(i + 1) % len(runs)].place) for i in range(len(runs))]
        least = int(np.argmin(sizes))
        if sizes[least] >= shortest:
            break
        runs = _merged([run for i, run in enumerate(runs) if i != least])
    if len(runs) < 4:
        return None
    pairs = [(runs[i - 1], run) for i, run in enumerate(runs)]
    return np.array([(a.place, b.place) if a.across else (b.place, a.place) for a, b in pairs])


@dataclass(frozen=True)
class _Run:
    """Edges on one line: ``place`` is its x if it runs along y, else its y."""

    across: bool
    length: float
    place: float


def _merged(runs: Sequence[_Run]) -> list[_Run]:
    """Merge parallel neighbours into one run at the length-weighted mean of their places."""
    start = next((i for i, run in enumerate(runs) if run.across != runs[i - 1].across), None)
    if start is None:
        return []
    joined: list[_Run] = []
    for run in (*runs[start:], *runs[:start]):
        if joined and joined[-1].across == run.across:
            last = joined[-1]
            length = last.length + run.length
            place = (last.place * last.length + run.place * run.length) / length
            joined[-1] = _Run(run.across, length, place)
        else:
            joined.append(run)
    return joined


def _apart(choices: Polygons) -> Polygons:
    """For each polygon the first choice with which none overlaps another.

    Args:
        choices: (K,N), best first; the last ones do not overlap.
    """
    last, columns = len(choices) - 1, np.arange(choices.shape[1])
    level = np.zeros(len(columns), dtype=np.intp)
    while True:
        chosen: Polygons = choices[level, columns]
        first, second = shapely.STRtree(chosen).query(chosen, predicate="intersects")
        pairs = first < second
        first, second = first[pairs], second[pairs]
        shared = np.zeros(len(first))
        for part in chunks(len(first)):
            shared[part] = shapely.area(
                shapely.intersection(chosen[first[part]], chosen[second[part]])
            )
        at_odds = np.unique(np.concatenate([first[shared > 0], second[shared > 0]]))
        at_odds = at_odds[level[at_odds] < last]
        if not len(at_odds):
            return chosen
        level[at_odds] += 1
