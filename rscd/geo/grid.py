"""Pixel grids: what `odc.geo.geobox.GeoBox` lacks for pairs of scenes.

The grid type is GeoBox itself: immutable, hashable, shape + affine + CRS. ``crs=None`` means that
no coordinate reference system is known; the unit is then the pixel, or that of a world file (see
`rscd.geo.pictures`).
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from rscd.base.border import border, reason
from rscd.base.errors import GridMismatchError, UsageError
from rscd.base.types import Bounds, Float64Array, ShapeHW
from rscd.geo.tiles import Box

SAME_GRID_PX = 0.01
"""Two grids are the same if no corner differs by more than this many pixels."""

LOCAL_CRS = (
    'ENGCRS["local",EDATUM["unknown"],CS[Cartesian,2],'
    'AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
)
"""Stands for "one and the same unknown plane" where GDAL must be given a CRS."""

SAME_SIZE = 0.01
"""Two pixel sizes are the same if they differ by no more than this fraction."""

UNITS_OF_NO_LENGTH = frozenset({"unknown", "pixel", "unity", "degree", "radian", "grad"})
"""Directions of the axes of a local CRS."""

EDGE_POINTS = 33
"""Points per side when a footprint is transformed to another CRS: straight edges bend."""


def apply(affine: Affine, x: Any, y: Any) -> tuple[Float64Array, Float64Array]:
    """Carry arrays of points (x, y) through an affine transform."""
    a, b, c, d, e, f = affine[:6]
    return a * x + b * y + c, d * x + e * y + f


def compose(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer` (written out: affine 2 and 3 differ in their operators)."""
    a, b, c, d, e, f = outer[:6]
    g, h, i, j, k, m = inner[:6]
    return Affine(
        a * g + b * j,
        a * h + b * k,
        a * i + b * m + c,
        d * g + e * j,
        d * h + e * k,
        d * i + e * m + f,
    )


def whole_pixel_offset(grid: GeoBox, other: GeoBox) -> tuple[int, int] | None:
    """(columns, rows) to add to a pixel of `grid` to get its position in `other`, if exact.

    Returns:
        None if the CRSs differ, or if the pixels of the two grids do not coincide to within
        `SAME_GRID_PX` over the whole of `grid`.
    """
    if grid.crs != other.crs:
        return None
    to_other = compose(~other.affine, grid.affine)
    dx, dy = round(to_other.c), round(to_other.f)
    height, width = grid.shape
    cols, rows = np.array([0.0, width, 0.0, width]), np.array([0.0, 0.0, height, height])
    x, y = apply(to_other, cols, rows)
    if np.hypot(x - cols - dx, y - rows - dy).max() > SAME_GRID_PX:
        return None
    return dx, dy


def footprint_px(source: GeoBox, onto: GeoBox) -> Bounds:
    """Bounding box of `source` in (fractional) pixels of `onto`: (x0, y0, x1, y1).

    Raises:
        GridMismatchError: if no point of the footprint can be expressed in the other CRS.
    """
    height, width = source.shape
    side = np.linspace(0, 1, EDGE_POINTS)
    u = np.concatenate([side, np.ones_like(side), side, np.zeros_like(side)]) * width
    v = np.concatenate([np.zeros_like(side), side, np.ones_like(side), side]) * height
    x, y = apply(source.affine, u, v)
    if source.crs != onto.crs:
        x, y = _reproject(x, y, source.crs, onto.crs)
    inside = np.isfinite(x) & np.isfinite(y)
    if not inside.any():
        raise GridMismatchError(
            f"expected two scenes of one place, found a footprint in {crs_name(source.crs)} that "
            f"does not exist in {crs_name(onto.crs)}; check the CRS of both files",
            fault="no-overlap",
        )
    x, y = x[inside], y[inside]
    if source.crs != onto.crs and CRS(onto.crs).is_geographic:
        x = _in_one_piece(x, onto)
    cols, rows = apply(~onto.affine, x, y)
    return float(cols.min()), float(rows.min()), float(cols.max()), float(rows.max())


def _in_one_piece(lon: Float64Array, onto: GeoBox) -> Float64Array:
    """Longitudes along an outline without the jump at +-180, in the turn nearest to a grid."""
    degrees = np.degrees(CRS(onto.crs).axis_info[0].unit_conversion_factor)  # of a unit
    turn = 360 / degrees
    whole = np.unwrap(lon, period=turn)
    height, width = onto.shape
    centre, _ = apply(onto.affine, np.array([width / 2]), np.array([height / 2]))
    away: Float64Array = turn * np.round((centre - (whole.min() + whole.max()) / 2) / turn)
    return whole + away


def _reproject(x: Any, y: Any, src: Any, dst: Any) -> tuple[Any, Any]:
    with border(lambda error: _not_carried(CRS(src), CRS(dst), error)):
        return transformer_between(CRS(src), CRS(dst)).transform(x, y)


def transformer_between(source: CRS, target: CRS) -> Transformer:
    """Transformer from one CRS to another, x or longitude first.

    Raises:
        GridMismatchError: if there is none, as to or from local planes.
    """
    if is_local(source) or is_local(target):
        # formats describe one plane in different ways
        known = (
            (crs.name, is_local(crs), *(axis.unit_conversion_factor for axis in crs.axis_info))
            for crs in (source, target)
        )
        if len(set(known)) == 1:
            return Transformer.from_pipeline("+proj=noop")
        local, other = (source, target) if is_local(source) else (target, source)
        raise GridMismatchError(
            f"expected coordinates in one CRS, found {crs_name(local)}, a local plane that no "
            f"rule ties to {crs_name(other)}; if its coordinates are those of "
            f"{crs_name(other)}, say so: gdal_edit.py (ogr2ogr for polygons) -a_srs "
            f"{crs_name(other)} FILE",
            fault="foreign-crs",
        )
    with border(lambda error: _not_carried(source, target, error)):
        return Transformer.from_crs(source, target, always_xy=True)


def _not_carried(source: CRS, target: CRS, error: Exception) -> GridMismatchError:
    advice = "reproject one file first (gdalwarp -t_srs)"
    given = next((name for name in ("PROJ_DATA", "PROJ_LIB") if os.environ.get(name)), None)
    if given is not None:
        advice = f"unset {given}={os.environ[given]}, the database of another installation of PROJ"
    return GridMismatchError(
        f"expected coordinates of {crs_name(source)} to be convertible to {crs_name(target)}, "
        f"found: {reason(error)}; {advice}",
        fault="foreign-crs",
    )


def is_local(crs: CRS) -> bool:
    """Whether a CRS is a local plane, such as that of a mine, a building site or a drawing."""
    return bool(crs.is_engineering or (crs.is_bound and crs.geodetic_crs is None))


def is_length(crs: CRS) -> bool:
    """Whether the unit of a CRS is a length with a known factor to metres."""
    axes = crs.axis_info
    return bool(axes) and str(axes[0].unit_name).lower() not in UNITS_OF_NO_LENGTH


def pixels_within(shape: ShapeHW, box_px: Bounds) -> Box | None:
    """The pixels of a grid whose centres lie within a box in pixel coordinates.

    Args:
        shape: (height, width) of the grid.
        box_px: left, top, right, bottom; fractions count, and infinity.

    Returns:
        None when no pixel centre lies within the box, or nobody knows where it is (NaN).
    """
    height, width = shape
    tolerance = SAME_GRID_PX
    if np.isnan(box_px).any():  # it lies where this grid's CRS ends
        return None
    # one pixel beyond the grid is as good as infinity
    left, top, right, bottom = np.clip(box_px, -1, [width + 1, height + 1] * 2).tolist()
    x0 = max(0, math.ceil(left - 0.5 - tolerance))
    y0 = max(0, math.ceil(top - 0.5 - tolerance))
    x1 = min(width, math.floor(right - 0.5 + tolerance) + 1)
    y1 = min(height, math.floor(bottom - 0.5 + tolerance) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    return Box(y0, x0, y1 - y0, x1 - x0)


def cut(grid: GeoBox, box: Box) -> GeoBox:
    """The subgrid of a grid covered by a box of pixels."""
    return grid[box.slices]


def intersection(anchor: GeoBox, other: GeoBox) -> GeoBox:
    """The part of `anchor` that the footprint of `other` covers.

    Raises:
        GridMismatchError: if the two do not overlap; the message gives both bounds in one CRS.
    """
    box = footprint_px(other, anchor)
    part = pixels_within(shape_hw(anchor), box)
    if part is None:
        raise GridMismatchError(
            "expected two scenes that overlap, found none: "
            f"t1 covers {bounds_text(_bounds_of(anchor, (0, 0, anchor.shape[1], anchor.shape[0])))}"
            f" and t2 {bounds_text(_bounds_of(anchor, box))} "
            f"(left, bottom, right, top in {crs_name(anchor.crs)}); check the files and their CRS",
            fault="no-overlap",
        )
    return cut(anchor, part)


def _bounds_of(grid: GeoBox, box_px: Bounds) -> Bounds:
    x0, y0, x1, y1 = box_px
    xs, ys = apply(grid.affine, np.array([x0, x1, x0, x1]), np.array([y0, y0, y1, y1]))
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def bounds_text(bounds: Bounds) -> str:
    """Bounds in brackets with up to seven significant digits."""
    return "(" + ", ".join(f"{value:.10g}" for value in bounds) + ")"


def crs_name(crs: Any) -> str:
    """``EPSG:32633``, a projection's own name, or ``no CRS``."""
    if crs is None:
        return "no CRS"
    pyproj_crs = CRS(crs)
    authority = pyproj_crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(pyproj_crs.name)


def check_same_world(what: str, path: str | Path, crs: Any, grid_crs: Any) -> None:
    """A layer and the grid both know where on Earth they are, or neither does.

    Raises:
        GridMismatchError: when only one does.
    """
    if (crs is None) != (grid_crs is None):
        with_crs = crs_name(grid_crs if crs is None else crs)
        raise GridMismatchError(
            f"expected a CRS in {what} and its counterpart or in none, found {crs_name(crs)} in "
            f"{path} and {crs_name(grid_crs)} in the other; assign it (gdal_edit.py or ogr2ogr "
            f"with -a_srs {with_crs})"
        )


def grid_text(grid: GeoBox) -> str:
    """One line describing a grid: size, pixel size and CRS."""
    height, width = grid.shape
    linear = grid.affine
    pixel = math.sqrt(abs(linear.determinant))
    unit = "px" if grid.crs is None else CRS(grid.crs).axis_info[0].unit_name
    unit = {"metre": "m", "degree": "deg", "US survey foot": "ft"}.get(unit, unit)
    return f"{width} x {height} px of {pixel:.6g} {unit}, {crs_name(grid.crs)}"


def is_georeferenced(grid: GeoBox) -> bool:
    """Whether the grid has a CRS; without one, only pixel coordinates are known."""
    return grid.crs is not None


def pixel_size_m(grid: GeoBox | None, stated: float | None = None) -> float | None:
    """Side of a pixel on the ground in metres.

    Args:
        grid: measured at its centre; None where there is none.
        stated: by the user, for images without georeferencing.

    Returns:
        None if neither is known.

    Raises:
        UsageError: for a size stated where the grid has its own, or not above 0.
    """
    if stated is not None and not stated > 0:
        raise UsageError(f"expected a pixel size above 0 metres, found {stated}; correct --gsd")
    own = None if grid is None else _own_pixel_size_m(grid)
    if grid is None or own is None:
        return stated
    agrees = stated is not None and abs(stated - own) <= SAME_SIZE * own
    if stated is not None and not (agrees and is_local(CRS(grid.crs))):
        raise UsageError(
            f"expected --gsd only with images without georeferencing, found pixels of {own:.3g} m "
            "in the file; drop it"
        )
    return own


def _own_pixel_size_m(grid: GeoBox) -> float | None:
    if grid.crs is None:
        return None
    height, width = grid.shape
    cols = width / 2 + np.array([-0.5, 0.5, 0.0, 0.0])
    rows = height / 2 + np.array([0.0, 0.0, -0.5, 0.5])
    x, y = apply(grid.affine, cols, rows)
    crs = CRS(grid.crs)
    geod = crs.get_geod()
    if crs.geodetic_crs is None or geod is None:
        unit = crs.axis_info[0].unit_conversion_factor if is_length(crs) else math.nan
        side = math.sqrt(abs(grid.affine.determinant)) * unit
        return side if math.isfinite(side) and side > 0 else None
    lon, lat = _reproject(x, y, crs, crs.geodetic_crs)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    _, _, length = geod.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    return float(math.sqrt(length[0] * length[1]))


def shape_hw(grid: GeoBox) -> ShapeHW:
    """(height, width) as plain integers."""
    height, width = grid.shape
    return int(height), int(width)


def middle(grid: GeoBox) -> tuple[float, float]:
    """Coordinates of the centre of a grid."""
    height, width = shape_hw(grid)
    x, y = apply(grid.affine, np.array([width / 2]), np.array([height / 2]))
    return float(x[0]), float(y[0])


def gdal_crs(grid: GeoBox) -> rasterio.CRS:
    """The CRS of a grid for GDAL's warper, which needs one even for a plane without CRS."""
    return rasterio.CRS.from_wkt(LOCAL_CRS) if grid.crs is None else stored_crs(grid)


def stored_crs(grid: GeoBox) -> rasterio.CRS | None:
    """The CRS of a grid as it is written into rasters."""
    return None if grid.crs is None else rasterio.CRS.from_wkt(CRS(grid.crs).to_wkt())
