"""Any raster as an 8-bit RGB image, which segmenters are trained on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import DataError
from rscd.base.types import BoolArray, ByteArray

PERCENTILES = (1.0, 99.0)
"""Percentiles of the whole image, band by band, so that windows of one image look alike."""


Limits = list[tuple[float, float]]
"""(low, high) of each band, mapped to 0 and 255."""


def to_rgb8(
    pixels: NDArray[Any], valid: BoolArray | None = None, limits: Limits | None = None
) -> tuple[ByteArray, Limits | None]:
    """Three bands as uint8.

    Args:
        pixels: (C,H,W) with C = 1 (shown grey) or at least 3 (the first three are red, green,
            blue).
        valid: (H,W), False where there is no image; shown black.
        limits: those of the image that this is a part of; default its own.

    Returns:
        (H,W,3) uint8, and the limits (low, high) of each band that were mapped to 0 and 255; None
        if the values are uint8 already and therefore unchanged.

    Raises:
        DataError: for two bands, or no finite value.
    """
    if len(pixels) == 2:
        raise DataError(
            "expected images with red, green and blue (or one grey band), found 2 bands; choose "
            "with --bands"
        )
    bands = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
    if bands.dtype == np.uint8:
        limits = None
    else:
        limits = limits or [_limits(band, valid) for band in bands]
        bands = np.stack([_stretched(b, *limit) for b, limit in zip(bands, limits, strict=True)])
    rgb = np.ascontiguousarray(np.moveaxis(bands, 0, 2))
    if valid is not None:
        rgb[~valid] = 0
    return rgb, limits


def _limits(band: NDArray[Any], valid: BoolArray | None) -> tuple[float, float]:
    known = np.isfinite(band) if valid is None else np.isfinite(band) & valid
    if not known.any():
        return 0.0, 1.0
    low, high = np.percentile(band[known], PERCENTILES)
    return float(low), float(high)


def _stretched(band: NDArray[Any], low: float, high: float) -> ByteArray:
    scaled = (np.nan_to_num(band.astype(np.float32)) - low) * (255 / max(high - low, 1e-12))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)
