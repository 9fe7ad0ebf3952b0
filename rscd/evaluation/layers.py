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
    bounds_text,
    crop_to_pixels,
    crs_name,
    footprint_px,
    gdal_crs,
    grid_text,
    whole_pixel_offset,
)
from rscd.geo.pictures import PICTURE, is_picture, on_picture
from rscd.geo.polygons import moved
from rscd.geo.settings import beside
from rscd.geo.source import WARP_TOLERANCE_PX, Source, inspect, raster_border
from rscd.geo.tiles import Box
from rscd.geo.vectors import carried, exist, polygonal, read_layer

MOST_CLASSES = 64
"""A raster with more distinct values than this holds no classes."""

Reader = Callable[[Box], ByteArray]
"""Box of the grid -> (h,w): 0 no change, 1 change, 255 not known."""

BandReader = Callable[[Box], tuple[NDArray[Any], BoolArray]]
"""Box of the grid -> (C,h,w) stored values, (h,w) whether the raster covers the pixel."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coding:
    """What the stored values of a class raster mean."""

    change: frozenset[float]
    """All values that are in neither set mean no change."""
    unknown: frozenset[float]
    """No label, or no prediction; NaN is unknown always."""

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
    """Find out what stored values mean.

    Named values come first. Where no value is named as change, the file must hold 0 beside 1 or
    beside 255; 255 beside 1 means unknown, as in the masks of this package. A nodata of 0 in a
    file without any other value for "no change" means no change: viewers then show it transparent.

    Args:
        what: which file, for messages.
        found: distinct values of the file.
        change: values that the user named as change, or None.
        unknown: values that the user named as unlabelled, or None for the declared nodata.
        nodata: declared by the file.

    Raises:
        DataError: values whose meaning is not clear.
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
        SceneError: when it cannot be used.
    """
    return inspect(role, str(path), bands, None)


def check_same_world(role: str, crs: Any, path: str | Path, grid: GeoBox) -> None:
    """A layer and the grid both know where on Earth they are, or neither does.

    Raises:
        GridMismatchError: when only one does.
    """
    if (crs is None) != (grid.crs is None):
        with_crs = crs_name(grid.crs if crs is None else crs)
        raise GridMismatchError(
            f"expected a CRS in {role} and its counterpart or in none, found {crs_name(crs)} in "
            f"{path} and {crs_name(grid.crs)} in the other; assign it (gdal_edit.py or ogr2ogr "
            f"with -a_srs {with_crs})"
        )


def check_overlap(source: Source, grid: GeoBox) -> None:
    """A raster must cover at least one pixel of the grid.

    Raises:
        GridMismatchError: it does not, or there is no georeferencing and the sizes differ.
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
    """Read a raster on a grid: as it is where pixels coincide, else resampled.

    Args:
        source: of `open_source`.
        grid: the pixels wanted; those outside the raster are not covered.
        resampling: how, where pixels do not coincide.

    Raises:
        SceneError: when the file turns out to be damaged.
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
    """Errors of GDAL say which file is damaged; a missing georeferencing is no news."""
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
        # nodata is a value among others here: what it means is decided by `Coding`
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
    """Values of band 1 wherever the raster covers the boxes; NaN is left out.

    Raises:
        DataError: more than `MOST_CLASSES` of them.
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
        """Read a vector file and carry it onto a grid.

        Raises:
            DataError: when it cannot be read or holds other shapes than polygons.
            GridMismatchError: a CRS on one side only.
        """
        shapes, crs = read_polygons(role, path)
        # GDAL ascribes longitude and latitude to every GeoJSON, also to one in pixels
        pixels = grid.crs is None and Path(path).suffix.lower() in (".geojson", ".json")
        crs = None if pixels else crs
        check_same_world(role, crs, path, grid)
        if crs is not None and crs != CRS(grid.crs):
            shapes = carried(shapes, crs, CRS(grid.crs))
            shapes = shapes[exist(shapes)]
        if crs is None:
            shapes = on_picture(shapes, grid, f"{role} {path}")
        polygons = moved(shapes, ~grid.affine)
        layer = cls(polygons, shapely.STRtree(polygons))
        height, width = grid.shape
        if len(polygons) and not len(layer.tree.query(shapely.box(0, 0, width, height))):
            log.warning("no polygon of %s %s lies on the grid; check its CRS", role, path)
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
        DataError: it cannot be read, or has features but no polygon.
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
    """Probabilities lie between 0 and 1; NaN is allowed.

    Raises:
        UsageError: others are found.
    """
    finite = values[~np.isnan(values)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
        raise UsageError(
            f"expected probabilities from 0 to 1 in {what}, found {finite.min():.4g} to "
            f"{finite.max():.4g}; if it holds classes, name those of change with --predicted-value"
        )
