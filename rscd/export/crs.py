"""Which coordinate reference systems a file format can store.

Drivers silently drop or replace a CRS that a format does not support, which displaces the result.
So this is checked before the work: a file without rows is written in memory, read back and
compared.
"""

import io
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pyproj
import rasterio
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from rscd.base.errors import UsageError
from rscd.base.quiet import quiet
from rscd.geo.grid import crs_name

LONLAT = "OGC:CRS84"
"""Longitude and latitude on WGS 84, as RFC 7946 requires for GeoJSON."""

TOLERANCE_DEG = 1e-7
"""About a centimetre."""

_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf"}
_RASTERS = (".tif", ".tiff")
_AROUND = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def read_back(suffix: str, crs: Any) -> pyproj.CRS | None:
    """The CRS that a reader will find in a file of this format.

    Args:
        suffix: of the file, in lower case with its dot.
        crs: the CRS written, anything pyproj reads.

    Returns:
        None if the format stores none, or cannot write this one at all.
    """
    written = pyproj.CRS.from_user_input(crs)
    try:
        with quiet():
            if suffix in _RASTERS:
                return _from_raster(written)
            if suffix in _DRIVERS:
                return _from_layer(_DRIVERS[suffix], written)
            return pyproj.CRS.from_json(written.to_json())
    except (RasterioError, ProjError, OSError, RuntimeError, ValueError):
        return None


def _from_raster(crs: pyproj.CRS) -> pyproj.CRS | None:
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
        with memory.open(**profile, crs=rasterio.CRS.from_wkt(crs.to_wkt())):
            pass
        with memory.open() as dataset:
            return None if dataset.crs is None else pyproj.CRS.from_wkt(dataset.crs.to_wkt())


def _from_layer(driver: str, crs: pyproj.CRS) -> pyproj.CRS | None:
    memory = io.BytesIO()
    nothing = geopandas.GeoDataFrame(geometry=[], crs=crs)
    pyogrio.write_dataframe(nothing, memory, driver=driver, geometry_type="Polygon")
    found = pyogrio.read_info(memory.getvalue())["crs"]
    return None if found is None else pyproj.CRS.from_user_input(found)


def same_crs(one: Any, other: Any, at: tuple[float, float] = (0.0, 0.0)) -> bool:
    """Whether two CRSs give a place the same coordinates, whatever their names.

    Args:
        one: anything pyproj reads.
        other: the same.
        at: coordinates, in the first CRS, of the place where they are compared.
    """
    first, second = (pyproj.CRS.from_user_input(crs) for crs in (one, other))
    if first.equals(second, ignore_axis_order=True):
        return True
    units = [[axis.unit_conversion_factor for axis in crs.axis_info] for crs in (first, second)]
    if units[0] != units[1] or first.is_geographic != second.is_geographic:
        return False
    # local planes, not related to the Earth
    if first.geodetic_crs is None or second.geodetic_crs is None:
        return first.geodetic_crs is None and second.geodetic_crs is None
    bodies = [crs.ellipsoid for crs in (first, second)]
    axes = [(body.semi_major_metre, body.semi_minor_metre) for body in bodies if body is not None]
    if len(axes) < 2 or not np.allclose(axes[0], axes[1], rtol=1e-9, atol=0):
        return False
    there, here = (_degrees(crs, at) for crs in (first, second))
    return bool(np.allclose(there, here, rtol=0, atol=TOLERANCE_DEG, equal_nan=False))


def _degrees(crs: pyproj.CRS, at: tuple[float, float]) -> Any:
    """Longitudes and latitudes, on the CRS's own datum, of points around a place."""
    try:
        own = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    except ProjError:
        return np.full((2, 3), np.nan)
    step = 1.0 if crs.is_geographic else 1000.0
    return np.array(own.transform(*(np.array(at)[:, None] + step * _AROUND.T)))


def reaches_lonlat(crs: Any, at: tuple[float, float]) -> bool:
    """Whether a CRS can be transformed to longitude and latitude on the Earth at a place."""
    try:
        way = pyproj.Transformer.from_crs(crs, LONLAT, always_xy=True)
        return bool(np.isfinite(way.transform(*at)).all())
    except ProjError:
        return False


def check_crs(path: Path, crs: Any, at: tuple[float, float]) -> None:
    """Check before any work that a file will be read with the CRS it was written in.

    Args:
        path: of the output; pictures and files in pixel coordinates have no CRS.
        crs: of the result, or None.
        at: a place in the result, such as its centre.

    Raises:
        UsageError: otherwise.
    """
    suffix = path.suffix.lower()
    if crs is None or suffix == ".png":
        return
    if suffix == ".geojson":
        if not reaches_lonlat(crs, at):
            raise UsageError(
                f"expected a CRS on the Earth for {path}, as GeoJSON is in longitude and latitude "
                f"on WGS 84, found {crs_name(crs)}, without a conversion to it; write .gpkg or "
                ".parquet"
            )
        return
    found = read_back(suffix, crs)
    if found is None or not same_crs(crs, found, at):
        what = "none at all" if found is None else f"another: {crs_name(found)}"
        raise UsageError(
            f"expected a format that can hold {crs_name(crs)}, found that {path} would be read "
            f"with {what}; write .parquet, or reproject the images first (gdalwarp -t_srs)"
        )
