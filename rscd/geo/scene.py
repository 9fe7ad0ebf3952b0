"""ScenePair: two lazy rasters on one grid."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from rscd.errors import GridMismatchError, SceneError, UsageError
from rscd.geo.grid import (
    apply,
    compose,
    crop_to_pixels,
    crs_name,
    grid_text,
    intersection,
    shape_hw,
    whole_pixel_offset,
)
from rscd.geo.tiles import Box, reflect
from rscd.types import Align, BoolArray, FloatArray, ShapeHW

MAX_BANDS = 16
LOCAL_CRS = (
    'ENGCRS["local",EDATUM["unknown"],CS[Cartesian,2],'
    'AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
)
"""Stands for "one and the same unknown plane" where GDAL must be given a CRS."""
MAX_HANDLES = 64
"""Open datasets per thread; beyond that all are closed and opened again as needed."""
WARP_TOLERANCE_PX = 1e-3
"""Error allowed to GDAL's interpolation of coordinates between exact ones, in source pixels."""


@dataclass(frozen=True)
class Source:
    """One date of a scene on disk: what was found out by opening it once. Holds no handle."""

    date: str
    """``t1`` or ``t2``, for messages."""
    path: str
    grid: GeoBox
    bands: tuple[int, ...]
    """1-based numbers of the bands read."""
    alpha: int | None
    """1-based number of the alpha band."""
    nodata: float | None
    has_mask: bool
    """Whether the file carries a mask of its own (internal or .msk)."""
    dtype: str
    stamp: tuple[int, int] | None
    """Time of change in ns and size of the file, None for URLs: a file replaced is opened anew."""


@dataclass(frozen=True)
class Placement:
    """How a source is brought onto the pair's grid."""

    offset: tuple[int, int] | None
    """(columns, rows) from the grid to the source where pixels coincide; None: resampled."""
    text: str
    """The same in words, for the user and the provenance."""


@dataclass(frozen=True)
class ScenePair:
    """Two dates of one place on one pixel grid, read lazily.

    Construct with `ScenePair.open`. A value: immutable and picklable; file handles live per
    thread and open at the first read, so one pair serves a loop, threads and processes.
    """

    t1: Source
    t2: Source
    grid: GeoBox
    place_t1: Placement
    place_t2: Placement
    aoi: BaseGeometry | None = None
    """Area of interest in the grid's CRS; pixels whose centre lies outside are not valid."""

    @classmethod
    def open(
        cls,
        t1: str | Path,
        t2: str | Path,
        *,
        align: Align = "t1",
        bands: tuple[int, ...] | None = None,
        src_nodata: float | None = None,
    ) -> "ScenePair":
        """Inspect two rasters and plan how to read them on one grid.

        Args:
            t1: the earlier date: any raster GDAL opens (path, VRT, URL).
            t2: the later date.
            align: whose grid carries the result; the other date is resampled (bilinear) onto it
                where its pixels do not coincide. ``none`` accepts only equal grids.
            bands: 1-based band numbers, the same for both dates; default all but alpha.
            src_nodata: value that means "no data" in both files, instead of what they declare.

        Raises:
            SceneError: a file that cannot be used; the message names it.
            GridMismatchError: no common area, a CRS on one side only, or ``align="none"`` with
                two grids.
        """
        first = inspect("t1", str(t1), bands, src_nodata)
        second = inspect("t2", str(t2), bands, src_nodata)
        if len(first.bands) != len(second.bands):
            raise SceneError(
                f"expected the same bands at both dates, found {len(first.bands)} in {t1} and "
                f"{len(second.bands)} in {t2}; choose common ones with --bands 1,2,3"
            )
        _check_comparable(first, second)
        anchor, other = (second, first) if align == "t2" else (first, second)
        if align == "none":
            _check_equal_grids(first, second)
        grid = intersection(anchor.grid, other.grid)
        return cls(first, second, grid, _placement(first, grid), _placement(second, grid))

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) of the grid in pixels."""
        return shape_hw(self.grid)

    @property
    def n_bands(self) -> int:
        """Bands read per date."""
        return len(self.t1.bands)

    @property
    def alignment(self) -> dict[str, str]:
        """What was done to bring both dates onto one grid, in words."""
        return {
            "grid": grid_text(self.grid),
            "t1": self.place_t1.text,
            "t2": self.place_t2.text,
        }

    def crop(self, geometry: BaseGeometry, *, mask: bool) -> "ScenePair":
        """The pair over the bounding box of a geometry in the grid's CRS.

        Args:
            geometry: area of interest.
            mask: also make pixels outside the geometry itself invalid.

        Raises:
            GridMismatchError: when the geometry does not touch the scene.
        """
        grid = None
        if not geometry.is_empty:
            left, bottom, right, top = geometry.bounds
            cols, rows = apply(
                ~self.grid.affine,
                np.array([left, right, left, right]),
                np.array([bottom, bottom, top, top]),
            )
            grid = crop_to_pixels(self.grid, (cols.min(), rows.min(), cols.max(), rows.max()))
        if grid is None:
            raise GridMismatchError(
                "expected an area of interest that touches the scene, found "
                f"{'an empty one' if geometry.is_empty else geometry.bounds} for a scene over "
                f"{tuple(self.grid.boundingbox.bbox)} ({crs_name(self.grid.crs)}); "
                "check its coordinates and --bbox-crs"
            )
        return replace(
            self,
            grid=grid,
            place_t1=_placement(self.t1, grid),
            place_t2=_placement(self.t2, grid),
            aoi=geometry if mask else self.aoi,
        )

    def read(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """Raw values and validity of a box of the grid.

        Args:
            box: pixels of the grid; where it reaches beyond, the scene is reflected.

        Returns:
            image: (2,C,h,w) float32, t1 first, 0 where not valid.
            valid: (h,w) bool, true where both dates can be used; false beyond the scene.

        Raises:
            SceneError: when a file turns out to be damaged.
        """
        height, width = self.shape_hw
        rows = reflect(box.row, box.row + box.height, height)
        cols = reflect(box.col, box.col + box.width, width)
        inside = Box(
            int(rows.min()),
            int(cols.min()),
            int(rows.max() - rows.min()) + 1,
            int(cols.max() - cols.min()) + 1,
        )
        image, valid = self._read_inside(inside)
        if inside == box:
            return image, valid
        rows -= inside.row
        cols -= inside.col
        image = np.ascontiguousarray(image[:, :, rows[:, None], cols])
        valid = valid[rows[:, None], cols]
        valid &= _inside(box.row, box.height, height)[:, None]
        valid &= _inside(box.col, box.width, width)
        return image, valid

    def _read_inside(self, box: Box) -> tuple[FloatArray, BoolArray]:
        image = np.empty((2, self.n_bands, *box.shape_hw), np.float32)
        valid = np.ones(box.shape_hw, bool)
        for date, source, place in (
            (0, self.t1, self.place_t1),
            (1, self.t2, self.place_t2),
        ):
            with _reading(source):
                values, usable = _read_source(source, place, self.grid, box)
            image[date] = values
            valid &= usable
        if self.aoi is not None:
            valid &= geometry_mask(
                [self.aoi],
                box.shape_hw,
                compose(self.grid.affine, Affine.translation(box.col, box.row)),
                invert=True,
            )
        np.logical_and(valid, np.isfinite(image).all(axis=(0, 1)), out=valid)
        if not valid.all():
            image[:, :, ~valid] = 0
        return image, valid


def _inside(start: int, length: int, size: int) -> BoolArray:
    index = np.arange(start, start + length)
    return (index >= 0) & (index < size)


def inspect(
    date: str, path: str, bands: tuple[int, ...] | None, src_nodata: float | None
) -> Source:
    """Open a raster once and note what reading it needs.

    Raises:
        SceneError: a file that cannot serve as one date of a scene.
    """
    try:
        with _quiet(), rasterio.open(path) as dataset:
            return _inspect(date, path, dataset, bands, src_nodata)
    except RasterioError as error:
        raise SceneError(_unreadable(date, path, error)) from error


def _unreadable(date: str, path: str, error: Exception) -> str:
    if "://" not in path and not path.startswith("/vsi") and not Path(path).exists():
        return f"expected a raster for {date}, found no file at {path}; check the path"
    cause = " ".join(str(error.__cause__ or error).split())
    return (
        f"expected a readable raster for {date}, found damage or an unknown format in {path} "
        f"({cause}); check it with gdalinfo or copy it again"
    )


def _inspect(
    date: str,
    path: str,
    dataset: Any,
    bands: tuple[int, ...] | None,
    src_nodata: float | None,
) -> Source:
    if dataset.count == 0:
        subdatasets = ", ".join(dataset.subdatasets[:3])
        raise SceneError(
            f"expected bands in {date} {path}, found none"
            + (f"; name one of its subdatasets: {subdatasets}" if subdatasets else "")
        )
    alpha = next((i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None)
    chosen = bands or tuple(i for i in range(1, dataset.count + 1) if i != alpha)
    _check_bands(date, path, dataset.count, chosen)
    dtype = str(np.result_type(*(np.dtype(_numpy_name(dataset.dtypes[b - 1])) for b in chosen)))
    if "complex" in dtype:
        raise SceneError(
            f"expected real pixel values in {date} {path}, found {dtype}; write amplitude or "
            "power first (gdal_translate with a derived band, or the SAR toolbox it came from)"
        )
    return Source(
        date=date,
        path=path,
        grid=_grid_of(date, path, dataset),
        bands=chosen,
        alpha=alpha,
        nodata=dataset.nodatavals[chosen[0] - 1] if src_nodata is None else src_nodata,
        has_mask=alpha is None
        and src_nodata is None
        and MaskFlags.per_dataset in dataset.mask_flag_enums[0],
        dtype=dtype,
        stamp=_stamp(path),
    )


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _numpy_name(dtype: str) -> str:
    return {"complex_int16": "complex64"}.get(dtype, dtype)


def _check_bands(date: str, path: str, count: int, chosen: tuple[int, ...]) -> None:
    wrong = [b for b in chosen if not 1 <= b <= count]
    if wrong:
        raise SceneError(
            f"expected band numbers from 1 to {count} for {date} {path}, found "
            f"{', '.join(map(str, wrong))}; correct --bands"
        )
    if len(chosen) > MAX_BANDS:
        raise SceneError(
            f"expected at most {MAX_BANDS} bands, found {len(chosen)} in {date} {path}; choose "
            "some with --bands"
        )


def _grid_of(date: str, path: str, dataset: Any) -> GeoBox:
    identity = dataset.transform.is_identity
    if identity and dataset.crs is None and (dataset.gcps[0] or dataset.rpcs is not None):
        kind = "ground control points" if dataset.gcps[0] else "rational polynomial coefficients"
        raise SceneError(
            f"expected a raster on a regular grid for {date}, found only {kind} in {path}; "
            f"rectify it first: gdalwarp {'-tps' if dataset.gcps[0] else '-rpc'} {path} out.tif"
        )
    if dataset.transform.is_degenerate:
        raise SceneError(
            f"expected pixels with an area in {date} {path}, found a degenerate transform "
            f"{tuple(dataset.transform)[:6]}; repair its georeferencing (gdal_edit.py -a_ullr)"
        )
    crs = None if dataset.crs is None else CRS.from_wkt(dataset.crs.to_wkt())
    return GeoBox((dataset.height, dataset.width), dataset.transform, crs)


def _check_comparable(t1: Source, t2: Source) -> None:
    if (t1.grid.crs is None) != (t2.grid.crs is None):
        with_crs, without = (t2, t1) if t1.grid.crs is None else (t1, t2)
        raise GridMismatchError(
            f"expected a CRS in both files or in none, found {crs_name(with_crs.grid.crs)} in "
            f"{with_crs.path} and none in {without.path}; assign it: gdal_edit.py -a_srs "
            f"{crs_name(with_crs.grid.crs)} {without.path}"
        )
    both_pixels = t1.grid.affine.is_identity and t2.grid.affine.is_identity
    if t1.grid.crs is None and both_pixels and t1.grid.shape != t2.grid.shape:
        raise GridMismatchError(
            "expected two images of one size where there is no georeferencing, found "
            f"{t1.grid.shape[1]} x {t1.grid.shape[0]} and {t2.grid.shape[1]} x "
            f"{t2.grid.shape[0]} pixels; resize or crop one"
        )


def _check_equal_grids(t1: Source, t2: Source) -> None:
    if whole_pixel_offset(t1.grid, t2.grid) == (0, 0) and t1.grid.shape == t2.grid.shape:
        return
    raise GridMismatchError(
        f"expected one grid with --align none, found t1 with {grid_text(t1.grid)} and t2 with "
        f"{grid_text(t2.grid)}{_shift_text(t1.grid, t2.grid)}; use --align t1 or --align t2"
    )


def _shift_text(grid: GeoBox, other: GeoBox) -> str:
    if grid.crs != other.crs:
        return ""
    corner = compose(~grid.affine, other.affine)
    return f", its corner at column {corner.c:.2f}, row {corner.f:.2f} of t1"


def _placement(source: Source, grid: GeoBox) -> Placement:
    offset = whole_pixel_offset(grid, source.grid)
    if offset is None:
        return Placement(None, f"resampled (bilinear) from {grid_text(source.grid)}")
    if offset == (0, 0) and grid.shape == source.grid.shape:
        return Placement(offset, "read as it is")
    return Placement(offset, f"cropped at column {offset[0]}, row {offset[1]}, not resampled")


class _Handles(threading.local):
    """Open datasets of this thread; GDAL handles must not be shared between threads."""

    def __init__(self) -> None:
        self.open: dict[Any, Any] = {}


_handles = _Handles()


def close_handles() -> None:
    """Close what this thread holds open; reading again opens anew."""
    for dataset in reversed(_handles.open.values()):
        dataset.close()
    _handles.open.clear()


# a forked process would share file positions with its parent
os.register_at_fork(after_in_child=close_handles)


def _dataset(source: Source) -> Any:
    key = (source.path, source.stamp)
    if key not in _handles.open:
        if len(_handles.open) >= MAX_HANDLES:
            close_handles()
        with _quiet():
            _handles.open[key] = rasterio.open(source.path)
    return _handles.open[key]


def _rasterio_crs(grid: GeoBox) -> rasterio.crs.CRS:
    return rasterio.crs.CRS.from_wkt(LOCAL_CRS if grid.crs is None else CRS(grid.crs).to_wkt())


def _warped(source: Source, grid: GeoBox) -> Any:
    key = (source, grid)
    if key not in _handles.open:
        height, width = shape_hw(grid)
        options: dict[str, Any] = {"add_alpha": True} if source.alpha is None else {}
        if source.nodata is not None and source.alpha is None:
            options |= {"src_nodata": source.nodata}
        _handles.open[key] = WarpedVRT(
            _dataset(source),
            src_crs=_rasterio_crs(source.grid),
            crs=_rasterio_crs(grid),
            transform=grid.affine,
            width=width,
            height=height,
            resampling=Resampling.bilinear,
            tolerance=WARP_TOLERANCE_PX,
            UNIFIED_SRC_NODATA="YES",
            **options,
        )
    return _handles.open[key]


def _read_source(source: Source, place: Placement, grid: GeoBox, box: Box) -> tuple[Any, BoolArray]:
    if place.offset is None:
        dataset = _warped(source, grid)
        window = Window(box.col, box.row, box.width, box.height)
        alpha = source.alpha or dataset.count
        values = dataset.read([*source.bands, alpha], window=window)
        return values[:-1], values[-1] != 0
    dataset = _dataset(source)
    window = Window(box.col + place.offset[0], box.row + place.offset[1], box.width, box.height)
    values = dataset.read(list(source.bands), window=window)
    if source.alpha is not None:
        return values, dataset.read(source.alpha, window=window) != 0
    if source.has_mask:
        return values, dataset.read_masks(1, window=window) != 0
    if source.nodata is None or np.isnan(source.nodata):
        return values, np.ones(box.shape_hw, bool)
    return values, (values != source.nodata).any(axis=0)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise SceneError(_unreadable(source.date, source.path, error)) from error


def parse_bands(text: str) -> tuple[int, ...]:
    """``"1,2,3"`` -> (1, 2, 3).

    Raises:
        UsageError: for anything but positive whole numbers separated by commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"expected band numbers such as 1,2,3, found {text!r}; the first band is 1"
        )
    return tuple(map(int, parts))
