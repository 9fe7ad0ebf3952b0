"""How two dates look: what can be measured of them in a few windows, with or without change.

Change makes some pixels differ; light, sensor, haze and files make most of them differ. Everything
here is therefore a median, a percentile or a share over windows spread over the whole scene.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rscd.base.types import BoolArray, FloatArray

MOST_PIXELS = 6000
"""Of a window whose values are kept; more are thinned out."""
BLOCK_PX = 16
"""Side of the blocks in which clouds are looked for."""
FINE_PX, COARSE_PX, COARSER_PX = 0.8, 1.6, 3.2
"""Between the first two lies what blur takes away, between the others what it leaves."""
LEAST_COLOUR = 0.05
"""Least spread of a band beside what all bands share; that of a picture in grey is noise."""
MOST_BANDS = 4
"""First bands of which every order is tried."""
LEAST_PIXELS = 1000
"""Below, nothing is said."""


@dataclass(frozen=True)
class Sample:
    """What is kept of one window."""

    values: FloatArray
    """(2,C,N) of pixels that can be used at both dates, thinned out."""
    sharpness: tuple[float, float]
    """Of either date: energy of the finest structures relative to coarser ones; NaN if blank."""
    veiled: tuple[float, float]
    """Fraction of the blocks of either date that look like cloud where the other does not."""
    flat: tuple[float, float]
    """Fraction of the blocks of either date all of whose pixels are equal."""
    valid: float
    """Fraction of the pixels."""


@dataclass(frozen=True)
class Appearance:
    """How two dates look, over all windows together; pairs are t1 and t2."""

    valid: float
    """Fraction of the pixels that can be used at both dates."""
    low: tuple[float, float]
    """First percentile of the mean of the bands."""
    median: tuple[float, float]
    high: tuple[float, float]
    """99th percentile."""
    least: tuple[float, float]
    """Least value of any band."""
    most: tuple[float, float]
    clipped: tuple[float, float]
    """Fraction of the pixels of which a band is at the end of its range."""
    plant: tuple[float, float] | None
    """Fraction of the pixels that look green, by NDVI where near infrared is known; None: of images
    that do not tell."""
    sharpness: tuple[float, float]
    """Median over the windows."""
    veiled: tuple[float, float]
    """Fraction of the scene that looks like thick cloud; thin cloud around it is not counted."""
    flat: tuple[float, float]
    """Fraction of the scene that is filled with one value: nodata that the file does not declare,
    as a rule."""
    fill: tuple[float, float]
    """The value that most such pixels have."""
    filled: tuple[float, float]
    """Fraction of the pixels that have it in all bands."""
    order: tuple[int, ...] | None
    """Order of the first bands of t2 in which they go with those of t1; None: nothing tells."""
    likeness: float
    """Correlation of the dates, 0 to 1: of the band that shows it best."""
    same: bool
    """Whether all pixels are equal."""

    @property
    def span(self) -> tuple[float, float]:
        """Contrast of either date."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]

    @property
    def gain(self) -> float:
        """Median of t2 over that of t1; NaN where that says nothing."""
        return self.median[1] / self.median[0] if self.median[0] > 0 else float("nan")

    @property
    def contrast(self) -> float:
        """Contrast of t2 over that of t1."""
        return self.span[1] / self.span[0] if self.span[0] > 0 else float("nan")


def sample(image: FloatArray, valid: BoolArray) -> Sample:
    """What is kept of a window.

    Args:
        image: (2,C,h,w) values.
        valid: (h,w) whether they can be used.
    """
    kept = image[:, :, valid]
    thin = -(-kept.shape[2] // MOST_PIXELS) or 1
    gray = image.mean(axis=1)
    return Sample(
        values=kept[:, :, ::thin],
        sharpness=(_sharpness(gray[0], valid), _sharpness(gray[1], valid)),
        veiled=_veiled(image, valid),
        flat=_flat(image, valid),
        valid=float(valid.mean()),
    )


def _sharpness(gray: FloatArray, valid: BoolArray) -> float:
    inside = ndimage.binary_erosion(valid, iterations=6, border_value=1)
    if np.count_nonzero(inside) < LEAST_PIXELS:
        return float("nan")
    levels = [ndimage.gaussian_filter(gray, by) for by in (FINE_PX, COARSE_PX, COARSER_PX)]
    fine, coarse = ((a - b)[inside].var() for a, b in pairwise(levels))
    return float(fine / coarse) if coarse > 0 else float("nan")


def _veiled(image: FloatArray, valid: BoolArray) -> tuple[float, float]:
    """Blocks of clouds: bright, even and colourless at one date, not at the other, with soft edges.

    White roofs are all that but for the edges; what is filled with one value is no cloud.
    """
    height, width = (size // BLOCK_PX for size in valid.shape)
    if not height * width or valid.mean() < 0.5:
        return 0.0, 0.0
    cut = image[..., : height * BLOCK_PX, : width * BLOCK_PX]
    blocks = cut.reshape(*image.shape[:2], height, BLOCK_PX, width, BLOCK_PX)
    mean, spread = blocks.mean(axis=(3, 5)), blocks.std(axis=(3, 5)).mean(axis=1)
    level = mean.mean(axis=1)
    tint = (mean.max(axis=1) - mean.min(axis=1)) / np.maximum(level, 1e-9)
    rough = spread / np.maximum(level, 1e-9)
    other = level[::-1]
    bright = level > 1.5 * np.maximum(other, np.median(other, axis=(1, 2))[:, None, None])
    cloud = bright & (tint < 0.08) & (rough < 0.12) & (rough < 0.5 * rough[::-1]) & (spread > 0)
    t1, t2 = (
        _soft(cloud[date], spread[date], spread[1 - date], level[date] - level[1 - date])
        for date in (0, 1)
    )
    return float(t1.mean()), float(t2.mean())


def _soft(
    cloud: BoolArray, spread: FloatArray, before: FloatArray, brighter: FloatArray
) -> BoolArray:
    """The blocks that lie in squares of three by three such blocks, in patches with soft edges.

    Args:
        cloud: (h,w) blocks that may be cloud.
        spread: (h,w) standard deviation within each.
        before: (h,w) that of the other date.
        brighter: (h,w) how much brighter each is than at the other date.
    """
    square = np.ones((3, 3), bool)
    inside = ndimage.binary_opening(cloud, square)
    patches, count = ndimage.label(ndimage.binary_propagation(inside, mask=cloud), square)
    soft = np.zeros_like(cloud)
    for number in range(1, count + 1):
        patch = patches == number
        around = ndimage.binary_dilation(patch, square) & ~patch
        sharp = (spread > 0.3 * brighter[patch].mean()) & (spread > before)
        if not around.any() or sharp[around].mean() < 0.3:
            soft |= patch
    kept: BoolArray = inside & soft
    return kept


def _flat(image: FloatArray, valid: BoolArray) -> tuple[float, float]:
    height, width = (size // BLOCK_PX for size in valid.shape)
    if not height * width or not valid.all():
        return 0.0, 0.0
    cut = image[..., : height * BLOCK_PX, : width * BLOCK_PX]
    blocks = cut.reshape(*image.shape[:2], height, BLOCK_PX, width, BLOCK_PX)
    even = (blocks.max(axis=(3, 5)) == blocks.min(axis=(3, 5))).all(axis=1)
    return float(even[0].mean()), float(even[1].mean())


def _fill(values: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """The most frequent value among pixels whose bands are equal, and how frequent it is."""
    fills, shares = [], []
    for date in values:
        equal = date[0][(date == date[0]).all(axis=0)]
        found, counts = np.unique(equal, return_counts=True)
        fills.append(float(found[np.argmax(counts)]) if len(found) else float("nan"))
        shares.append(counts.max(initial=0) / date.shape[1])
    return {"fill": _pair(fills), "filled": _pair(shares)}


def appearance(
    samples: Sequence[Sample],
    ends: tuple[tuple[float, float] | None, tuple[float, float] | None],
    near_infrared: int | None = None,
) -> Appearance | None:
    """How two dates look.

    Args:
        samples: of windows spread over the scene.
        ends: least and greatest value that the type of either date can hold; None: of floats.
        near_infrared: 0-based place of that band, where it is known; the first three are then red,
            green and blue.

    Returns:
        None where hardly a pixel can be used at both dates.
    """
    valid = float(np.mean([one.valid for one in samples])) if samples else 0.0
    values = [one.values for one in samples if one.values.shape[2]]
    together = np.concatenate(values, axis=2).astype(np.float64) if values else np.empty((2, 1, 0))
    if together.shape[2] < LEAST_PIXELS:
        return None
    level = together.mean(axis=1)
    low, median, high = (_pair(np.percentile(level, q, axis=1)) for q in (1, 50, 99))
    sharp = np.array([one.sharpness for one in samples if one.values.shape[2]])
    known = sharp[np.isfinite(sharp).all(axis=1)]
    return Appearance(
        valid=valid,
        **{"low": low, "median": median, "high": high},
        least=_pair(together.min(axis=(1, 2))),
        most=_pair(together.max(axis=(1, 2))),
        clipped=(_clipped(together[0], ends[0]), _clipped(together[1], ends[1])),
        plant=_plants(together, near_infrared),
        sharpness=_pair(np.median(known, axis=0)) if len(known) else (np.nan, np.nan),
        veiled=_pair(np.mean([one.veiled for one in samples], axis=0)),
        flat=_pair(np.mean([one.flat for one in samples], axis=0)),
        **_fill(together),
        order=band_order(together),
        likeness=_likeness(together),
        same=bool((together[0] == together[1]).all()),
    )


def _pair(values: Iterable[float]) -> tuple[float, float]:
    t1, t2 = (float(value) for value in values)
    return t1, t2


def _clipped(values: NDArray[np.float64], ends: tuple[float, float] | None) -> float:
    """Values at the ends of the type, or piled up at the greatest or least value there is."""
    piled = [
        float((band == end).mean())
        for band in values
        for end in {band.min(), band.max(), *(ends or ())}
        if band.min() < band.max()
    ]
    return max(piled, default=0.0)


def _plants(values: NDArray[np.float64], near_infrared: int | None) -> tuple[float, float] | None:
    if near_infrared is not None:
        red, nir = values[:, 0], values[:, near_infrared]
        return _pair(((nir - red) / np.maximum(nir + red, 1e-9) > 0.4).mean(axis=1))
    if values.shape[1] != 3:
        return None
    total = np.maximum(values.sum(axis=1), 1e-9)
    excess = (2 * values[:, 1] - values[:, 0] - values[:, 2]) / total
    return _pair((excess > 0.05).mean(axis=1))


def band_order(values: NDArray[np.float64]) -> tuple[int, ...] | None:
    """The order of the first bands of t2 in which they go best with those of t1.

    What all bands share is taken away first: colours tell, not light and shade.

    Args:
        values: (2,C,N) of the same pixels.

    Returns:
        0-based places; None for one or two bands, and where no order stands out.
    """
    n = min(values.shape[1], MOST_BANDS)
    if n < 3:
        return None
    own = values[:, :n] - values[:, :n].mean(axis=2, keepdims=True)
    spread = own.std(axis=2, keepdims=True)
    if (spread == 0).any():
        return None
    own = own / spread
    own = own - own.mean(axis=1, keepdims=True)
    colour = own.std(axis=2, keepdims=True)
    if (colour < LEAST_COLOUR).any():
        return None
    own = own / colour
    together = own[0] @ own[1].T / own.shape[2]
    usual = tuple(range(n))
    scores = {
        order: float(np.mean([together[i, j] for i, j in enumerate(order)]))
        for order in permutations(usual)
    }
    best = max(scores, key=lambda order: scores[order])
    return best if scores[best] > scores[usual] + 0.3 else usual


def _likeness(values: NDArray[np.float64]) -> float:
    found = [
        abs(float(np.corrcoef(t1, t2)[0, 1]))
        for t1, t2 in zip(*values, strict=True)
        if t1.std() > 0 and t2.std() > 0
    ]
    return max(found, default=0.0)
