"""Arrays and open datasets as files that a pair reads."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.dtypes import can_cast_dtype
from rasterio.enums import ColorInterp
from rasterio.io import BufferedDatasetWriter, DatasetReader, DatasetWriter
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rscd.base.errors import OutputError, UsageError
from rscd.base.files import writing
from rscd.base.scratch import Scratch
from rscd.geo.grid import stored_crs
from rscd.geo.pictures import PICTURE, is_picture
from rscd.geo.settings import unplaced
from rscd.geo.source import MAX_BANDS

if TYPE_CHECKING:
    from xarray import DataArray

Image: TypeAlias = "str | Path | NDArray[Any] | DataArray | Any"
"""One date: a path, an address, an open rasterio dataset, a DataArray or a NumPy array."""

DATASETS = (DatasetReader, DatasetWriter, BufferedDatasetWriter, WarpedVRT)
STRIP_VALUES = 1 << 24
"""Values of the strips in which arrays are written; more are never computed at once."""
NO_ATTRS: Mapping[str, Any] = {}
"""Of NumPy arrays."""
EVEN = 1e-3
"""Most that steps between coordinates differ, in steps."""


def as_files(
    images: Sequence[Image], transform: Affine | None, crs: Any
) -> tuple[list[str | Path], Scratch | None]:
    """Paths of images, of which those in memory are written once to a temporary folder.

    Args:
        images: t1 and t2.
        transform: from pixels to the CRS, of images that are arrays without a grid of their own.
        crs: of these, as pyproj takes it.

    Returns:
        Two paths; what keeps the files that were written, None if there are none.

    Raises:
        UsageError: something that is no image, or whose grid is missing, irregular or stated twice.
        OutputError: the temporary files cannot be written.
    """
    kept: Scratch | None = None
    paths: list[str | Path] = []
    used = False
    for date, image in zip(("t1", "t2"), images, strict=True):
        path = _path_of(date, image)
        if path is None:
            kept = kept or Scratch()
            path = kept.folder / f"{date}.tif"
            if isinstance(image, DATASETS):
                _check_room(path, (image.count, *image.shape), max(image.dtypes, key=_size))
                with writing(path), unplaced(), _internal_mask():
                    copy(image, path, driver="GTiff", BIGTIFF="IF_SAFER")
            else:
                used |= _write(date, image, path, transform, crs)
        paths.append(path)
    if (transform is not None or crs is not None) and not used:
        raise UsageError(
            "expected transform and crs with NumPy arrays, found images that have a grid of their "
            "own; drop them"
        )
    return paths, kept


def _path_of(date: str, image: Image) -> str | Path | None:
    """The path of an image; None of one in memory."""
    if isinstance(image, str | Path):
        return image
    if not isinstance(image, DATASETS):
        return None
    if image.closed or isinstance(image, DatasetWriter | BufferedDatasetWriter):
        state = "a closed one" if image.closed else "one open for writing"
        raise UsageError(
            f"expected a dataset open for reading as {date}, found {state} of {image.name}; give "
            "its path"
        )
    if isinstance(image, WarpedVRT) or image.name.startswith("/vsimem/"):
        return None
    return str(image.name)


def _write(date: str, image: Any, path: Path, transform: Affine | None, crs: Any) -> bool:
    """Write an array; whether ``transform`` and ``crs`` were used."""
    array: Any
    if isinstance(image, np.ndarray):
        array, attrs, grid = image, NO_ATTRS, None
    elif hasattr(image, "dims") and hasattr(image, "coords") and hasattr(image, "attrs"):
        array = _ordered(date, image)
        # what stands in its encoding was undone when it was read
        attrs, grid = image.attrs, _grid_of(date, array, getattr(image, "rio", None))
    else:
        raise UsageError(
            f"expected a path, an address, a rasterio dataset, a DataArray or a NumPy array as "
            f"{date}, found {type(image).__name__}"
        )
    if array.ndim == 2:
        array = array[None] if attrs is NO_ATTRS else array.expand_dims("band")
    _check_shape(date, array.shape)
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "buifc":
        raise UsageError(f"expected numbers as pixel values of {date}, found {dtype}")
    stored = {"bool": "uint8", "float16": "float32"}.get(dtype.name, dtype.newbyteorder("=").name)
    own = grid is not None
    if grid is None:
        grid = _stated_grid(array.shape[1:], transform, crs)
    elif transform is not None or crs is not None:
        raise UsageError(
            f"expected one grid of {date}, found coordinates in the DataArray and transform or crs "
            "beside it; drop these"
        )
    _write_strips(array, path, stored, grid, attrs)
    return not own


def _write_strips(
    array: Any, path: Path, dtype: str, grid: GeoBox, attrs: Mapping[str, Any]
) -> None:
    bands, height, width = array.shape
    profile = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": dtype,
        "crs": stored_crs(grid),
        "transform": None if is_picture(grid) else grid.affine,
        "nodata": _nodata(attrs, dtype),
        # four bands of bytes would otherwise be taken for colours and alpha
        "photometric": "MINISBLACK",
        "BIGTIFF": "IF_SAFER",
    }
    _check_room(path, array.shape, dtype)
    step = max(1, STRIP_VALUES // (bands * width))
    masked = isinstance(array, np.ma.MaskedArray)
    with writing(path), unplaced(), _internal_mask(), rasterio.open(path, "w", **profile) as made:
        made.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (bands - 1)
        if "scale_factor" in attrs or "add_offset" in attrs:
            made.scales = [float(attrs.get("scale_factor", 1))] * bands
            made.offsets = [float(attrs.get("add_offset", 0))] * bands
        for row in range(0, height, step):
            strip = array[:, row : row + step]
            window = Window(0, row, width, strip.shape[1])
            made.write(np.asarray(strip).astype(dtype), window=window)
            if masked:
                made.write_mask(~np.ma.getmaskarray(strip).any(axis=0), window=window)


def _size(dtype: str) -> int:
    return np.dtype(dtype.replace("complex_int16", "complex64")).itemsize


def _check_room(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    # GDAL may keep pixels back until it closes the file, where a full disk is not always noticed
    need, free = math.prod(shape) * _size(dtype), shutil.disk_usage(path.parent).free
    if free < need:
        raise OutputError(
            f"expected {need / 1e6:.0f} MB of free disk in {path.parent.parent} for an image in "
            f"memory, found {free / 1e6:.0f} MB; free some space, or set TMPDIR to another folder"
        )


def _nodata(attrs: Mapping[str, Any], dtype: str) -> float | None:
    """What marks pixels without data; None also for a value that the type cannot hold."""
    value = attrs.get("_FillValue", attrs.get("nodata"))
    if value is None or (np.dtype(dtype).kind != "f" and not can_cast_dtype(value, dtype)):
        return None
    return float(value)


@contextmanager
def _internal_mask() -> Iterator[None]:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        yield


def _ordered(date: str, array: Any) -> Any:
    """A DataArray as (band, y, x) or (y, x)."""
    names = {"y": ("y", "latitude", "lat"), "x": ("x", "longitude", "lon")}
    found = [[dim for dim in array.dims if dim in names[axis]] for axis in ("y", "x")]
    others = [dim for dim in array.dims if [dim] not in found]
    if any(len(dims) != 1 for dims in found) or len(others) > 1:
        raise UsageError(
            f"expected the dimensions band, y and x of {date}, found "
            f"{', '.join(map(str, array.dims))}; select one time with .isel(time=0), rename others "
            "with .rename"
        )
    return array.transpose(*others, found[0][0], found[1][0])


def _grid_of(date: str, array: Any, rio: Any) -> GeoBox | None:
    """The grid that the coordinates of a DataArray lie on; None without coordinates.

    Args:
        date: t1 or t2.
        array: in order.
        rio: what rioxarray knows of the array as it was given, where the user has it. A CRS set by
            ``.rio.set_crs`` stands nowhere else, and a reordered array has it no more.
    """
    import odc.geo.xr  # noqa: F401  registers the accessor .odc

    dims = array.dims[-2:]
    missing = [dim for dim in dims if dim not in array.coords]
    if len(missing) == 1:
        raise UsageError(
            f"expected coordinates along {' and '.join(dims)} of {date}, found none along "
            f"{missing[0]}; assign them"
        )
    for dim in dims if not missing else ():
        steps = np.diff(np.asarray(array.coords[dim].values, float))
        if len(steps) and not (np.abs(steps - steps.mean()) <= EVEN * abs(steps.mean())).all():
            raise UsageError(
                f"expected evenly spaced coordinates along {dim} of {date}, found steps from "
                f"{steps.min():g} to {steps.max():g}; resample it first"
            )
    grid = array.odc.geobox
    if grid is None:
        if missing:
            return None
        raise UsageError(
            f"expected coordinates of pixels on a regular grid in {date}, found ones of "
            f"{' x '.join(str(array.sizes[dim]) for dim in dims)} pixels that tell none; add a "
            "coordinate spatial_ref with GeoTransform, as rioxarray does"
        )
    if not isinstance(grid, GeoBox):
        raise UsageError(
            f"expected {date} on a regular grid, found ground control points; rectify it first"
        )
    if grid.crs is None and rio is not None and rio.crs is not None:
        grid = GeoBox(grid.shape, grid.affine, CRS.from_wkt(rio.crs.to_wkt()))
    return grid


def _stated_grid(size_hw: tuple[int, int], transform: Affine | None, crs: Any) -> GeoBox:
    if transform is None:
        if crs is not None:
            raise UsageError(
                "expected a transform with crs, found none; give transform=Affine(...)"
            )
        return GeoBox(size_hw, PICTURE, None)
    if not isinstance(transform, Affine):
        raise UsageError(
            f"expected an affine.Affine as transform, found {type(transform).__name__}; a tuple "
            "in GDAL's order becomes one with Affine.from_gdal(*values)"
        )
    try:
        return GeoBox(size_hw, transform, None if crs is None else CRS.from_user_input(crs))
    except CRSError:
        raise UsageError(f"expected a CRS such as EPSG:32633, found {crs!r}; correct crs") from None


def _check_shape(date: str, shape: tuple[int, ...]) -> None:
    advice = ""
    if len(shape) == 3 and shape[0] > MAX_BANDS >= shape[2]:
        advice = "; bands come first: numpy.moveaxis(image, -1, 0)"
    elif len(shape) == 3 and all(shape) and shape[0] <= MAX_BANDS:
        return
    raise UsageError(
        f"expected (bands, rows, columns) with 1 to {MAX_BANDS} bands, or (rows, columns), as "
        f"{date}, found the shape {shape}{advice}"
    )
