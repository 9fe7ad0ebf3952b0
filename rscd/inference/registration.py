"""Whether two dates lie on each other: a shift is estimated from a few windows of the scene.

The edges of both dates are correlated in each window, and the correlations added up, so that what
did not change decides, wherever it is. Edges have a direction and a limited strength: neither light
nor a few bright roofs outweigh the rest. A shift is believed only where its peak stands far above
all others and both halves of the windows show it.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from rscd.base.types import BoolArray, FloatArray
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box

SIDE_PX = 256
"""Of a window; in smaller scenes half of the shorter side."""
SMALLEST_PX = 64
PER_SIDE = 4
"""Windows along each side of the scene, at most."""
REACH_PX = 24
"""Largest shift that is looked for."""
LEAST_VALID = 0.6
"""Share of a window that both dates must cover."""
LEAST_WINDOWS = 2

CLEAR = 9.0
"""Height of the peak, in standard deviations of the correlation, from which it is believed. Of 100
real pairs (LEVIR-CD, FOTBCD, DSIFN-CD, NAIP, Landsat) all peaks of this height were at a shift that
mutual information found too; below 8, some were not."""
VOTE = 3.0
"""The same for one window that is said to agree."""
AGREE_PX = 1.5
"""Peaks of both halves of the windows lie no further from that of all."""
WORTH_SAYING_PX = 1.5
"""Shifts above this are warned of: to a pixel, registration is as good as it gets."""

SMOOTH_PX = 1.0
STRONG_PERCENTILE = 90
"""No edge counts more than one of this percentile."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shift:
    """Where t2 lies against t1."""

    cols: float
    """Pixels of the grid that t2 lies to the right of t1."""
    rows: float
    """Likewise further down."""
    windows: int
    """Looked at."""
    agreeing: int
    """Of them, windows in which it shows."""

    @property
    def pixels(self) -> float:
        """Its length."""
        return float(np.hypot(self.cols, self.rows))

    @property
    def words(self) -> str:
        """A warning in one line."""
        across = f"{abs(self.cols):.1f} pixels to the {'right' if self.cols > 0 else 'left'}"
        along = f"{abs(self.rows):.1f} {'below' if self.rows > 0 else 'above'}"
        return (
            f"t2 seems to lie {across} and {along} of where t1 lies (seen in {self.agreeing} of "
            f"{self.windows} windows): what did not change will be taken for change; register the "
            "images first, for example with AROSICS"
        )


def estimate_shift(pair: ScenePair) -> Shift | None:
    """The shift between the dates, from a few windows of the whole scene.

    Args:
        pair: on one grid; at most `PER_SIDE` x `PER_SIDE` windows of it are read.

    Returns:
        None where no shift, and not its absence either, stands out: too little is seen at both
        dates, or too much changed.
    """
    scene = pair.whole
    surfaces = []
    for box in sample_boxes(scene.shape_hw):
        image, valid = scene.context(box)
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
    """Estimate the shift between the dates, and warn where it is worth saying."""
    shift = estimate_shift(pair)
    if shift is not None and shift.pixels > WORTH_SAYING_PX:
        log.warning("%s", shift.words)
    return shift


def _peak(stack: FloatArray) -> tuple[tuple[int, int], float]:
    """Place of the maximum of the summed surfaces, and its height in standard deviations."""
    total = stack.sum(axis=0)
    row, col = np.unravel_index(np.argmax(total), total.shape)
    return (int(row), int(col)), float((total[row, col] - total.mean()) / total.std())


def sample_boxes(shape_hw: tuple[int, int]) -> list[Box]:
    """Windows spread evenly over a scene; none where it is too small."""
    side = min(SIDE_PX, max(SMALLEST_PX, min(shape_hw) // 2))
    if min(shape_hw) < side:
        return []
    starts = [
        np.unique(np.linspace(0, size - side, max(1, min(PER_SIDE, size * 2 // side - 1))).round())
        for size in shape_hw
    ]
    return [Box(int(row), int(col), side, side) for row in starts[0] for col in starts[1]]


def correlation(image: FloatArray, valid: BoolArray) -> FloatArray | None:
    """How well one window of t2 fits t1 at every shift of up to `REACH_PX`.

    Args:
        image: (2,C,h,w) raw values.
        valid: (h,w).

    Returns:
        (2 REACH_PX + 1, 2 REACH_PX + 1) of mean 0 and standard deviation 1, no shift in the middle;
        None where a date shows nothing.
    """
    height, width = valid.shape
    seen = ndimage.binary_erosion(valid, iterations=3, border_value=1)
    seen = seen * np.outer(np.hanning(height), np.hanning(width))
    first, second = (fft.fft2(_edges(date) * seen) for date in image)
    cross = np.conj(first) * second
    # halfway between correlation, which is broad, and phase correlation, which hears noise
    cross /= np.sqrt(np.maximum(np.abs(cross), np.finfo(float).tiny))
    surface = fft.fftshift(fft.ifft2(cross).real)
    rows, cols = (slice(size // 2 - REACH_PX, size // 2 + REACH_PX + 1) for size in valid.shape)
    near = surface[rows, cols]
    spread = near.std()
    return (near - near.mean()) / spread if spread > 0 else None


def _edges(date: FloatArray) -> NDArray[np.complex128]:
    """(C,h,w) values -> (h,w) complex gradient; no edge counts more than a strong one."""
    gray = ndimage.gaussian_filter(date.mean(axis=0), SMOOTH_PX)
    gradient = ndimage.sobel(gray, axis=1) + 1j * ndimage.sobel(gray, axis=0)
    length = np.abs(gradient)
    limit = np.percentile(length, STRONG_PERCENTILE)
    shortened: NDArray[np.complex128] = gradient * (
        limit / np.maximum(length, max(limit, np.finfo(np.float32).tiny))
    )
    return shortened


def _vertex(values: FloatArray, at: int) -> float:
    """Where the parabola through a maximum and its neighbours has its top, from there."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
