"""Metres and square metres on the ground, whatever the CRS.

Planar areas of a CRS are not areas on the ground: those of EPSG:3857 are wrong by a factor of 2
at 47 degrees. Areas are measured in an equal-area projection on the CRS's own ellipsoid,
tolerances with the local size of a pixel.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.sparse import csr_array

from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, ShapeHW
from rscd.geo.grid import apply, is_length, is_local
from rscd.geo.polygons import Polygons, chunks, pixel_counts, ragged, signed_ring_areas
from rscd.geo.regularize import Square, regularize

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

ASSUMED_GSD_M = 0.5
"""Pixel size assumed for images without one, where only shapes matter."""

_NODE_PX = 64  # spacing, in pixels, of the pixels whose area is computed
# least nodes per side, where there are as many pixels: pixels in degrees may be coarse
_FEWEST_NODES = 128
_MOST_NODES = 1024
_LONGEST_EDGE_PX = 16  # a straight pixel edge bends in another projection: split it into segments


@dataclass(frozen=True)
class Ground:
    """How the pixels of a grid lie on the ground.

    Attributes:
        crs: CRS of the grid (anything pyproj reads), or None for images without georeferencing.
        transform: Affine pixel -> CRS, of the upper-left pixel corner.
        gsd_m: Metres per pixel, used where there is no CRS; None if unknown.
    """

    crs: Any
    transform: Affine
    gsd_m: float | None = None

    def areas_m2(self, polygons: Polygons) -> Array:
        """Measure polygons in square metres.

        Args:
            polygons: (N,) polygons or multipolygons in pixel coordinates (col, row).

        Returns:
            (N,) areas on the ellipsoid, summed over all parts; NaN where neither a CRS nor
            ``gsd_m`` is known.
        """
        parts, owner = shapely.get_parts(polygons, return_index=True)
        lonlat = self._lonlat()
        if lonlat is None:
            of_parts = pixel_counts(parts).astype(np.float64) * self._planar_pixel_m2()
        else:
            of_parts = self._ellipsoidal_areas(parts, lonlat)
        areas: Array = np.bincount(owner, of_parts, len(polygons)).astype(float)
        return areas

    def pixel_areas_m2(self, shape_hw: ShapeHW) -> "PixelAreas":
        """Areas of the pixels of a grid of this many rows and columns."""
        height, width = shape_hw
        steps = [
            max(1, min(_NODE_PX, size // _FEWEST_NODES), size // _MOST_NODES) for size in shape_hw
        ]
        row, col = (
            np.append(np.arange(0, size - 1, step), size - 1)
            for size, step in zip(shape_hw, steps, strict=True)
        )
        lonlat = self._lonlat()
        if lonlat is None:
            nodes = np.full((len(row), len(col)), self._planar_pixel_m2())
            return PixelAreas(row, col, nodes)
        middle = apply(self.transform, np.array(width / 2), np.array(height / 2))
        project = lonlat.equal_area(*middle)
        # the corners of each pixel, one after the other
        corner_col = col[:, None] + np.array([0.0, 1.0, 1.0, 0.0])
        corner_row = row[:, None, None] + np.array([0.0, 0.0, 1.0, 1.0])
        corner_col, corner_row = np.broadcast_arrays(corner_col, corner_row)
        x, y = project(*lonlat.degrees(*apply(self.transform, corner_col, corner_row)))
        across = (x[..., 0] - x[..., 2]) * (y[..., 1] - y[..., 3])
        along = (x[..., 1] - x[..., 3]) * (y[..., 0] - y[..., 2])
        return PixelAreas(row, col, np.abs(across - along) / 2)

    def simplify(self, polygons: Polygons, tolerance_m: float) -> Polygons:
        """Drop vertices that deviate less than a tolerance (Douglas-Peucker, topology kept).

        Remaining vertices are still pixel corners. A polygon whose simplified form would be empty
        or invalid is unchanged.

        Args:
            polygons: (N,) polygons in pixel coordinates (col, row).
            tolerance_m: Metres on the ground; 0 changes nothing.

        Returns:
            (N,) valid polygons in pixel coordinates.

        Raises:
            UsageError: The tolerance is negative, or there is neither CRS nor ``gsd_m``.
        """
        if not tolerance_m >= 0:
            raise UsageError(f"expected a tolerance of 0 m or more, found {tolerance_m}; raise it")
        if tolerance_m == 0 or len(polygons) == 0:
            return polygons
        self.require_metres("simplify")
        kept = []
        for part in chunks(len(polygons)):
            jacobians = self._jacobians(polygons[part])
            plane = _linear(polygons[part], jacobians)
            simple = shapely.simplify(plane, tolerance_m, preserve_topology=True)
            simple = shapely.transform(_linear(simple, np.linalg.inv(jacobians)), np.rint)
            good = shapely.is_valid(simple) & (shapely.area(simple) > 0)
            if not good.all():
                logger.info("%d polygons are kept unsimplified", np.count_nonzero(~good))
            kept.append(np.where(good, simple, polygons[part]))
        return np.concatenate(kept)

    def regularize(self, polygons: Polygons) -> Polygons:
        """Give polygons right angles on the ground, or few vertices; see `rscd.geo.regularize`.

        Args:
            polygons: (N,) polygons in pixel coordinates (col, row). If the pixel size is unknown,
                half a metre is assumed.

        Returns:
            (N,) valid polygons in pixel coordinates, whose vertices are no longer pixel corners.
        """
        if len(polygons) == 0:
            return polygons
        jacobians = self._jacobians(polygons)
        jacobians = np.where(np.isnan(jacobians), np.eye(2) * ASSUMED_GSD_M, jacobians)
        # one plane for all polygons, so that neighbours stay adjacent
        plane = np.broadcast_to(np.median(jacobians, axis=0), jacobians.shape)
        side = math.sqrt(abs(np.linalg.det(plane[0])))
        squared = regularize(
            _linear(polygons, plane), Square(max(0.8, 1.5 * side), max(1.8, 3 * side))
        )
        kept: Polygons = _linear(squared, np.linalg.inv(plane))
        return kept

    def require_metres(self, what: str) -> None:
        """Raise UsageError if ``what`` needs metres and the pixel size is unknown."""
        if not self._has_metres and self.gsd_m is None:
            raise UsageError(
                f"expected images with a CRS to {what} in metres, found none; "
                "give the metres per pixel (--gsd)"
            )

    @property
    def _has_metres(self) -> bool:
        """Whether the CRS has a known length unit; a local plane may have pixels or none."""
        if self.crs is None:
            return False
        crs = pyproj.CRS.from_user_input(self.crs)
        return not is_local(crs) or is_length(crs)

    def _lonlat(self) -> "_LonLat | None":
        return None if self.crs is None else _LonLat.of(pyproj.CRS.from_user_input(self.crs))

    def _planar_jacobian(self) -> Array:
        """(2,2) metres per pixel where no ellipsoid is involved; NaN where unknown."""
        if not self._has_metres:
            return np.eye(2) * (np.nan if self.gsd_m is None else self.gsd_m)
        unit = pyproj.CRS.from_user_input(self.crs).axis_info[0].unit_conversion_factor
        t = self.transform
        return np.array([[t.a, t.b], [t.d, t.e]]) * unit

    def _planar_pixel_m2(self) -> float:
        (a, b), (d, e) = self._planar_jacobian()
        return float(abs(a * e - b * d))

    def _jacobians(self, polygons: Polygons) -> Array:
        """(N,2,2) metres east and north per pixel, at the middle of each polygon."""
        lonlat = self._lonlat()
        if lonlat is None:
            return np.broadcast_to(self._planar_jacobian(), (len(polygons), 2, 2))
        left, top, right, bottom = shapely.bounds(polygons).T[..., None]
        step = np.array([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.5, -0.5]])
        col, row = (left + right) / 2 + step[0], (top + bottom) / 2 + step[1]
        lon, lat = lonlat.degrees(*apply(self.transform, col, row))
        across = (lon[:, ::2] - lon[:, 1::2] + 180) % 360 - 180  # also over the date line
        along = lat[:, ::2] - lat[:, 1::2]
        east_m, north_m = lonlat.metres_per_degree(lat.mean(axis=1))
        return np.stack([across * east_m[:, None], along * north_m[:, None]], axis=1)

    def _ellipsoidal_areas(self, polygons: Polygons, lonlat: "_LonLat") -> Array:
        areas = np.zeros(len(polygons))
        if len(polygons) == 0:
            return areas
        left, top, right, bottom = shapely.total_bounds(polygons)
        middle = apply(self.transform, (left + right) / 2, (top + bottom) / 2)
        project = lonlat.equal_area(*middle)
        for part in chunks(len(polygons)):
            dense = shapely.segmentize(polygons[part], _LONGEST_EDGE_PX)
            vertices, ring_start, owner = ragged(dense)
            lon, lat = lonlat.degrees(*apply(self.transform, *vertices.T))
            plane = np.column_stack(project(lon, lat))
            ring_areas, _ = signed_ring_areas(plane, ring_start, owner)
            areas[part] = np.bincount(owner, weights=ring_areas)
        return areas


def ground_of(grid: GeoBox | None, gsd_m: float | None = None) -> Ground:
    """How the pixels of a grid lie on the ground; ``gsd_m`` where there is none, or no CRS."""
    if grid is None:
        return Ground(None, Affine.identity(), gsd_m)
    return Ground(None if grid.crs is None else pyproj.CRS(grid.crs), grid.affine, gsd_m)


@dataclass(frozen=True, eq=False)
class PixelAreas:
    """Areas of the pixels of a grid in square metres, on the ellipsoid.

    They are computed at some pixels and interpolated between them: pixel areas vary so slowly that
    the relative error is about 1e-5.
    """

    rows: NDArray[np.intp]
    """(R,) rows of the computed pixels, ascending."""
    cols: NDArray[np.intp]
    """(C,) columns, likewise."""
    nodes: Array
    """(R,C) square metres; NaN where unknown."""

    def total(self, mask: BoolArray, row: int = 0, col: int = 0) -> float:
        """Sum of the areas of selected pixels in a box.

        Apart from rounding, the sum over many boxes does not depend on how they are cut.

        Args:
            mask: (h,w).
            row: first row of the box in the grid.
            col: first column of the box in the grid.

        Returns:
            Square metres; NaN where unknown.
        """
        height, width = mask.shape
        # weight of each node column in each row, times its value in that row
        weight = mask.astype(np.float64) @ _shares(self.cols, col, width)
        value = _shares(self.rows, row, height) @ self.nodes
        return float((weight * value).sum())

    def at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Array:
        """Areas of single pixels.

        Args:
            rows: (N,) in the grid.
            cols: (N,) likewise.

        Returns:
            (N,) square metres; NaN where unknown.
        """
        areas: Array = np.zeros(len(rows))
        for row, of_row in zip(*_between(self.rows, rows), strict=True):
            for col, of_col in zip(*_between(self.cols, cols), strict=True):
                areas += of_row * of_col * self.nodes[row, col]
        return areas


def _shares(nodes: NDArray[np.intp], start: int, length: int) -> csr_array:
    """(length, N) linear interpolation weight of each node at positions from `start` on."""
    columns, values = _between(nodes, np.arange(start, start + length))
    ends = 2 * np.arange(length + 1)
    return csr_array((values.T.ravel(), columns.T.ravel(), ends), shape=(length, len(nodes)))


def _between(nodes: NDArray[np.intp], place: NDArray[np.int64]) -> tuple[NDArray[np.intp], Array]:
    """(2,P) the nodes before and after each position, and their linear interpolation weights."""
    if len(nodes) == 1:
        return np.zeros((2, len(place)), np.intp), np.tile([[1.0], [0.0]], len(place))
    right = np.clip(np.searchsorted(nodes, place, side="right"), 1, len(nodes) - 1)
    share = (place - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return np.stack([right - 1, right]), np.stack([1 - share, share])


@dataclass(frozen=True)
class _LonLat:
    """Geographic coordinates on a CRS's own datum, so that no datum shift distorts areas."""

    crs: pyproj.CRS
    geodetic: pyproj.CRS

    @classmethod
    def of(cls, crs: pyproj.CRS) -> "_LonLat | None":
        """None for an engineering CRS: a plane without an ellipsoid."""
        horizontal = crs.to_2d() if not crs.is_compound else crs.sub_crs_list[0]
        geodetic = horizontal.geodetic_crs
        return None if geodetic is None else cls(horizontal, geodetic.to_2d())

    def degrees(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Longitude and latitude in degrees of CRS coordinates of any shape."""
        if not self.crs.is_geographic:
            transformer = pyproj.Transformer.from_crs(self.crs, self.geodetic, always_xy=True)
            x, y = transformer.transform(x, y)
        # Grads exist: the geographic CRS behind EPSG:27572 uses them.
        unit = float(np.degrees(self.geodetic.axis_info[0].unit_conversion_factor))
        return np.asarray(x) * unit, np.asarray(y) * unit

    def equal_area(self, x: Array, y: Array) -> Callable[[Array, Array], tuple[Array, Array]]:
        """Equal-area projection of degrees to metres, true to scale about (x, y) of the CRS.

        Cylindrical for geographic grids, whose edges stay straight in it; else azimuthal
        (Lambert), which has no seam and serves the poles.
        """
        lon, lat = (float(value) for value in self.degrees(x, y))
        a, b = self._axes_m
        if self.crs.is_geographic:
            lat_ts = min(abs(lat), 80.0)
            return pyproj.Proj(proj="cea", lon_0=lon, lat_ts=lat_ts, over=True, a=a, b=b)
        return pyproj.Proj(proj="laea", lon_0=lon, lat_0=lat, a=a, b=b)

    def metres_per_degree(self, lat: Array) -> tuple[Array, Array]:
        """Metres per degree of longitude and of latitude (Snyder 1987, eqs. 4-20 and 4-18)."""
        a, b = self._axes_m
        e2 = 1 - (b / a) ** 2
        phi = np.radians(lat)
        prime_vertical = a / np.sqrt(1 - e2 * np.sin(phi) ** 2)
        meridian = prime_vertical * (1 - e2) / (1 - e2 * np.sin(phi) ** 2)
        return np.radians(prime_vertical * np.cos(phi)), np.radians(meridian)

    @property
    def _axes_m(self) -> tuple[float, float]:
        ellipsoid = self.geodetic.ellipsoid
        assert ellipsoid is not None
        return ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre


def _linear(polygons: Polygons, matrices: NDArray[np.floating[Any]]) -> Polygons:
    """Apply one (2,2) matrix to each polygon."""
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    moved = polygons.copy()
    shapely.set_coordinates(moved, np.einsum("nij,nj->ni", matrices[owner], points))
    return moved
