"""Pictures without georeferencing: where their pixels lie in a plane.

QGIS puts the upper left corner of such a picture at (0, 0) and counts rows downwards: x is the
column, y is minus the row. So do all results for such pictures, which then lie on them.
"""

import logging
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rscd.base.errors import DataError

PICTURE = Affine(1, 0, 0, 0, -1, 0)
"""From (column, row) to (x, y)."""

SLACK = 0.05
"""Fraction of the height by which polygons may extend beyond the upper edge of a picture."""

log = logging.getLogger(__name__)


def is_picture(grid: GeoBox) -> bool:
    """Whether a grid has only pixel coordinates and starts at the corner of its picture."""
    return grid.crs is None and grid.affine.almost_equals(PICTURE)


def has_pixel_coordinates(grid: GeoBox) -> bool:
    """Whether a grid uses the pixel coordinates of a picture, all or part of it."""
    return grid.crs is None and np.allclose([*grid.affine[:2], *grid.affine[3:5]], [1, 0, 0, -1])


def on_picture(geometries: NDArray[Any], grid: GeoBox, what: str) -> NDArray[Any]:
    """Polygons in picture coordinates, whichever way their rows count.

    Polygons with y from 0 upwards, where no picture lies, have rows that count downwards: labelling
    tools write these, as this package did before version 0.2.

    Args:
        geometries: (N,) without CRS.
        grid: of the picture; with any other transform the polygons are returned unchanged.
        what: their source, for messages.

    Returns:
        (N,) in x = column, y = -row.

    Raises:
        DataError: if they lie on both sides of the upper edge.
    """
    if not has_pixel_coordinates(grid) or not len(geometries):
        return geometries
    _, low, _, high = shapely.total_bounds(geometries)
    if not np.isfinite((low, high)).all():
        return geometries
    below, above = max(0.0, -low), max(0.0, high)
    slack = SLACK * (grid.shape[0] - grid.affine.f)
    if above <= min(slack, below) or above == 0:
        return geometries
    if below <= min(slack, above):
        log.warning(
            "%s: y from %g to %g is taken as rows that count downwards; in QGIS the picture lies "
            "at y = -row",
            what,
            low,
            high,
        )
        flipped: NDArray[Any] = shapely.transform(geometries, lambda points: points * [1, -1])
        return flipped
    raise DataError(
        f"expected pixels of a picture in {what}, with y = -row as in QGIS (or y = row), found y "
        f"from {low:g} to {high:g}; correct its coordinates"
    )


def world_file(transform: Affine) -> str:
    """The text of a world file: scale and rotation, and the centre of the upper left pixel."""
    a, b, c, d, e, f = transform[:6]
    values = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    return "".join(f"{value!r}\n" for value in map(float, values))
