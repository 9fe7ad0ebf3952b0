"""Rasters of any size, read in strips."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError
from rscd.base.types import BoolArray, ShapeHW
from rscd.data.images import (
    IMAGE_SUFFIXES,
    PLAIN_SUFFIXES,
    check_end,
    fits_png,
    open_raster,
    png_holds,
    read_picture,
)

SMALL_PIXELS = 4096 * 4096
"""Up to this size a PNG or JPEG is decoded at once; GDAL streams larger ones by lines."""

WORDS = {
    "t1": {"before", "pre", "2012", "t1", "a", "im1", "image1", "time1"},
    "t2": {"after", "post", "2016", "t2", "b", "im2", "image2", "time2"},
    "mask": {"label", "mask", "change", "gt", "out", "cm"},
}


@dataclass(frozen=True, eq=False)
class Source:
    """One raster read in full-width strips: decoded pixels, or an open GDAL dataset."""

    shape_hw: ShapeHW
    pixels: NDArray[Any] | None = None
    """(C,H,W) of a small file, without its alpha band."""
    valid: BoolArray | None = None
    """(H,W) from that band, if there is one."""
    dataset: rasterio.DatasetReader | None = None
    crs: rasterio.crs.CRS | None = None
    transform: rasterio.Affine | None = None
    nodata: float | None = None
    colorinterp: tuple[Any, ...] = ()
    units: tuple[tuple[float, float], ...] = ()
    """(scale, offset) by band, empty if none is declared."""
    fits_png: bool = True
    """True if a PNG can store bands and dtype without loss."""

    @property
    def georeferenced(self) -> bool:
        """True if the raster has a transform."""
        return self.transform is not None

    def tile_transform(self, column: int, row: int) -> rasterio.Affine | None:
        """The transform of a tile with upper-left pixel (column, row)."""
        if self.transform is None:
            return None
        left, top = self.transform @ (column, row)
        t = self.transform
        return rasterio.Affine(t.a, t.b, left, t.d, t.e, top)

    def strip(self, row: int, height: int) -> NDArray[Any]:
        """(C, height, W) starting at a row, in the file's dtype.

        Raises:
            DataError: if the file is damaged there.
        """
        if self.pixels is not None:
            return self.pixels[:, row : row + height]
        dataset = self.dataset
        assert dataset is not None  # open_source sets one of the two
        window = Window(0, row, self.shape_hw[1], height)

        def to_error(error: Exception) -> DataError:
            return DataError(
                f"{shown(dataset.name)}: rows {row} to {row + height} cannot be read "
                f"({reason(error)}); copy or download the file again"
            )

        with border(to_error):
            return np.asarray(dataset.read(window=window))


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a raster for reading in strips.

    Raises:
        DataError: if the file cannot be read.
    """
    plain = path.suffix.lower() in PLAIN_SUFFIXES
    if plain:
        check_end(path)
    with open_raster(path) as dataset:
        if plain and dataset.width * dataset.height <= SMALL_PIXELS:
            picture = read_picture(path)
            shape, fits = picture.shape_hw, fits_png(picture.pixels)
            yield Source(shape, picture.pixels, picture.valid, fits_png=fits)
            return
        identity = dataset.transform.is_identity
        yield Source(
            (dataset.height, dataset.width),
            dataset=dataset,
            crs=dataset.crs,
            transform=None if identity else dataset.transform,
            nodata=dataset.nodata,
            colorinterp=dataset.colorinterp,
            units=tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            fits_png=png_holds(dataset.count, dataset.dtypes[0]),
        )


def shape_of(path: Path) -> ShapeHW:
    """(height, width) of a raster or picture, from its header."""
    with open_raster(path) as dataset:
        return dataset.height, dataset.width


def find_rasters(folder: Path) -> tuple[Path, Path, Path]:
    """The rasters of t1, t2 and the change label of one big pair, identified by name.

    WHU-CD comes as ``before/before.tif``, ``after/after.tif``, ``change label/change_label.tif``;
    labels of single dates (``before/before_label.tif``) are ignored.

    Raises:
        DataError: if there is not exactly one file for each.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected the folder of the set as distributed, found none there"
        )
    found: dict[str, list[Path]] = {"t1": [], "t2": [], "mask": []}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            kind = _kind(path.relative_to(folder))
            if kind:
                found[kind].append(path)
    if any(len(paths) != 1 for paths in found.values()):
        seen = "; ".join(f"{k}: {', '.join(p.name for p in v) or 'none'}" for k, v in found.items())
        raise DataError(
            f"{folder}: expected one raster before, one after and one change label, found {seen}; "
            "leave only these three there, or name them in Python: prepare(files=(t1, t2, label))"
        )
    return found["t1"][0], found["t2"][0], found["mask"][0]


def _kind(path: Path) -> str:
    words = set(re.split(r"[^a-z0-9]+", path.with_suffix("").as_posix().lower()))
    kinds = [kind for kind, known in WORDS.items() if words & known]
    return kinds[0] if len(kinds) == 1 else ""
