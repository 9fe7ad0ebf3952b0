"""Rasters and vectors of any CRS on one pixel grid, read box by box."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rscd.base.errors import DataError, GridMismatchError, UsageError
from rscd.base.types import IGNORE, BoolArray, ByteArray
from rscd.geo.grid import (
    apply,
    bounds_text,
    crop_to_pixels,
    crs_name,
    footprint_px,
    gdal_crs,
    grid_text,
    whole_pixel_offset,
)
from rscd.geo.pictures import PICTURE, is_picture, on_picture
from rscd.geo.settings import beside
from rscd.geo.source import WARP_TOLERANCE_PX, Source, inspect, raster_border
from rscd.geo.tiles import Box
from rscd.geo.vectors import carried, exist, polygonal, read_layer

MOST_CLASSES = 64
"""A raster with more distinct values than this is not a class raster."""

Reader = Callable[[Box], ByteArray]
"""Box of the grid -> (h,w): 0 no change, 1 change, 255 unknown."""

BandReader = Callable[[Box], tuple[NDArray[Any], BoolArray]]
"""Box of the grid -> (C,h,w) stored values, (h,w) whether the raster covers the pixel."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coding:
    """Meaning of the stored values of a class raster."""

    change: frozenset[float]
    """Values of change; values in neither set mean no change."""
    unknown: frozenset[float]
    """Values without label or prediction; NaN is always unknown."""

    def decode(self, values: NDArray[Any], covered: BoolArray) -> ByteArray:
        """(h,w) stored values -> 0, 1, and 255 where unknown or not covered."""
        mask = _one_of(values, self.change).astype(np.uint8)
        unknown = ~covered | _one_of(values, self.unknown)
        if np.issubdtype(values.dtype, np.floating):
            unknown |= np.isnan(values)
        mask[unknown] = IGNORE
        return mask


def _one_of(values: NDArray[Any], wanted: frozenset[float]) -> BoolArray:
    found = np.zeros(values.shape, bool)
    for value in wanted:
        found |= values == value
    return found


def resolve_coding(
    what: str,
    found: Iterable[float],
    change: Iterable[float] | None,
    unknown: Iterable[float] | None,
    nodata: float | None,
) -> Coding:
    """Determine the meaning of stored values.

    Named values take precedence. If no value is named as change, the file must contain 0 and either
    1 or 255; 255 beside 1 means unknown, as in the masks of this package. A nodata of 0 in a
    file without any other value for "no change" means no change: viewers then show it transparent.

    Args:
        what: name of the file in messages.
        found: distinct values of the file.
        change: values that the user named as change, or None.
        unknown: values that the user named as unlabelled, or None for the declared nodata.
        nodata: declared by the file.

    Raises:
        DataError: for values of unclear meaning.
    """
    declared = frozenset(() if nodata is None else (nodata,))
    missing = declared if unknown is None else frozenset(unknown)
    values = frozenset(found) - missing
    if change is not None:
        meaning = Coding(frozenset(change), missing - frozenset(change))
    elif values <= {0, 1}:
        meaning = Coding(frozenset({1.0}), missing)
    elif values <= {0, IGNORE}:
        meaning = Coding(frozenset({float(IGNORE)}), missing)
    elif values <= {0, 1, IGNORE}:
        meaning = Coding(frozenset({1.0}), missing | {float(IGNORE)})
    else:
        shown = ", ".join(f"{v:g}" for v in sorted(values)[:8])
        raise DataError(
            f"expected values 0 and 255 (or 0 and 1) in {what}, found {shown}"
            f"{', ...' if len(values) > 8 else ''}; name those that mean change (--change-value "
            "for the truth, --predicted-value for the prediction) and those without label "
            "(--unlabelled)"
        )
    if unknown is None and nodata == 0 and values <= meaning.change:
        return replace(meaning, unknown=meaning.unknown - {0.0})
    return meaning


def open_source(role: str, path: str | Path, bands: tuple[int, ...] | None = (1,)) -> Source:
    """Inspect a raster.

    Raises:
        SceneError: if it cannot be used.
    """
    return inspect(role, str(path), bands, None)


def check_same_world(role: str, crs: Any, path: str | Path, grid: GeoBox) -> None:
    """Check that a layer and the grid both have a CRS, or neither.

    Raises:
        GridMismatchError: if only one has.
    """
    if (crs is None) != (grid.crs is None):
        with_crs = crs_name(grid.crs if crs is None else crs)
        raise GridMismatchError(
            f"expected a CRS in {role} and its counterpart or in none, found {crs_name(crs)} in "
            f"{path} and {crs_name(grid.crs)} in the other; assign it (gdal_edit.py or ogr2ogr "
            f"with -a_srs {with_crs})"
        )


def check_overlap(source: Source, grid: GeoBox) -> None:
    """Check that a raster covers at least one pixel of the grid.

    Raises:
        GridMismatchError: if it does not, or there is no georeferencing and the sizes differ.
    """
    check_same_world(source.date, source.grid.crs, source.path, grid)
    pixels_only = is_picture(source.grid) and is_picture(grid)
    if pixels_only and source.grid.shape != grid.shape:
        raise GridMismatchError(
            "expected prediction and truth of one size where there is no georeferencing, found "
            f"{grid_text(source.grid)} in {source.path} and {grid_text(grid)}; crop one"
        )
    box = footprint_px(source.grid, grid)
    if crop_to_pixels(grid, box) is None:
        raise GridMismatchError(
            f"expected {source.date} {source.path} to overlap its counterpart, found none: it "
            f"covers columns and rows {bounds_text(box)} of a grid of {grid_text(grid)}; check the "
            "files and their CRS"
        )


@contextmanager
def raster_on(
    source: Source, grid: GeoBox, resampling: Resampling = Resampling.nearest
) -> Iterator[BandReader]:
    """Read a raster on a grid: directly if pixels coincide, else resampled.

    Args:
        source: from `open_source`.
        grid: the requested pixels; those outside the raster are not covered.
        resampling: method if pixels do not coincide.

    Raises:
        SceneError: if the file turns out to be damaged.
    """
    offset = whole_pixel_offset(grid, source.grid)
    with ExitStack() as stack:
        with _naming(source):
            with beside(source.path):
                dataset = stack.enter_context(rasterio.open(source.path))
            warped = _warped(dataset, source, grid, resampling) if offset is None else None
        if warped is not None:
            stack.enter_context(warped)

        def read(box: Box) -> tuple[NDArray[Any], BoolArray]:
            with _naming(source):
                if offset is None:
                    return _read_warped(warped, source, box)
                return _read_direct(dataset, source, offset, box)

        yield read


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Name the damaged file in GDAL errors; ignore missing georeferencing."""
    with raster_border(source.date, source.path), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _read_direct(
    dataset: Any, source: Source, offset: tuple[int, int], box: Box
) -> tuple[NDArray[Any], BoolArray]:
    """A box of a raster whose pixels coincide with the grid's."""
    col, row = box.col + offset[0], box.row + offset[1]
    left, top = max(col, 0), max(row, 0)
    right, bottom = min(col + box.width, dataset.width), min(row + box.height, dataset.height)
    values = np.zeros((len(source.bands), *box.shape_hw), source.dtype)
    covered = np.zeros(box.shape_hw, bool)
    if right > left and bottom > top:
        window = Window(left, top, right - left, bottom - top)
        here = slice(top - row, bottom - row), slice(left - col, right - col)
        values[:, *here] = dataset.read(list(source.bands), window=window)
        covered[here] = _usable(dataset, source, window)
    return values, covered


def _usable(dataset: Any, source: Source, window: Window) -> Any:
    if source.alpha is not None:
        return dataset.read(source.alpha, window=window) != 0
    if source.has_mask:
        return dataset.read_masks(1, window=window) != 0
    return True


def _warped(dataset: Any, source: Source, grid: GeoBox, resampling: Resampling) -> Any:
    height, width = grid.shape
    return WarpedVRT(
        dataset,
        src_crs=gdal_crs(source.grid),
        crs=gdal_crs(grid),
        transform=grid.affine,
        width=width,
        height=height,
        resampling=resampling,
        tolerance=WARP_TOLERANCE_PX,
        # nodata is treated like any other value here: `Coding` decides its meaning
        src_nodata=None,
        nodata=None,
        **({"add_alpha": True} if source.alpha is None else {}),
        **({"src_transform": PICTURE} if is_picture(source.grid) else {}),
    )


def _read_warped(warped: Any, source: Source, box: Box) -> tuple[NDArray[Any], BoolArray]:
    window = Window(box.col, box.row, box.width, box.height)
    values = warped.read(list(source.bands), window=window)
    return values, warped.read(source.alpha or warped.count, window=window) != 0


def distinct_values(read: BandReader, boxes: Iterable[Box], what: str) -> set[float]:
    """Values of band 1 wherever the raster covers the boxes, without NaN.

    Raises:
        DataError: if there are more than `MOST_CLASSES`.
    """
    found: set[float] = set()
    for box in boxes:
        values, covered = read(box)
        here = np.unique(values[0][covered])
        found |= {float(value) for value in here if not np.isnan(value)}
        if len(found) > MOST_CLASSES:
            raise DataError(
                f"expected classes in {what}, found more than {MOST_CLASSES} distinct values; give "
                "a mask, or for the prediction a probability raster of floating-point numbers"
            )
    return found


@dataclass(frozen=True, eq=False)
class PolygonLayer:
    """Polygons in pixel coordinates of a grid, rasterised box by box at pixel centres."""

    polygons: NDArray[np.object_]
    """(N,) shapely polygons."""
    tree: shapely.STRtree

    @classmethod
    def open(cls, role: str, path: str | Path, grid: GeoBox) -> "PolygonLayer":
        """Read a vector file and transform it to a grid.

        Raises:
            DataError: if it cannot be read or contains no polygons.
            GridMismatchError: if only one side has a CRS.
        """
        shapes, crs = read_polygons(role, path)
        # GDAL assumes longitude and latitude for every GeoJSON, even one in pixels
        pixels = grid.crs is None and Path(path).suffix.lower() in (".geojson", ".json")
        crs = None if pixels else crs
        check_same_world(role, crs, path, grid)
        if crs is not None and crs != CRS(grid.crs):
            shapes = carried(shapes, crs, CRS(grid.crs))
            shapes = shapes[exist(shapes)]
        if crs is None:
            shapes = on_picture(shapes, grid, f"{role} {path}")
        inverse = ~grid.affine

        def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(apply(inverse, *points.T))

        polygons = shapely.transform(shapes, to_pixels)
        layer = cls(polygons, shapely.STRtree(polygons))
        height, width = grid.shape
        if len(polygons) and not len(layer.tree.query(shapely.box(0, 0, width, height))):
            log.warning("no polygon of %s %s is on the grid; check its CRS", role, path)
        return layer

    def read(self, box: Box) -> ByteArray:
        """(h,w) 1 where the pixel's centre lies in a polygon, else 0."""
        frame = shapely.box(box.col, box.row, box.col + box.width, box.row + box.height)
        here = self.polygons[self.tree.query(frame)]
        if not len(here):
            return np.zeros(box.shape_hw, np.uint8)
        burnt: ByteArray = rasterio.features.rasterize(
            ((polygon, 1) for polygon in here),
            out_shape=box.shape_hw,
            transform=Affine.translation(box.col, box.row),
            dtype="uint8",
        )
        return burnt


def read_polygons(role: str, path: str | Path) -> tuple[NDArray[np.object_], CRS | None]:
    """All polygons of a vector file, made valid, and its CRS.

    Raises:
        DataError: if it cannot be read, or has features but no polygon.
    """
    frame = read_layer(path, f"polygons in {role}", columns=[])
    geometries = frame.geometry.to_numpy()
    present = geometries[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))]
    polygons = shapely.get_parts(polygonal(present))
    polygons = polygons[~shapely.is_empty(polygons)]
    if len(present) and not len(polygons):
        raise DataError(
            f"expected polygons in {role} {path}, found {present[0].geom_type} and the like; give "
            "a layer of polygons"
        )
    return polygons, None if frame.crs is None else CRS(frame.crs)


def check_probability(what: str, values: NDArray[Any]) -> None:
    """Check that probabilities are between 0 and 1; NaN is allowed.

    Raises:
        UsageError: if others are found.
    """
    finite = values[~np.isnan(values)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
        raise UsageError(
            f"expected probabilities from 0 to 1 in {what}, found {finite.min():.4g} to "
            f"{finite.max():.4g}; if it holds classes, name those of change with --predicted-value"
        )
