"""Geometry types unknown to GEOS, read from WKB as plain two-dimensional geometries.

Building models come as triangulated networks (TIN) and polyhedral surfaces, cadastres with arcs.
They are reduced to their outline in two dimensions: faces are merged (walls have no area seen from
above), arcs become chords.
"""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from rscd.base.types import BoolArray

Points = NDArray[np.float64]
"""(N,2) coordinates."""

MOST_KNOWN = int(shapely.GeometryType.GEOMETRYCOLLECTION)
"""Type codes above this are curves, which some GEOS releases read but none can measure."""

ARC_STEP = math.radians(2)
"""Angle of a chord, which deviates from its arc by 0.02 % of the radius."""

(
    POINT, LINE, POLYGON, MULTI_POINT, MULTI_LINE, MULTI_POLYGON, COLLECTION,
    ARCS, COMPOUND, CURVE_POLYGON, MULTI_CURVE, MULTI_SURFACE, _, _, POLYHEDRON, TIN, TRIANGLE,
) = range(1, 18)  # fmt: skip


def from_wkb(texts: NDArray[np.object_]) -> NDArray[np.object_]:
    """Geometries from WKB; types that GEOS lacks become plain ones.

    Args:
        texts: (N,) bytes or None.

    Returns:
        (N,) shapely geometries or None.

    Raises:
        ValueError: for truncated WKB or an unknown type.
    """
    found = np.empty(len(texts), object)
    for index, text in enumerate(texts):
        found[index] = None if text is None else _Reader(bytes(text)).geometry()
    return found


def unknown(geometries: NDArray[np.object_]) -> BoolArray:
    """(N,) which geometries contain curves, at any depth."""
    kinds = shapely.get_type_id(geometries)
    found: BoolArray = kinds > MOST_KNOWN
    for index in np.flatnonzero(kinds == MOST_KNOWN):
        found[index] = bool(unknown(shapely.get_parts(geometries[[index]])).any())
    return found


class _Reader:
    """One geometry's bytes, read from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def geometry(self) -> Any:
        """The geometry that begins here."""
        kind, order, dimensions = self._head()
        if kind in (POINT, LINE, ARCS, COMPOUND):
            return self._simple(kind, order, dimensions)
        if kind in (POLYGON, TRIANGLE):
            rings = [self._points(order, dimensions) for _ in range(self._count(order))]
            return _polygon(rings)
        if kind == CURVE_POLYGON:
            curves = [self.geometry() for _ in range(self._count(order))]
            return _polygon([shapely.get_coordinates(curve) for curve in curves])
        parts = [self.geometry() for _ in range(self._count(order))]
        return _together(kind, parts)

    def _head(self) -> tuple[int, str, int]:
        order = "<" if self._take("B")[0] else ">"
        (code,) = self._take(f"{order}I")
        has_srid = bool(code & 0x2000_0000)  # EWKB's flags beside ISO's thousands
        flags = bool(code & 0x8000_0000) + bool(code & 0x4000_0000)
        code &= 0x0FFF_FFFF
        if has_srid:
            self._take(f"{order}I")
        if code >= 4000 or not 1 <= code % 1000 <= TRIANGLE:
            raise ValueError(f"unknown WKB type {code}")
        return code % 1000, order, 2 + flags + (0, 1, 1, 2)[code // 1000]

    def _simple(self, kind: int, order: str, dimensions: int) -> Any:
        if kind == POINT:
            return shapely.Point(self._take(f"{order}{dimensions}d")[:2])
        if kind == COMPOUND:
            parts = [self.geometry() for _ in range(self._count(order))]
            return shapely.LineString(np.concatenate([shapely.get_coordinates(p) for p in parts]))
        points = self._points(order, dimensions)
        return shapely.LineString(_chords(points) if kind == ARCS else points)

    def _points(self, order: str, dimensions: int) -> Points:
        count = self._count(order)
        values = np.frombuffer(self.data, f"{order}f8", count * dimensions, self.at)
        self.at += 8 * count * dimensions
        return values.reshape(count, dimensions)[:, :2].astype(float)

    def _count(self, order: str) -> int:
        return int(self._take(f"{order}I")[0])

    def _take(self, form: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from(form, self.data, self.at)
        except struct.error as error:
            raise ValueError(f"WKB ends too early: {error}") from error
        self.at += struct.calcsize(form)
        return values


def _polygon(rings: list[Points]) -> Any:
    # shapely would close it with an edge that is not in the data
    if any(len(ring) and (ring[0] != ring[-1]).any() for ring in rings):
        raise ValueError("a ring that does not close")
    return shapely.Polygon(rings[0], rings[1:]) if rings else shapely.Polygon()


def _together(kind: int, parts: list[Any]) -> Any:
    made: dict[int, Callable[[list[Any]], Any]] = {
        MULTI_POINT: shapely.MultiPoint,
        MULTI_LINE: shapely.MultiLineString,
        MULTI_CURVE: shapely.MultiLineString,
        COLLECTION: shapely.GeometryCollection,
    }
    # seen from above, walls are degenerate and roof and floor overlap
    if kind in (POLYHEDRON, TIN):
        return shapely.union_all([shapely.make_valid(part) for part in parts if part.area > 0])
    return made.get(kind, shapely.MultiPolygon)(parts)


def _chords(points: Points) -> Points:
    """Points along arcs, each through three points of which the last begins the next."""
    found = [points[:1]]
    for index in range(0, len(points) - 2, 2):
        found.append(_arc(*points[index : index + 3]))
    return np.concatenate(found)


def _arc(start: Points, middle: Points, end: Points) -> Points:
    """(K,2) points after the start up to the end of an arc; a full circle where both are one."""
    if np.array_equal(start, end):
        centre, turn = (start + middle) / 2, 2 * math.pi
    else:
        (ax, ay), (bx, by) = middle - start, end - start
        twice = 2 * (ax * by - ay * bx)
        if twice == 0:  # a straight line
            return np.array([middle, end])
        a2, b2 = ax * ax + ay * ay, bx * bx + by * by
        centre = start + np.array([by * a2 - ay * b2, ax * b2 - bx * a2]) / twice
        before, after = (math.atan2(*(p - centre)[::-1]) for p in (start, end))
        turn = (after - before) % (2 * math.pi)
        turn = turn if twice > 0 else turn - 2 * math.pi
    radius = math.dist(start, centre)
    begin = math.atan2(*(start - centre)[::-1])
    steps = max(2, math.ceil(abs(turn) / ARC_STEP))
    angles = begin + turn * np.arange(1, steps + 1) / steps
    along: Points = centre + radius * np.column_stack([np.cos(angles), np.sin(angles)])
    along[-1] = end
    return along
