"""Band metadata of a raster: alpha band, colours, units, nodata.

Read in one place for scenes, folders of pairs and labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

from rscd.base.types import BoolArray

RGB = ("red", "green", "blue")
COLOURS = frozenset(
    {*RGB, "coastal", "rededge", "nir", "swir", "mwir", "lwir", "tir", "other_ir", "yellow", "pan"}
)
"""Colour interpretations that name a part of the spectrum; no others do."""

Conversion = tuple[tuple[float, float], ...]
"""Per band (gain, bias): stored value x gain + bias."""


@dataclass(frozen=True)
class Bands:
    """Band metadata of a file; every field has one entry per band, in file order."""

    colours: tuple[str, ...]
    """Part of the spectrum, empty where the file does not state it."""
    units: tuple[tuple[float, float], ...]
    """(scale, offset): physical value = stored value x scale + offset."""
    alpha: int | None
    """1-based number of the alpha band."""

    @classmethod
    def of(cls, dataset: Any) -> "Bands":
        """Read from an open dataset."""
        kinds = dataset.colorinterp
        alpha = next((i for i, kind in enumerate(kinds, 1) if kind == ColorInterp.alpha), None)
        return cls(
            tuple(kind.name if kind.name in COLOURS else "" for kind in kinds),
            tuple(
                (float(s) if math.isfinite(s) and s else 1.0, float(o) if math.isfinite(o) else 0.0)
                for s, o in zip(dataset.scales, dataset.offsets, strict=True)
            ),
            alpha if len(kinds) > 1 else None,
        )

    @property
    def data(self) -> tuple[int, ...]:
        """1-based numbers of all bands but alpha, in the order of the file."""
        return tuple(i for i in range(1, len(self.colours) + 1) if i != self.alpha)

    def colours_of(self, bands: Sequence[int]) -> tuple[str, ...]:
        """Colours of bands by their 1-based numbers."""
        return tuple(self.colours[band - 1] for band in bands)

    def by_colour(self) -> tuple[int, ...] | None:
        """`data` with red, green and blue first; None unless the file names each exactly once."""
        colours = self.colours_of(self.data)
        if any(colours.count(name) != 1 for name in RGB):
            return None
        first = [self.data[colours.index(name)] for name in RGB]
        return (*first, *(band for band in self.data if band not in first))


def pair_order(t1: Bands, t2: Bands) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The bands of two dates without alpha, ordered so that positions hold the same colour.

    Returns:
        1-based numbers, red, green and blue first where both files name them; else in file order.
    """
    first, second = t1.by_colour(), t2.by_colour()
    if first is None or second is None:
        return t1.data, t2.data
    return first, second


def order_problem(
    t1: Bands, t2: Bands, bands: tuple[tuple[int, ...], tuple[int, ...]]
) -> str | None:
    """Describe a mismatch between the colours of the compared bands; None if there is none.

    Args:
        t1: bands of the earlier date.
        t2: bands of the later date.
        bands: 1-based numbers of the bands read from each.
    """
    colours = t1.colours_of(bands[0]), t2.colours_of(bands[1])
    for place, (first, second) in enumerate(zip(*colours, strict=False)):
        if first and second and first != second:
            return (
                f"expected the same colours at both dates, found {first} in band "
                f"{bands[0][place]} of t1 and {second} in band {bands[1][place]} of t2; write one "
                "of them in the order of the other (gdal_translate -b) or choose --bands"
            )
    for name, other, own, read in (("t1", "t2", t1, bands[0]), ("t2", "t1", t2, bands[1])):
        wanted = own.by_colour()
        if wanted is not None and read == own.data != wanted:
            order = ",".join(map(str, wanted[:3]))
            return (
                f"expected both files to name their red, green and blue bands, found that "
                f"{name} names bands {order} and {other} none; both are read in the order of the "
                f"file: give --bands {order} if that is right for both"
            )
    return None


def conversion(
    t1: Sequence[tuple[float, float]], t2: Sequence[tuple[float, float]]
) -> Conversion | None:
    """Conversion of stored values of t2 to the units of t1, where the files declare different ones.

    Args:
        t1: (scale, offset) by band.
        t2: likewise, for the bands at the same positions.

    Returns:
        None where the units are the same.
    """
    if tuple(t1) == tuple(t2):
        return None
    return tuple(
        (scale2 / scale1, (offset2 - offset1) / scale1)
        for (scale1, offset1), (scale2, offset2) in zip(t1, t2, strict=True)
    )


def units_text(units: Sequence[tuple[float, float]]) -> str:
    """``scale 0.0001, offset -0.1``, of the first band."""
    scale, offset = units[0]
    return "neither" if (scale, offset) == (1.0, 0.0) else f"scale {scale:g}, offset {offset:g}"


def converted(values: NDArray[Any], by: Conversion | None) -> NDArray[Any]:
    """(C,...) values in other units, as float32; unchanged if there is no conversion."""
    if by is None:
        return values
    shape = (-1, *[1] * (values.ndim - 1))
    gain, bias = (np.array(part).reshape(shape) for part in zip(*by, strict=True))
    found: NDArray[np.float32] = (values * gain + bias).astype(np.float32)
    return found


def has_own_mask(dataset: Any) -> bool:
    """Whether a file has a mask (internal or .msk) that is not an alpha band."""
    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def usable_pixels(
    dataset: Any,
    values: NDArray[Any],
    *,
    alpha: int | None,
    nodata: float | None,
    own_mask: bool,
    window: Any = None,
) -> BoolArray | None:
    """Where a raster holds data, by its alpha band, else its mask, else its nodata value.

    Args:
        dataset: open.
        values: (C,h,w) stored values of the bands that are read.
        alpha: 1-based number of the alpha band, None where it is read as data.
        nodata: a pixel with this value in every band holds no data.
        own_mask: see `has_own_mask`.
        window: the part of the raster that ``values`` covers.

    Returns:
        (h,w); None where nothing is declared.
    """
    found: BoolArray | None = None
    if alpha is not None:
        found = dataset.read(alpha, window=window, out_shape=values.shape[1:]) != 0
    elif own_mask:
        found = dataset.read_masks(1, window=window, out_shape=values.shape[1:]) != 0
    elif nodata is not None and not np.isnan(nodata):
        found = (values != nodata).any(axis=0)
    return found
