"""Change masks on disk to polygons: the only vectoriser.

Polygons live in pixel coordinates (col, row) until `to_world`: their vertices are then whole
numbers, so counting pixels, averaging a raster under them and turning them into the scene's CRS
are exact whatever its transform.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from rscd.base.border import border, reason
from rscd.base.errors import SceneError
from rscd.geo.grid import apply
from rscd.geo.settings import own_files, unplaced

Polygons = NDArray[np.object_]
"""(N,) shapely polygons."""

CHANGE = 1
"""The mask value whose regions become polygons."""

_CHUNK_VERTICES = 200_000  # vertices converted to shapely polygons at a time
_CHUNK_POLYGONS = 50_000  # polygons split into rings at a time
_STRIP_BYTES = 4_000_000  # rows held at a time, as float64
_CACHE_BYTES = 16_000_000  # GDAL's block cache beyond the blocks of one row


def trace(mask_path: str | Path) -> Polygons:
    """Outline the 4-connected regions of value 1 of a mask raster, without reading it whole.

    GDAL reads the band by lines, so memory follows the polygons, not the pixels. The polygons are
    those of ``rasterio.features.shapes`` on the whole array.

    Args:
        mask_path: uint8 raster, band 1: 0 no change, 1 change, 255 nodata. Nodata is never inside
            a polygon: holes are cut around it.

    Returns:
        (N,) valid polygons in pixel coordinates (col, row), ordered by their first pixel, row by
        row from the upper left; N = 0 where nothing changed.

    Raises:
        SceneError: The raster cannot be read.
    """
    with _reading(mask_path) as dataset:
        changed = sum(np.count_nonzero(rows == CHANGE) for _, rows in _strips(dataset))
        band = rasterio.band(dataset, 1)
        # The band masks itself: zeros are skipped before they become a region with thousands of
        # holes. Nodata regions are traced too and dropped here.
        regions = rasterio.features.shapes(band, mask=band, connectivity=4)
        outlines = (region["coordinates"] for region, value in regions if value == CHANGE)
        parts = list(_assemble(outlines, ~dataset.transform))
    polygons: Polygons = np.concatenate([np.empty(0, dtype=object), *parts])
    # rasterio ignores errors of GDALPolygonize: without this check a truncated file has no change.
    if (got := pixel_counts(polygons).sum()) != changed:
        raise _unreadable(mask_path, f"{got} of {changed} changed pixels")
    return polygons[_first_pixel_order(polygons)]


def to_world(polygons: Polygons, transform: Affine) -> Polygons:
    """Turn polygons from pixel into CRS coordinates, also through rotated or flipped transforms.

    Args:
        polygons: (N,) polygons in pixel coordinates (col, row).
        transform: Affine pixel -> CRS, of the upper-left pixel corner.

    Returns:
        (N,) polygons with right-hand rings: exterior counter-clockwise, holes clockwise, fixed
        first vertex.
    """
    # GEOS normalises to clockwise exteriors
    ordered: Polygons = shapely.reverse(shapely.normalize(moved(polygons, transform)))
    return ordered


def geometries(found: Iterable[Any]) -> Polygons:
    """An array of geometries, one element each, however many parts they have."""
    listed = list(found)
    made: Polygons = np.empty(len(listed), object)
    made[:] = listed
    return made


def moved(polygons: Polygons, transform: Affine) -> Polygons:
    """Carry polygons through an affine transform."""

    def carried(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(apply(transform, *points.T))

    there: Polygons = shapely.transform(polygons, carried)
    return there


def iou(first: Polygons, second: Polygons) -> NDArray[np.float64]:
    """Intersection over union, 0 where neither polygon has any area.

    Args:
        first: valid polygons of any shape.
        second: likewise in the same plane; the shapes broadcast, so that (M,1) and (1,N) give all
            pairs.
    """
    common = shapely.area(shapely.intersection(first, second))
    union = shapely.area(first) + shapely.area(second) - common
    shares: NDArray[np.float64] = np.divide(
        common, union, out=np.zeros_like(common), where=union > 0
    )
    return shares


def pixel_counts(polygons: Polygons) -> NDArray[np.int64]:
    """Count the pixels of each polygon.

    Args:
        polygons: (N,) polygons in pixel coordinates, as `trace` returns them.

    Returns:
        (N,) numbers of pixels.
    """
    counts: NDArray[np.int64] = np.rint(shapely.area(polygons)).astype(np.int64)
    return counts


def mean_under(polygons: Polygons, raster_path: str | Path) -> NDArray[np.float64]:
    """Average a raster over exactly the pixels of each polygon, in bounded memory.

    Nothing is rasterised. By the discrete form of Green's theorem the sum over a region is a sum
    over its vertical pixel edges: with ``P[row, col]`` the sum of the row left of ``col``,
    edges going down add ``P`` and edges going up subtract it (exterior oriented so that
    its area is positive). Rows are read in strips, the row sums are float64.

    Args:
        polygons: (N,) polygons in pixel coordinates as `trace` returns them.
        raster_path: Raster on the same grid, band 1, for example the change probability;
            NaN counts as 0.

    Returns:
        (N,) means.

    Raises:
        SceneError: The raster cannot be read or is smaller than the polygons reach.
        ValueError: A polygon has edges that do not follow the pixels.
    """
    edges = _VerticalEdges.of(polygons)
    sums = np.zeros(len(polygons))
    with _reading(raster_path) as dataset:
        width, height = edges.reach_wh
        if width > dataset.width or height > dataset.height:
            raise SceneError(
                f"{dataset.name}: expected at least {height} x {width} pixels, the extent of the "
                f"polygons, found {dataset.height} x {dataset.width}; use the raster of the same "
                "scene"
            )
        for first_row, values in _strips(dataset):
            row_sums = np.zeros((len(values), dataset.width + 1))
            clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
            np.cumsum(clean, axis=1, dtype=np.float64, out=row_sums[:, 1:])
            sums += edges.integrate(first_row, row_sums, len(polygons))
    means: NDArray[np.float64] = sums / shapely.area(polygons)
    return means


def chunks(count: int) -> Iterator[slice]:
    """Slices over ``count`` polygons that limit the memory used for each."""
    for start in range(0, count, _CHUNK_POLYGONS):
        yield slice(start, min(start + _CHUNK_POLYGONS, count))


def ragged(polygons: Polygons) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Split polygons into vertices and rings.

    Args:
        polygons: (N,) polygons, N > 0.

    Returns:
        The vertices (V,2), the first vertex of each ring (R+1,) and the polygon each ring belongs
        to (R,); a polygon's first ring is its exterior.
    """
    _, vertices, (ring_start, polygon_start) = shapely.to_ragged_array(polygons)
    owner = np.repeat(np.arange(len(polygons)), np.diff(polygon_start))
    return vertices, np.asarray(ring_start, dtype=np.int64), owner


def signed_ring_areas(
    vertices: NDArray[np.float64], ring_start: NDArray[np.int64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Signed area of each ring: exterior positive, holes negative.

    Args:
        vertices: (V,2) vertices of closed rings.
        ring_start: (R+1,) first vertex of each ring.
        owner: (R,) polygon of each ring; the first ring of a polygon is its exterior.

    Returns:
        (R,) areas, and (R,) +1 where the ring runs in the direction of that sign in
        (x, y) coordinates, else -1.
    """
    ring = np.repeat(np.arange(len(owner)), np.diff(ring_start))
    # relative to the first vertex, against cancellation
    x, y = (vertices - vertices[ring_start[:-1]][ring]).T
    cross = np.zeros(len(x))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[ring_start[1:] - 1] = 0.0  # from one ring's last vertex to the next ring
    area = np.bincount(ring, weights=cross, minlength=len(owner)) / 2
    exterior = np.r_[True, owner[1:] != owner[:-1]]
    wanted = np.where(exterior, 1.0, -1.0)
    return np.abs(area) * wanted, np.where(area * wanted >= 0, 1, -1).astype(np.int8)


@dataclass(frozen=True)
class _VerticalEdges:
    """Vertical edges of all polygons: E runs of unit edges at ``col``, rows [top, bottom)."""

    polygon: NDArray[np.int32]
    col: NDArray[np.int32]
    top: NDArray[np.int32]
    bottom: NDArray[np.int32]
    sign: NDArray[np.int8]
    reach_wh: tuple[int, int]

    @classmethod
    def of(cls, polygons: Polygons) -> "_VerticalEdges":
        parts = [_vertical_edges(polygons[part], part.start) for part in chunks(len(polygons))]
        columns = zip(*parts, strict=True) if parts else [[np.empty(0, np.int32)]] * 5
        polygon, col, top, bottom, sign = (np.concatenate(list(column)) for column in columns)
        reach = (int(col.max(initial=0)), int(bottom.max(initial=0)))
        return cls(polygon, col, top, bottom, sign, reach)

    def integrate(
        self, first_row: int, row_sums: NDArray[np.float64], count: int
    ) -> NDArray[np.float64]:
        """Sum of each of ``count`` polygons over the rows of ``row_sums`` (h, W+1)."""
        last_row = first_row + len(row_sums)
        here = np.flatnonzero((self.top < last_row) & (self.bottom > first_row))
        top = np.maximum(self.top[here], first_row)
        length = np.minimum(self.bottom[here], last_row) - top
        edge = np.repeat(here, length)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length - top, length)
        value = row_sums[row - first_row, self.col[edge]] * self.sign[edge]
        sums: NDArray[np.float64] = np.zeros(count)
        sums += np.bincount(self.polygon[edge], weights=value, minlength=count)
        return sums


def _vertical_edges(polygons: Polygons, first_polygon: int) -> tuple[NDArray[np.integer[Any]], ...]:
    vertices, ring_start, owner = ragged(polygons)
    _, direction = signed_ring_areas(vertices, ring_start, owner)
    ring = np.repeat(np.arange(len(owner)), np.diff(ring_start))
    points = np.rint(vertices).astype(np.int32)
    step = np.diff(points, axis=0)
    step[ring_start[1:-1] - 1] = 0  # from one ring's last vertex to the next ring
    if np.any((step[:, 0] != 0) & (step[:, 1] != 0)) or np.any(points != vertices):
        message = "expected polygons along pixel edges as `trace` returns them"
        raise ValueError(f"{message}, found others; average before simplifying")
    edge = np.flatnonzero(step[:, 1])
    rows = np.sort(np.column_stack([points[edge, 1], points[edge + 1, 1]]), axis=1)
    sign = (np.sign(step[edge, 1]) * direction[ring[edge]]).astype(np.int8)
    polygon = (first_polygon + owner[ring[edge]]).astype(np.int32)
    return polygon, points[edge, 0], rows[:, 0], rows[:, 1], sign


def _strips(dataset: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and (h, W) values of band 1, a bounded number of rows at a time."""
    rows = max(1, _STRIP_BYTES // (8 * (dataset.width + 1)))
    for first_row in range(0, dataset.height, rows):
        height = min(rows, dataset.height - first_row)
        yield first_row, dataset.read(1, window=Window(0, first_row, dataset.width, height))


def _assemble(outlines: Iterable[Any], crs_to_pixel: Affine) -> Iterator[Polygons]:
    """GeoJSON coordinates as shapely polygons, thousands per call instead of one by one."""
    vertices: list[NDArray[np.float64]] = []
    ring_sizes: list[int] = []
    polygon_sizes: list[int] = []
    held = 0
    for rings in outlines:
        polygon_sizes.append(len(rings))
        for ring in rings:
            ring_sizes.append(len(ring))
            vertices.append(np.fromiter(chain.from_iterable(ring), float, 2 * len(ring)))
            held += len(ring)
        if held >= _CHUNK_VERTICES:
            yield _polygons(vertices, ring_sizes, polygon_sizes, crs_to_pixel)
            vertices, ring_sizes, polygon_sizes, held = [], [], [], 0
    if polygon_sizes:
        yield _polygons(vertices, ring_sizes, polygon_sizes, crs_to_pixel)


def _polygons(
    vertices: list[NDArray[np.float64]],
    ring_sizes: list[int],
    polygon_sizes: list[int],
    crs_to_pixel: Affine,
) -> Polygons:
    # From a band (not from an array) GDAL returns CRS coordinates. Vertices are pixel corners, so
    # rounding undoes that exactly.
    x_y = np.concatenate(vertices).reshape(-1, 2)
    col_row = np.rint(np.column_stack(apply(crs_to_pixel, *x_y.T)))
    polygons: Polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        col_row,
        (np.cumsum([0, *ring_sizes]), np.cumsum([0, *polygon_sizes])),
    )
    return polygons


def _first_pixel_order(polygons: Polygons) -> NDArray[np.intp]:
    """Indices that sort polygons by their first pixel, row-major."""
    first = np.empty((len(polygons), 2))  # row, col
    for part in chunks(len(polygons)):
        vertices, ring_start, owner = ragged(polygons[part])
        start = ring_start[:-1][np.r_[True, owner[1:] != owner[:-1]]]
        col, row = vertices.T
        first[part, 0] = np.minimum.reduceat(row, start)
        sizes = np.diff(np.r_[start, len(row)])
        on_top = row == np.repeat(first[part, 0], sizes)
        first[part, 1] = np.minimum.reduceat(np.where(on_top, col, np.inf), start)
    return np.lexsort((first[:, 1], first[:, 0]))


@contextmanager
def _reading(path: str | Path) -> Iterator[Any]:
    """Open a raster with a block cache that holds one row of its blocks and little more."""
    with border(lambda error: _unreadable(path, reason(error))):
        with unplaced(), own_files():  # pixel coordinates are enough
            dataset = rasterio.open(path)
        rows = dataset.block_shapes[0][0]
        row_bytes = rows * dataset.width * np.dtype(dataset.dtypes[0]).itemsize
        # An integer GDAL_CACHEMAX is in bytes here; too small a cache reads each block many times.
        with dataset, rasterio.Env(GDAL_CACHEMAX=row_bytes + _CACHE_BYTES):
            yield dataset


def _unreadable(path: str | Path, found: object) -> SceneError:
    return SceneError(f"{path}: expected a readable raster, found {found}; write it again")
