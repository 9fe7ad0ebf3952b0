"""Misregistration of two dates, estimated from a few windows of the scene.

The edges of both dates are correlated in each window and the correlations summed, so that unchanged
objects dominate, wherever they are. Edges have a direction and a limited strength, so that neither
light nor a few bright roofs outweigh the rest. A shift is accepted only if its peak is far above
all others and both halves of the windows show it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from rscd.base.types import BoolArray, FloatArray
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box

SIDE_PX = 256
"""Side of a window; in smaller scenes half of the shorter side."""
SMALLEST_PX = 64
PER_SIDE = 4
"""Most windows along each side of the scene."""
REACH_PX = 24
"""Largest shift that is searched."""
LEAST_VALID = 0.6
"""Fraction of a window that both dates must cover."""
LEAST_WINDOWS = 2

CLEAR = 9.0
"""Least height of an accepted peak, in standard deviations of the correlation. Of 100
real pairs (LEVIR-CD, FOTBCD, DSIFN-CD, NAIP, Landsat) all peaks of this height were at a shift that
mutual information found too; below 8, some were not."""
VOTE = 3.0
"""The same for a single window that agrees."""
AGREE_PX = 1.5
"""Largest distance between the peak of all windows and those of either half."""
WORTH_SAYING_PX = 1.5
"""Shifts above this give a warning; registration is rarely better than one pixel."""

SMOOTH_PX = 1.0
STRONG_PERCENTILE = 90
"""Percentile to which edge strength is limited."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shift:
    """Shift of t2 relative to t1."""

    cols: float
    """Pixels by which t2 is to the right of t1."""
    rows: float
    """Pixels by which t2 is below t1."""
    windows: int
    """Number of windows used."""
    agreeing: int
    """Number of these windows that show the shift."""

    @property
    def pixels(self) -> float:
        """Length of the shift."""
        return float(np.hypot(self.cols, self.rows))


def estimate_shift(pair: ScenePair) -> Shift | None:
    """The shift between the dates, from a few windows of the whole scene.

    Args:
        pair: on one grid; at most `PER_SIDE` x `PER_SIDE` windows of it are read.

    Returns:
        None if neither a shift nor its absence is clear: too little is visible at both dates, or
        too much changed.
    """
    surfaces = []
    for image, valid in sample_windows(pair):
        if valid.mean() >= LEAST_VALID and (found := correlation(image, valid)) is not None:
            surfaces.append(found)
    if len(surfaces) < LEAST_WINDOWS:
        return None
    stack = np.stack(surfaces)
    place, height = _peak(stack)
    halves = [_peak(stack[start::2])[0] for start in (0, 1)]
    apart = max(np.hypot(*np.subtract(half, place)) for half in halves)
    if height < CLEAR or apart > AGREE_PX:
        return None
    row, col = place
    around = stack[:, max(0, row - 1) : row + 2, max(0, col - 1) : col + 2].max(axis=(1, 2))
    total = stack.sum(axis=0)
    return Shift(
        cols=col - REACH_PX + _vertex(total[row], col),
        rows=row - REACH_PX + _vertex(total[:, col], row),
        windows=len(surfaces),
        agreeing=int(np.count_nonzero(around > VOTE)),
    )


def warn_of_shift(pair: ScenePair) -> Shift | None:
    """Estimate the shift between the dates, and warn if it is large."""
    shift = estimate_shift(pair)
    if shift is not None and shift.pixels > WORTH_SAYING_PX:
        log.warning(
            "t2 seems to be shifted %.1f pixels to the %s and %.1f %s of t1 (seen in %d of %d "
            "windows): unchanged objects will appear as change; register the images first, for "
            "example with AROSICS",
            *(abs(shift.cols), "right" if shift.cols > 0 else "left"),
            *(abs(shift.rows), "below" if shift.rows > 0 else "above"),
            *(shift.agreeing, shift.windows),
        )
    return shift


def _peak(stack: FloatArray) -> tuple[tuple[int, int], float]:
    """Position of the maximum of the summed surfaces, and its height in standard deviations."""
    total = stack.sum(axis=0)
    row, col = np.unravel_index(np.argmax(total), total.shape)
    return (int(row), int(col)), float((total[row, col] - total.mean()) / total.std())


def sample_windows(pair: ScenePair) -> Iterator[tuple[FloatArray, BoolArray]]:
    """(2,C,h,w) values and (h,w) validity of windows spread evenly over the whole scene."""
    scene = pair.whole
    return map(scene.context, sample_boxes(scene.shape_hw))


def sample_boxes(shape_hw: tuple[int, int]) -> list[Box]:
    """Windows spread evenly over a scene; none if it is too small."""
    side = min(SIDE_PX, max(SMALLEST_PX, min(shape_hw) // 2))
    if min(shape_hw) < side:
        return []
    starts = [
        np.unique(np.linspace(0, size - side, max(1, min(PER_SIDE, size * 2 // side - 1))).round())
        for size in shape_hw
    ]
    return [Box(int(row), int(col), side, side) for row in starts[0] for col in starts[1]]


def correlation(image: FloatArray, valid: BoolArray) -> FloatArray | None:
    """Correlation of one window of t2 with t1 at every shift of up to `REACH_PX`.

    Args:
        image: (2,C,h,w) raw values.
        valid: (h,w).

    Returns:
        (2 REACH_PX + 1, 2 REACH_PX + 1) of mean 0 and standard deviation 1, with zero shift at the
        centre; None if a date is blank.
    """
    height, width = valid.shape
    seen = ndimage.binary_erosion(valid, iterations=3, border_value=1)
    seen = seen * np.outer(np.hanning(height), np.hanning(width))
    first, second = (fft.fft2(_edges(date) * seen) for date in image)
    cross = np.conj(first) * second
    # a compromise between correlation, whose peak is broad, and phase correlation, which is noisy
    cross /= np.sqrt(np.maximum(np.abs(cross), np.finfo(float).tiny))
    surface = fft.fftshift(fft.ifft2(cross).real)
    rows, cols = (slice(size // 2 - REACH_PX, size // 2 + REACH_PX + 1) for size in valid.shape)
    near = surface[rows, cols]
    spread = near.std()
    return (near - near.mean()) / spread if spread > 0 else None


def _edges(date: FloatArray) -> NDArray[np.complex128]:
    """(C,h,w) values -> (h,w) complex gradient of limited strength."""
    gray = ndimage.gaussian_filter(date.mean(axis=0), SMOOTH_PX)
    gradient = ndimage.sobel(gray, axis=1) + 1j * ndimage.sobel(gray, axis=0)
    length = np.abs(gradient)
    limit = np.percentile(length, STRONG_PERCENTILE)
    shortened: NDArray[np.complex128] = gradient * (
        limit / np.maximum(length, max(limit, np.finfo(np.float32).tiny))
    )
    return shortened


def _vertex(values: FloatArray, at: int) -> float:
    """Sub-pixel offset of the peak of a parabola through a maximum and its neighbours."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
