"""Misregistration of two dates, estimated from a few windows of the scene.

The edges of both dates are correlated in each window and the correlations summed, so that unchanged
objects dominate, wherever they are. Edges have a direction and a limited strength, so that neither
light nor a few bright roofs outweigh the rest. A shift is accepted only if its peak is far above
all others and both halves of the windows show it. For fractions of a pixel every place counts by
how well its edges go together at both dates: shadows, which move with the sun, and what changed
count little there.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from rscd.base.types import BoolArray, Float64Array, FloatArray
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
WORTH_SAYING_PX = 0.5
"""Shifts that are surely above this give a warning."""
SURE = 2.0
"""Standard errors by which they must exceed it."""

ALIKE_PX = 12.0
"""Standard deviation of the weights within which edges are compared."""
ALIKE_POWER = 4
"""Of the correlation of edges, which gives the weight of a place."""
NEAR_PX = 1.5
"""How far the maximum may lie from that in whole pixels."""
FINE_PX = 0.1
PASSES = 2
"""Of the refinement; in the last, both dates lie on each other."""
PARTS = 8
"""Parts of the windows that are left out in turn."""


@dataclass(frozen=True)
class Edging:
    """Which edges of a window count, and how much."""

    smooth_px: float
    """Standard deviation of what smooths them."""
    strong_percentile: float
    """Percentile to which their strength is limited."""
    alike: bool
    """Whether places count by how well their edges go together."""


COARSE = Edging(1.0, 90, alike=False)
"""For whole pixels: dates that do not lie on each other cannot be compared place by place."""
FINE = Edging(0.3, 30, alike=True)
"""For fractions: what is broad and strong, as shadows are, moves with the sun."""

ADVICE = "give --register shift"
"""To users of commands that have this option."""

Spectrum = NDArray[np.complex64]

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
    error: float = 0.0
    """Standard error in pixels, from what the shift is without each part of the windows; what all
    windows share, such as longer shadows at one date, does not show in it."""
    spread: float = 0.0
    """Root mean square distance in pixels of the shifts of single windows from it, each sought
    within `NEAR_PX` along both axes, or where the window shows it as clearly as a scene must."""

    @property
    def pixels(self) -> float:
        """Length of the shift."""
        return float(np.hypot(self.cols, self.rows))


@dataclass(frozen=True)
class Look:
    """What is needed of a window: both dates in grey, with `REACH_PX` more on every side."""

    gray: FloatArray
    """(2, side + 2 reach, side + 2 reach) mean of the bands."""
    valid: BoolArray
    """(side + 2 reach, side + 2 reach)."""

    def cross(self, cols: float = 0, rows: float = 0, edging: Edging = COARSE) -> Spectrum | None:
        """Cross-spectrum of the window of t1 and that of t2 some pixels further on.

        Args:
            cols: to the right, at most `REACH_PX`; fractions are interpolated.
            rows: downwards, likewise.
            edging: which edges count.

        Returns:
            (side,side); None if too little of the window is visible, or a date is blank.
        """
        first = _inner(0, 0)
        second = _inner(round(cols), round(rows))
        valid = self.valid[first] & self.valid[second]
        if valid.mean() < LEAST_VALID:
            return None
        t2 = self.gray[1][second]
        part = rows - round(rows), cols - round(cols)
        if any(part):
            t2 = ndimage.shift(t2, np.negative(part), order=3, mode="nearest")
        return cross_spectrum(self.gray[0][first], t2, valid, edging)


def _inner(cols: int, rows: int) -> tuple[slice, slice]:
    margins = [(REACH_PX + by, by - REACH_PX or None) for by in (rows, cols)]
    return slice(*margins[0]), slice(*margins[1])


def estimate_shift(pair: ScenePair) -> Shift | None:
    """The shift between the dates, from a few windows of the whole scene.

    Args:
        pair: on one grid; at most `PER_SIDE` x `PER_SIDE` windows of it are read.

    Returns:
        None if neither a shift nor its absence is clear: too little is visible at both dates, or
        too much changed.
    """
    return shift_of(list(looks(pair, sample_boxes(pair.whole.shape_hw))))


def shift_of(windows: Sequence[Look]) -> Shift | None:
    """The shift that windows share; see `estimate_shift`."""
    surfaces = _surfaces(windows)
    stack = _stacked(surfaces)
    if len(stack) < LEAST_WINDOWS:
        return None
    place, height = _peak(stack)
    if height < CLEAR or _halves_apart(stack) > AGREE_PX:
        return None
    row, col = place
    around = stack[:, max(0, row - 1) : row + 2, max(0, col - 1) : col + 2].max(axis=(1, 2))
    fine = _refined(windows, surfaces, col - REACH_PX, row - REACH_PX)
    if fine is None:
        return None
    cols, rows, error, spread = fine
    return Shift(cols, rows, len(stack), int(np.count_nonzero(around > VOTE)), error, spread)


def common_edges(windows: Sequence[Look]) -> bool:
    """Whether both halves of the windows show the same shift, be it clear enough or not.

    Of places that have nothing in common, the peaks of both halves lie anywhere: they agree in one
    case of some hundreds.
    """
    stack = _stacked(_surfaces(windows))
    return len(stack) >= LEAST_WINDOWS and _halves_apart(stack) <= AGREE_PX


def _surfaces(windows: Sequence[Look]) -> list[FloatArray | None]:
    crosses = [window.cross() for window in windows]
    return [None if cross is None else surface_of(cross) for cross in crosses]


def _stacked(surfaces: Sequence[FloatArray | None]) -> FloatArray:
    found = [surface for surface in surfaces if surface is not None]
    return np.stack(found) if found else np.empty((0, 0, 0), np.float32)


def _halves_apart(stack: FloatArray) -> float:
    """Largest distance in pixels between the peak of all windows and those of either half."""
    place, _ = _peak(stack)
    halves = [_peak(stack[start::2])[0] for start in (0, 1)]
    return max(float(np.hypot(*np.subtract(half, place))) for half in halves)


def _refined(
    windows: Sequence[Look], surfaces: Sequence[FloatArray | None], cols: int, rows: int
) -> tuple[float, float, float, float] | None:
    """A shift of whole pixels to a fraction of a pixel, its standard error and its spread.

    The windows of t2 are those that show the same ground, at last to a fraction of a pixel, so that
    the edges of both dates can be compared place by place; the maximum is that of the summed
    spectra's trigonometric polynomial, which has no preference for whole pixels.

    Returns:
        Columns, rows, error, spread, see `Shift`; None if too few windows are visible at both
        dates there.
    """
    x, y = float(cols), float(rows)
    for _ in range(PASSES):
        found = [window.cross(x, y, FINE) for window in windows]
        crosses = [cross for cross in found if cross is not None]
        if len(crosses) < LEAST_WINDOWS:
            return None
        spectra = np.stack(crosses)
        total = spectra.sum(axis=0)
        by = vertex(total)
        x, y = x + by[0], y + by[1]
    parts = [spectra[start::PARTS].sum(axis=0) for start in range(min(PARTS, len(spectra)))]
    without = np.array([vertex(total - part) for part in parts])
    variance = (len(parts) - 1) * without.var(axis=0).sum()  # jackknife
    single = np.array([vertex(cross) for cross in spectra]) - by
    seen = [one for one, cross in zip(surfaces, found, strict=True) if cross is not None]
    for place, surface in enumerate(seen):
        away = None if surface is None else _own_shift(surface, x, y)
        single[place] = single[place] if away is None else away
    spread = np.sqrt((single**2).sum(axis=1).mean())
    return x, y, float(np.sqrt(variance)), float(spread)


def _own_shift(surface: FloatArray, x: float, y: float) -> tuple[float, float] | None:
    """How far one window lies from the shift of all; None: near, or not clear."""
    (row, col), height = _peak(surface[None])
    away = col - REACH_PX - x, row - REACH_PX - y
    return away if height >= CLEAR and max(map(abs, away)) > NEAR_PX else None


def vertex(cross: Spectrum) -> tuple[float, float]:
    """Where a correlation is largest, to a fraction of a pixel.

    Args:
        cross: (h,w) cross-spectrum, whose correlation is largest within `NEAR_PX` of no shift.

    Returns:
        Columns and rows.
    """
    rows = cols = more_rows = more_cols = 0.0
    for step, reach in ((0.5, NEAR_PX), (FINE_PX, 0.5)):
        offsets = np.arange(-reach, reach + step / 2, step)
        near = _correlation_at(cross, rows + offsets, cols + offsets)
        row, col = map(int, np.unravel_index(np.argmax(near), near.shape))
        rows, cols = rows + offsets[row], cols + offsets[col]
        more_rows, more_cols = step * _vertex(near[:, col], row), step * _vertex(near[row], col)
    return float(cols + more_cols), float(rows + more_rows)


def _correlation_at(cross: Spectrum, rows: Float64Array, cols: Float64Array) -> Float64Array:
    """Inverse Fourier transform at (rows) x (cols), any fractions of pixels."""
    down, across = (
        np.exp(2j * np.pi * np.outer(places, fft.fftfreq(size)))
        for places, size in zip((rows, cols), cross.shape, strict=True)
    )
    found: Float64Array = (down @ cross.astype(complex) @ across.T).real
    return found


def warn_of_shift(pair: ScenePair, advice: str = ADVICE) -> Shift | None:
    """Estimate the shift between the dates, and warn if it is large.

    Args:
        pair: see `estimate_shift`.
        advice: what to do about it.
    """
    shift = estimate_shift(pair)
    if (text := shift_problem(shift)) is not None:
        log.warning("%s; %s", text, advice)
    return shift


def shift_problem(shift: Shift | None) -> str | None:
    """What is wrong with a shift; None if nothing is, or it cannot be known."""
    if shift is None or shift.pixels - SURE * shift.error <= WORTH_SAYING_PX:
        return None
    return f"t2 seems to be shifted {shift_text(shift)}: unchanged objects will appear as change"


def shift_text(shift: Shift) -> str:
    """``1.2 pixels to the left and 0.4 below of t1 (seen in 12 of 16 windows)``."""
    return (
        f"{abs(shift.cols):.1f} pixels to the {'right' if shift.cols > 0 else 'left'} and "
        f"{abs(shift.rows):.1f} {'below' if shift.rows > 0 else 'above'} of t1 (seen in "
        f"{shift.agreeing} of {shift.windows} windows)"
    )


def _peak(stack: FloatArray) -> tuple[tuple[int, int], float]:
    """Position of the maximum of the summed surfaces, and its height in standard deviations."""
    total = stack.sum(axis=0)
    row, col = np.unravel_index(np.argmax(total), total.shape)
    return (int(row), int(col)), float((total[row, col] - total.mean()) / total.std())


def looks(pair: ScenePair, boxes: Iterable[Box]) -> Iterator[Look]:
    """Read windows of a scene, with what lies around them."""
    scene = pair.whole
    for box in boxes:
        image, valid = scene.context(widened(box))
        yield Look(image.mean(axis=1), valid)


def widened(box: Box) -> Box:
    """A window with what is read around it."""
    return box.grown(REACH_PX)


def sample_windows(pair: ScenePair) -> Iterator[tuple[FloatArray, BoolArray]]:
    """(2,C,h,w) values and (h,w) validity of windows spread evenly over the whole scene."""
    scene = pair.whole
    return map(scene.context, sample_boxes(scene.shape_hw))


def sample_boxes(
    shape_hw: tuple[int, int], side: int | None = None, per_side: int = PER_SIDE
) -> list[Box]:
    """Windows spread evenly over a scene; none if it is too small.

    Args:
        shape_hw: of the scene.
        side: of a window in pixels; None: `SIDE_PX`, or half of a smaller scene.
        per_side: most windows along each side of the scene.
    """
    side = side or min(SIDE_PX, max(SMALLEST_PX, min(shape_hw) // 2))
    if min(shape_hw) < side:
        return []
    starts = [
        np.unique(np.linspace(0, size - side, max(1, min(per_side, size * 2 // side - 1))).round())
        for size in shape_hw
    ]
    return [Box(int(row), int(col), side, side) for row in starts[0] for col in starts[1]]


def cross_spectrum(
    t1: FloatArray, t2: FloatArray, valid: BoolArray, edging: Edging
) -> Spectrum | None:
    """Cross-spectrum of the edges of two windows, half whitened.

    Args:
        t1: (h,w) grey.
        t2: (h,w).
        valid: (h,w).
        edging: which edges count.

    Returns:
        (h,w) complex, None if a date is blank.
    """
    height, width = valid.shape
    edges = [_edges(date, edging) for date in (t1, t2)]
    if not valid.all():
        seen = ndimage.binary_erosion(valid, iterations=3, border_value=1)
        edges = [date * seen for date in edges]
    weight = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    if edging.alike:
        weight *= _likeness(*edges)
    first, second = (fft.fft2(date * weight) for date in edges)
    cross: Spectrum = np.conj(first) * second
    if not np.abs(cross).any():
        return None
    # a compromise between correlation, whose peak is broad, and phase correlation, which is noisy
    cross /= np.sqrt(np.maximum(np.abs(cross), np.finfo(np.float32).tiny))
    return cross


def surface_of(cross: Spectrum) -> FloatArray | None:
    """Correlation at every shift of up to `REACH_PX`.

    Args:
        cross: (h,w) of `cross_spectrum`.

    Returns:
        (2 REACH_PX + 1, 2 REACH_PX + 1) of mean 0 and standard deviation 1, with zero shift at the
        centre; None if it is the same everywhere.
    """
    surface = fft.fftshift(fft.ifft2(cross).real)
    rows, cols = (slice(size // 2 - REACH_PX, size // 2 + REACH_PX + 1) for size in cross.shape)
    near = surface[rows, cols]
    spread = near.std()
    return (near - near.mean()) / spread if spread > 0 else None


def _likeness(t1: Spectrum, t2: Spectrum) -> Float64Array:
    """(h,w) weights from 0 to 1: a power of the correlation of edges around each place."""
    together, first, second = (
        _smoothed(product) for product in ((t1 * t2.conj()).real, np.abs(t1) ** 2, np.abs(t2) ** 2)
    )
    least = np.finfo(np.float32).tiny
    # of each date by itself: the product of both is of the fourth power of pixel values
    alike = together / np.sqrt(np.maximum(first, least)) / np.sqrt(np.maximum(second, least))
    weights: Float64Array = np.clip(alike, 0, 1) ** ALIKE_POWER
    return weights


def _smoothed(values: FloatArray) -> FloatArray:
    """Weighted mean of (h,w) values around each place, a Gaussian of `ALIKE_PX`.

    By way of Fourier transforms, several times faster than a filter so wide. Values continue on the
    other side of the window, where places count little.
    """
    spectrum = ndimage.fourier_gaussian(fft.rfft2(values), ALIKE_PX, n=values.shape[1])
    smooth: FloatArray = fft.irfft2(spectrum, values.shape)
    return smooth


def _edges(gray: FloatArray, edging: Edging) -> Spectrum:
    """(h,w) grey values -> (h,w) complex gradient of limited strength."""
    gray = ndimage.gaussian_filter(gray, edging.smooth_px)
    gradient = ndimage.sobel(gray, axis=1) + 1j * ndimage.sobel(gray, axis=0)
    length = np.abs(gradient)
    limit = np.percentile(length[length > 0], edging.strong_percentile) if length.any() else 0.0
    shortened: Spectrum = gradient * (
        limit / np.maximum(length, max(limit, np.finfo(np.float32).tiny))
    )
    return shortened


def _vertex(values: FloatArray | Float64Array, at: int) -> float:
    """Sub-pixel offset of the peak of a parabola through a maximum and its neighbours."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
