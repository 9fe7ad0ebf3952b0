"""Areas of interest: a rectangle or polygons in any CRS, brought onto a scene's grid."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from rscd.base.errors import DataError, GridMismatchError, UsageError
from rscd.geo.grid import crs_name
from rscd.geo.pictures import on_picture
from rscd.geo.vectors import carried, carried_bounds, polygonal, read_layer


@dataclass(frozen=True)
class Area:
    """An area of interest as the user gave it."""

    geometry: BaseGeometry
    crs: CRS | None
    """None: that of the scene."""
    words: tuple[str, ...] = field(default=(), compare=False)
    """Of the command line that gives it."""

    @classmethod
    def from_text(cls, bbox: str, crs: str | None = None) -> "Area":
        """``"xmin,ymin,xmax,ymax"`` and the CRS of these numbers.

        Raises:
            UsageError: for other numbers than four in this order, or an unknown CRS.
        """
        try:
            xmin, ymin, xmax, ymax = (float(part) for part in bbox.split(","))
        except ValueError:
            raise UsageError(f"expected --bbox xmin,ymin,xmax,ymax, found {bbox!r}") from None
        if not (-math.inf < xmin < xmax < math.inf and -math.inf < ymin < ymax < math.inf):
            raise UsageError(
                f"expected --bbox with xmin below xmax and ymin below ymax, found {bbox!r}"
            )
        try:
            parsed = None if crs is None else CRS.from_user_input(crs)
        except CRSError:
            raise UsageError(f"expected --bbox-crs such as EPSG:4326, found {crs!r}") from None
        words = (f"--bbox={bbox}", *(() if crs is None else ("--bbox-crs", crs)))
        return cls(shapely.box(xmin, ymin, xmax, ymax), parsed, words)

    @classmethod
    def from_file(cls, path: str | Path) -> "Area":
        """All polygons of a vector file.

        Raises:
            DataError: if it cannot be read or contains no polygon.
        """
        frame = read_layer(path, "polygons in --aoi", columns=[])
        geometry = shapely.union_all(polygonal(frame.geometry.to_numpy()))
        if geometry.area == 0:
            raise DataError(f"expected polygons in --aoi {path}, found none; check the file")
        crs = None if frame.crs is None else CRS(frame.crs)
        return cls(geometry, crs, ("--aoi", str(path)))

    def on(self, grid: GeoBox) -> tuple[BaseGeometry, bool]:
        """The area in the CRS of a grid.

        Returns:
            The geometry, and whether it is just the rectangle of its bounds there.

        Raises:
            GridMismatchError: if only one of area and grid has a CRS, or it cannot be transformed.
            DataError: for pixel coordinates of a picture on both sides of its upper edge.
        """
        target = None if grid.crs is None else CRS(grid.crs)
        if self.crs is None and target is None:
            what = "the area of interest (--bbox, --aoi)"
            geometry = on_picture(np.asarray([self.geometry], dtype=object), grid, what)[0]
        elif self.crs is None or self.crs == target:
            geometry = self.geometry
        elif target is None:
            raise GridMismatchError(
                f"expected an area in pixels for images without a CRS, found {crs_name(self.crs)};"
                " drop --bbox-crs and give pixel coordinates"
            )
        else:
            near = np.asarray([_near(self.geometry, self.crs, grid)], dtype=object)
            geometry = carried(near, self.crs, target)[0]
            if not np.isfinite(shapely.get_coordinates(geometry)).all():
                raise GridMismatchError(
                    f"expected an area that exists in {crs_name(target)}, found one in "
                    f"{crs_name(self.crs)} beyond that projection; give its coordinates in the CRS "
                    "of the scene"
                )
            geometry = shapely.make_valid(geometry)
        return geometry, bool(geometry.equals(shapely.box(*geometry.bounds)))


def _near(geometry: BaseGeometry, crs: CRS, grid: GeoBox) -> BaseGeometry:
    """The part of an area near a grid; what is far away may have no coordinates in its CRS."""
    left, bottom, right, top = grid.boundingbox.bbox
    bounds = carried_bounds((left, bottom, right, top), CRS(grid.crs), crs)
    if bounds is None:
        return geometry
    near = shapely.intersection(geometry, shapely.box(*bounds))
    return geometry if near.is_empty else near
