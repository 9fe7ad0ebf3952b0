"""Texture as a function of position: the same world coordinates give the same value.

Lattice values come from an integer hash, so that a scene rendered tile by tile has no seams and no
repetition, whatever its size.
"""

import cv2
import numpy as np

from rscd.base.types import FloatArray, ShapeHW


def lattice(seed: int, col: int, row: int, shape_hw: ShapeHW) -> FloatArray:
    """White noise on the integer lattice of the plane.

    Args:
        seed: identifies the noise.
        col: first lattice column, may be negative.
        row: first lattice row, may be negative.
        shape_hw: number of lattice rows and columns.

    Returns:
        (h,w) float32, uniform in [-1,1). The hash is the "lowbias32" finaliser of
        C. Wellons, Prospecting for hash functions (2018, public domain).
    """
    columns = np.arange(col, col + shape_hw[1], dtype=np.int64).astype(np.uint32)
    rows = np.arange(row, row + shape_hw[0], dtype=np.int64).astype(np.uint32)
    key = np.uint32((seed * 0x27D4EB2F + 0x165667B1) & 0xFFFFFFFF)
    value = (columns * np.uint32(0x9E3779B1) ^ key)[None, :] + (rows * np.uint32(0x85EBCA77))[
        :, None
    ]
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    unit: FloatArray = value.astype(np.float32)
    unit *= np.float32(2.0 / 4294967296.0)
    unit -= np.float32(1.0)
    return unit


def smooth_noise(
    seed: int, col: int, row: int, shape_hw: ShapeHW, wavelength_px: float
) -> FloatArray:
    """Band-limited noise: a lattice of one value per ``wavelength_px``, interpolated bicubically.

    Args:
        seed: identifies the noise.
        col: first pixel column in the world's pixel grid.
        row: first pixel row in the world's pixel grid.
        shape_hw: size of the window in pixels.
        wavelength_px: lattice spacing, rounded to whole pixels (one or more).

    Returns:
        (h,w) float32, about [-1,1], zero mean; equal wherever two windows overlap.
    """
    step = max(round(wavelength_px), 1)
    if step == 1:
        return lattice(seed, col, row, shape_hw)
    # two cells of margin on either side for the cubic kernel
    first_col, first_row = col // step - 2, row // step - 2
    columns = (col + shape_hw[1] - 1) // step + 3 - first_col
    rows = (row + shape_hw[0] - 1) // step + 3 - first_row
    coarse = lattice(seed, first_col, first_row, (rows, columns))
    top, left = row - first_row * step, col - first_col * step
    if step < 6:  # OpenCV is faster for fine lattices, two matrix products for coarse ones
        fine = cv2.resize(coarse, (columns * step, rows * step), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(fine[top : top + shape_hw[0], left : left + shape_hw[1]])
    down = _cubic_weights(top, shape_hw[0], step, rows)
    across = _cubic_weights(left, shape_hw[1], step, columns)
    return np.asarray(down @ coarse @ across.T, np.float32)


def _cubic_weights(start: int, count: int, step: int, cells: int) -> FloatArray:
    """(count,cells) weights of Keys' cubic convolution (a = -0.75, as OpenCV) at pixel centres."""
    at = (np.arange(start, start + count) + 0.5) / step - 0.5
    far = np.abs(at[:, None] - np.arange(cells)[None, :])
    near = (1.25 * far - 2.25) * far * far + 1
    tail = ((-0.75 * far + 3.75) * far - 6) * far + 3
    return np.where(far <= 1, near, np.where(far < 2, tail, 0)).astype(np.float32)
