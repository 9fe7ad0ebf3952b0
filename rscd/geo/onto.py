"""Rasters of labels, predictions and images on a pixel grid, read box by box."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from rscd.base.place import gdal_name
from rscd.base.types import BoolArray
from rscd.geo.bands import usable_pixels
from rscd.geo.grid import whole_pixel_offset
from rscd.geo.remote import persistently
from rscd.geo.settings import input_files, unplaced
from rscd.geo.source import Source, close_handles, raster_border, warped
from rscd.geo.tiles import Box

BandReader = Callable[[Box], tuple[NDArray[Any], BoolArray]]
"""Box of the grid -> (C,h,w) stored values, (h,w) whether the raster covers the pixel."""


@contextmanager
def opened(source: Source) -> Iterator[Any]:
    """The dataset of a source.

    Raises:
        SceneError: when it cannot be opened any more.
    """
    where = source.remote or source.path
    with input_files(where):
        with raster_border(source.date, where), unplaced():
            dataset = rasterio.open(gdal_name(source.path))
        with dataset:
            yield dataset


@contextmanager
def raster_on(
    source: Source, grid: GeoBox, resampling: Resampling = Resampling.nearest
) -> Iterator[BandReader]:
    """Read a raster on a grid: as it is where pixels coincide, else resampled.

    Nodata is a value among others here: what it means is for `rscd.geo.labels` to say.

    Args:
        source: of `rscd.geo.source.inspect`.
        grid: the pixels wanted; those outside the raster are not covered.
        resampling: how, where pixels do not coincide.

    Raises:
        SceneError: when the file turns out to be damaged.
    """
    if source.remote is not None:
        yield partial(_read_remote, source, source.remote, grid, resampling)
        return
    with _raster_on(source, grid, resampling) as read:
        yield read


def _read_remote(
    source: Source, remote: str, grid: GeoBox, resampling: Resampling, box: Box
) -> tuple[NDArray[Any], BoolArray]:
    """A box of a raster that is opened anew, see `rscd.geo.source`."""

    def read() -> tuple[NDArray[Any], BoolArray]:
        with _raster_on(source, grid, resampling) as at:
            return at(box)

    with raster_border(source.date, remote), input_files(remote):
        return persistently((source.path, *source.files), read, close_handles)


@contextmanager
def _raster_on(source: Source, grid: GeoBox, resampling: Resampling) -> Iterator[BandReader]:
    offset = whole_pixel_offset(grid, source.grid)
    with ExitStack() as stack:
        dataset = stack.enter_context(opened(source))
        if offset is None:
            with raster_border(source.date, source.path), unplaced():
                onto = warped(dataset, source, grid, resampling, src_nodata=None, nodata=None)
            stack.enter_context(onto)

        def read(box: Box) -> tuple[NDArray[Any], BoolArray]:
            with raster_border(source.date, source.remote or source.path), unplaced():
                if offset is None:
                    window = Window(box.col, box.row, box.width, box.height)
                    values = onto.read(list(source.bands), window=window)
                    return values, onto.read(source.alpha or onto.count, window=window) != 0
                return _read_direct(dataset, source, offset, box)

        yield read


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
        usable = usable_pixels(
            dataset,
            values,
            alpha=source.alpha,
            nodata=None,
            own_mask=source.has_mask,
            window=window,
        )
        covered[here] = True if usable is None else usable
    return values, covered
