"""Sources: what one raster on disk holds, and how its pixels are read onto a grid."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rscd.errors import SceneError, UsageError
from rscd.geo.grid import gdal_crs, shape_hw
from rscd.geo.pictures import PICTURE, is_picture
from rscd.geo.settings import beside
from rscd.geo.tiles import Box
from rscd.types import BoolArray

MAX_BANDS = 16
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
    files: tuple[str, ...]
    """All that is read through ``path``: the file, what lies beside it, what a VRT is made of."""
    grid: GeoBox
    bands: tuple[int, ...]
    """1-based numbers of the bands read."""
    alpha: int | None
    """1-based number of the alpha band."""
    nodata: float | None
    has_mask: bool
    """Whether the file carries a mask of its own (internal or .msk)."""
    dtype: str
    palette: bool
    """Whether values are numbers of a colour table."""
    stamp: tuple[int, int] | None
    """Time of change in ns and size of the file, None for URLs: a file replaced is opened anew."""


@dataclass(frozen=True)
class Placement:
    """How a source is brought onto the pair's grid."""

    offset: tuple[int, int] | None
    """(columns, rows) from the grid to the source where pixels coincide; None: resampled."""
    text: str
    """The same in words, for the user and the provenance."""


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


def inspect(
    date: str, path: str, bands: tuple[int, ...] | None, src_nodata: float | None
) -> Source:
    """Open a raster once and note what reading it needs.

    Raises:
        SceneError: a file that cannot serve as one date of a scene.
    """
    try:
        with _quiet(), beside(path), rasterio.open(path) as dataset:
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
        files=tuple(dataset.files),
        grid=_grid_of(date, path, dataset),
        bands=chosen,
        alpha=alpha,
        nodata=dataset.nodatavals[chosen[0] - 1] if src_nodata is None else src_nodata,
        has_mask=alpha is None
        and src_nodata is None
        and MaskFlags.per_dataset in dataset.mask_flag_enums[0],
        dtype=dtype,
        palette=any(dataset.colorinterp[b - 1] == ColorInterp.palette for b in chosen),
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
    transform = PICTURE if identity and crs is None else dataset.transform
    return GeoBox((dataset.height, dataset.width), transform, crs)


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
        with _quiet(), beside(source.path):
            _handles.open[key] = rasterio.open(source.path)
    return _handles.open[key]


def _warped(source: Source, grid: GeoBox) -> Any:
    key = (source, grid)
    if key not in _handles.open:
        height, width = shape_hw(grid)
        options: dict[str, Any] = {"add_alpha": True} if source.alpha is None else {}
        if source.nodata is not None and source.alpha is None:
            options |= {"src_nodata": source.nodata}
        if is_picture(source.grid):
            options |= {"src_transform": PICTURE}  # GDAL would count its rows upwards
        _handles.open[key] = WarpedVRT(
            _dataset(source),
            src_crs=gdal_crs(source.grid),
            crs=gdal_crs(grid),
            transform=grid.affine,
            width=width,
            height=height,
            resampling=Resampling.bilinear,
            tolerance=WARP_TOLERANCE_PX,
            UNIFIED_SRC_NODATA="YES",
            **options,
        )
    return _handles.open[key]


def read_source(source: Source, place: Placement, grid: GeoBox, box: Box) -> tuple[Any, BoolArray]:
    """Raw values of a box of a grid, and where they can be used.

    Args:
        source: one date.
        place: how it comes onto the grid.
        grid: of the pair.
        box: within the grid.

    Returns:
        (C,h,w) values in the file's type, (h,w) bool.

    Raises:
        SceneError: when the file turns out to be damaged.
    """
    with _reading(source):
        return _read(source, place, grid, box)


def _read(source: Source, place: Placement, grid: GeoBox, box: Box) -> tuple[Any, BoolArray]:
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
