"""ChangeMap: rasters that prediction writes to disk and export reads, in bounded memory.

The rasters are raw arrays with an ENVI header: the offset of each pixel is known beforehand, so
that a run killed at any moment leaves every finished tile intact and can be resumed; any GDAL tool
opens them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rscd.base.errors import ModelError
from rscd.base.files import write_text
from rscd.base.types import IGNORE, BoolArray, ByteArray, FloatArray, Provenance, ShapeHW
from rscd.geo.grid import shape_hw
from rscd.geo.measure import Ground
from rscd.geo.tiles import Box

STRIP_BYTES = 4 << 20
"""Approximate size of the strips in which rows are streamed."""

PADDING = 16
"""Bytes added after the pixels: GDAL does not recognise a one-byte file as a raster."""

ENVI_TYPES = {"uint8": 1, "float32": 4}


@dataclass(frozen=True)
class RawRaster:
    """A single-band raw raster on disk, written and read by boxes."""

    path: Path
    shape_hw: ShapeHW
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return self.shape_hw[0] * self.shape_hw[1] * np.dtype(self.dtype).itemsize

    def create(self) -> None:
        """Reserve the file's space, so that a full disk is noticed now, and write its header.

        Raises:
            OSError: if there is not enough space.
        """
        with self.path.open("wb") as file:
            size = self.nbytes + PADDING
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        self._write_header()

    def restore(self) -> bool:
        """Reuse a raster that an interrupted run left; false if it is incomplete."""
        if not self.path.is_file() or self.path.stat().st_size != self.nbytes + PADDING:
            return False
        self._write_header()
        return True

    def _write_header(self) -> None:
        height, width = self.shape_hw
        write_text(
            self.path.with_suffix(".hdr"),
            f"ENVI\nsamples = {width}\nlines = {height}\nbands = 1\nheader offset = 0\n"
            f"file type = ENVI Standard\ndata type = {ENVI_TYPES[self.dtype]}\n"
            "interleave = bsq\nbyte order = 0\n",
        )

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Write a box row by row; other boxes may be written in any order."""
        little_endian = np.dtype(self.dtype).newbyteorder("<")
        rows = np.ascontiguousarray(values, little_endian)
        with self.path.open("r+b", buffering=0) as file:
            if box.width == self.shape_hw[1]:
                _write_all(file, rows, self._offset(box.row, 0))
                return
            for i, row in enumerate(rows):
                _write_all(file, row, self._offset(box.row + i, box.col))

    def read(self, box: Box) -> NDArray[Any]:
        """A box as (h,w)."""
        kind = np.dtype(self.dtype).newbyteorder("<")
        whole = np.memmap(self.path, kind, "r", shape=self.shape_hw)
        return np.array(whole[box.slices])

    def strips(self) -> Iterator[tuple[Box, NDArray[Any]]]:
        """Full-width boxes of about `STRIP_BYTES` with their values (h,W), top to bottom."""
        height, width = self.shape_hw
        step = max(1, STRIP_BYTES // (4 * width))
        for row in range(0, height, step):
            box = Box(row, 0, min(step, height - row), width)
            yield box, self.read(box)

    def _offset(self, row: int, col: int) -> int:
        return (row * self.shape_hw[1] + col) * np.dtype(self.dtype).itemsize


def _write_all(file: FileIO, values: NDArray[Any], offset: int) -> None:
    # the system may write less than asked for, and never more than 2 GiB at once
    data = values.data.cast("B")
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


@dataclass(frozen=True)
class ChangeMap:
    """Change probability of a scene on disk, its grid, threshold and provenance."""

    folder: Path
    grid: GeoBox
    threshold: float
    """Change is where the probability is at or above this."""
    provenance: Provenance

    @property
    def prob(self) -> RawRaster:
        """float32 probability in [0,1]; NaN where either date has no data."""
        return RawRaster(self.folder / "prob.img", shape_hw(self.grid), "float32")

    @property
    def mask(self) -> RawRaster:
        """uint8: 0 no change, 1 change, 255 no data. Written by `threshold_mask`."""
        return RawRaster(self.folder / "mask.img", shape_hw(self.grid), "uint8")

    def threshold_mask(self) -> tuple[int, int]:
        """Write the mask from the probabilities, strip by strip.

        Returns:
            Number of changed pixels, number of valid pixels.
        """
        self.mask.create()
        changed = valid = 0
        for strip, prob in self.prob.strips():
            mask = binarise(prob, self.threshold)
            self.mask.write(strip, mask)
            changed += int(np.count_nonzero(mask == 1))
            valid += int(np.count_nonzero(mask != IGNORE))
        return changed, valid

    def changed_area_m2(self, ground: Ground) -> float | None:
        """Square metres on the ground of the changed pixels, strip by strip.

        Args:
            ground: how the pixels of ``grid`` lie on it.

        Returns:
            None if the pixel size is unknown.
        """
        areas = ground.pixel_areas_m2(self.mask.shape_hw)
        total = sum(areas.total(mask == 1, strip.row) for strip, mask in self.mask.strips())
        return total if np.isfinite(total) else None


def check_numbers(values: FloatArray, valid: BoolArray, what: str) -> None:
    """Refuse predictions that are not finite where both dates can be used.

    NaN or infinity would otherwise be mistaken for nodata, or for no change.

    Args:
        values: (...,h,w).
        valid: (h,w), or of the shape of `values`.
        what: source of the values, for the message.

    Raises:
        ModelError: for NaN or infinity at a valid pixel.
    """
    broken = ~np.isfinite(values) & valid
    if broken.any():
        raise ModelError(
            f"expected numbers from {what}, found NaN or infinity at {np.count_nonzero(broken):,} "
            f"of {np.count_nonzero(valid):,} pixels that have data; its weights are broken or the "
            "values of the images lie far beyond those it was made for"
        )


def binarise(prob: FloatArray, threshold: float) -> ByteArray:
    """Probability -> 1 where at or above the threshold (compared in float32), 255 where NaN."""
    # float32(0.7) < 0.7: in float64 a probability equal to the threshold would be below it
    mask = (prob >= np.float32(threshold)).view(np.uint8)
    mask[np.isnan(prob)] = IGNORE
    return mask
