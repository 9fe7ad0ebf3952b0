"""Bilinear resampling of arrays, antialiased where it shrinks."""

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from rscd.base.types import FloatArray, ShapeHW


def resampled(planes: FloatArray, shape_hw: ShapeHW) -> FloatArray:
    """(...,H,W) -> (...,h,w), pixel areas aligned.

    Each output pixel is a mean under a triangle as wide as two pixels of the coarser grid, like
    ``F.interpolate(mode="bilinear", antialias=True)`` of torch and ``Image.resize`` of Pillow.

    Args:
        planes: float32.
        shape_hw: (h,w).
    """
    *leading, height, width = planes.shape
    down, across = _weights(height, shape_hw[0]), _weights(width, shape_hw[1])
    found = np.empty((*leading, *shape_hw), np.float32)
    flat = found.reshape(-1, *shape_hw)
    for number, plane in enumerate(planes.reshape(-1, height, width)):
        flat[number] = (across @ (down @ plane).T).T
    return found


@lru_cache(maxsize=32)
def _weights(n_in: int, n_out: int) -> csr_array:
    """(n_out,n_in) float32: how much each pixel of a line counts in each resampled one."""
    scale = n_in / n_out
    reach = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(int), 0)
    last = np.minimum((centre + reach + 0.5).astype(int), n_in)
    place = first[:, None] + np.arange((last - first).max())
    weight = np.maximum(1 - np.abs(place + 0.5 - centre[:, None]) / reach, 0)
    weight[place >= last[:, None]] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    used = weight > 0
    ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return csr_array((weight[used].astype(np.float32), place[used], ends), shape=(n_out, n_in))
