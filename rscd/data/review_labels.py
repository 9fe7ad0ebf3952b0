"""What a reviewed layer teaches: masks around decided polygons, and yes or no by place.

An accepted polygon is change. A rejected one is no change. Close around either nothing else
changed, as the reviewer saw it there and left the outline as it is. All other ground, and unsure
polygons, are 255: nobody said anything about them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import DataError
from rscd.base.types import IGNORE, BoolArray, Bounds, ByteArray
from rscd.data.answers import Answer
from rscd.data.scene_labels import LoadedPolygons, bounds_of, on_rows
from rscd.geo.grid import check_same_world
from rscd.geo.reviewed import ACCEPTED, REJECTED, read_reviewed
from rscd.geo.vectors import carried, exist, polygonal

AROUND_PX = 8
"""Pixels around a decided polygon that the decision is about as well."""

CONTEXT_PX = 96
"""Pixels around a decided polygon from which patches are drawn."""


@dataclass(frozen=True, eq=False)
class ReviewLabels:
    """A reviewed layer; mask and answers of the scene that it was made from."""

    path: str
    around_px: float = AROUND_PX

    def within(self, bounds: Bounds, crs: CRS | None) -> "LoadedReview":
        """Read the decisions and bring the polygons into the CRS of a scene.

        Raises:
            DataError: the file cannot be read, or nothing is accepted or rejected.
            GridMismatchError: only one side has a CRS.
        """
        table = read_reviewed(self.path)
        source = None if table.crs is None else CRS(table.crs)
        if crs is None and self.path.lower().endswith("json"):
            source = None  # GDAL ascribes degrees to every GeoJSON, also to one in pixels
        check_same_world("reviewed polygons", self.path, source, crs)
        moved = carried(polygonal(table.geometry.to_numpy()), source, crs)
        moved = on_rows(moved, bounds, crs, self.path)
        here = exist(moved) & (shapely.area(moved) > 0)
        status = table["status"].to_numpy(object)[here]
        found = LoadedReview(self.path, moved[here], status, self.around_px)
        if not found.decided.any():
            raise DataError(
                f"expected accepted or rejected polygons in {self.path}, found none; review some "
                "first (rscd report, or column status)"
            )
        return found

    def read(self, grid: GeoBox) -> ByteArray:
        """See `LoadedReview.read`; reads the file for one grid."""
        crs = None if grid.crs is None else CRS(grid.crs)
        return self.within(bounds_of(grid), crs).read(grid)


@dataclass(frozen=True, eq=False)
class LoadedReview:
    """Reviewed polygons in memory, in the CRS of a scene."""

    path: str
    geometries: NDArray[Any]
    status: NDArray[Any]
    around_px: float

    def within(self, bounds: Bounds, crs: CRS | None) -> "LoadedReview":
        """The layer itself: its polygons have been read and transformed."""
        return self

    @property
    def decided(self) -> BoolArray:
        """(N,) which are accepted or rejected."""
        found: BoolArray = np.isin(self.status, (ACCEPTED, REJECTED))
        return found

    def read(self, grid: GeoBox) -> ByteArray:
        """(H,W) uint8: 1 in accepted polygons, 0 in and close around decided ones, else 255."""
        around = self.around_px * _pixel(grid)
        seen = self._burn(shapely.buffer(self.geometries[self.decided], around), grid)
        other = self._burn(self.geometries[~self.decided], grid)
        found = np.where(seen & ~other, np.uint8(0), np.uint8(IGNORE))
        found[self._burn(self.geometries[self.status == REJECTED], grid)] = 0
        found[self._burn(self.geometries[self.status == ACCEPTED], grid)] = 1
        return found

    def places(self, grid: GeoBox, within: Any) -> list[Any]:
        """Rectangles around the decided polygons of a scene, from which patches are drawn.

        Args:
            grid: of the scene.
            within: the part of the scene that is used.
        """
        boxes = self._boxes(self.geometries[self.decided], CONTEXT_PX * _pixel(grid))
        met = shapely.intersects(self.geometries[self.decided], within)
        return list(shapely.intersection(boxes[met], shapely.box(*bounds_of(grid))))

    def answers(self, grid: GeoBox, within: Any) -> list[Answer]:
        """Yes around accepted polygons, no around rejected ones.

        The place of a "no" ends where another polygon begins that is not rejected.

        Args:
            grid: of the scene.
            within: the part of the scene that is used; polygons with their centre in it count.
        """
        whole = shapely.box(*bounds_of(grid))
        around = self.around_px * _pixel(grid)
        others = LoadedPolygons(self.path, self.geometries[self.status != REJECTED])
        found = []
        for geometry, status in zip(self.geometries, self.status, strict=True):
            if status not in (ACCEPTED, REJECTED) or not within.contains(geometry.centroid):
                continue
            place = self._boxes(np.array([geometry]), around)[0].intersection(whole)
            if status == REJECTED:
                near = others.geometries[others.tree.query(place, predicate="intersects")]
                place = place.difference(shapely.union_all(near)) if len(near) else place
            if place.area > 0:
                found.append(Answer(place, status == ACCEPTED))
        return found

    @staticmethod
    def _boxes(geometries: NDArray[Any], margin: float) -> NDArray[Any]:
        bounds = shapely.bounds(geometries) + margin * np.array([-1, -1, 1, 1])
        return np.asarray(shapely.box(*bounds.T), object)

    @staticmethod
    def _burn(geometries: Iterable[Any], grid: GeoBox) -> BoolArray:
        found: BoolArray = LoadedPolygons("", np.asarray(geometries, object)).read(grid) == 1
        return found


def _pixel(grid: GeoBox) -> float:
    """Side of a pixel in units of the CRS."""
    return float(np.sqrt(abs(grid.affine.determinant)))
