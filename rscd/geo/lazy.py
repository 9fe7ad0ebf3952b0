"""Rasters as labelled arrays whose pixels are read when they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.windows import Window
from xarray.backends import BackendArray
from xarray.core import indexing

from rscd.base.errors import SceneError
from rscd.geo.grid import shape_hw
from rscd.geo.settings import raster_border, unplaced


class _Pixels(BackendArray):
    """First band of a file; opened for each read, so that nothing stays open."""

    def __init__(self, path: Path, kept: object) -> None:
        self.path = path
        self.kept = kept
        with unplaced(), raster_border("result", str(path)), rasterio.open(path) as dataset:
            self.dtype = np.dtype(dataset.dtypes[0])
            self.shape = dataset.shape

    def __getitem__(self, key: Any) -> Any:
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        spans = [
            range(n)[k] if isinstance(k, slice) else range(k, k + 1)
            for k, n in zip(key, self.shape, strict=True)
        ]
        lengths = tuple(map(len, spans))
        if not all(lengths):
            block = np.empty(lengths, self.dtype)
        else:
            (top, bottom), (left, right) = ((min(s), max(s) + 1) for s in spans)
            window = Window(left, top, right - left, bottom - top)
            with unplaced(), rasterio.open(self.path) as dataset:
                block = dataset.read(1, window=window)[:: spans[0].step, :: spans[1].step]
        return np.asarray(block[tuple(slice(None) if isinstance(k, slice) else 0 for k in key)])


def lazy_array(path: Path, grid: GeoBox, name: str, kept: object = None) -> xarray.DataArray:
    """The first band of a raster as an array whose pixels are read when they are asked for.

    Args:
        path: of a raster on ``grid``.
        grid: for the coordinates.
        name: of the array.
        kept: lives as long as the array does.

    Returns:
        (y, x) with the coordinates x, y and, where there is a CRS, spatial_ref.

    Raises:
        SceneError: the file is gone or not on the grid any more.
    """
    pixels = _Pixels(path, kept)
    if pixels.shape != shape_hw(grid):
        raise SceneError(
            f"expected a raster of {shape_hw(grid)} rows and columns in {path}, found "
            f"{pixels.shape}; it was replaced since it was written, predict again"
        )
    data = indexing.LazilyIndexedArray(pixels)
    coords = xr_coords(grid, always_yx=True)
    return xarray.DataArray(xarray.Variable(("y", "x"), data), coords=coords, name=name)
