"""PCA-k-means.

Celik 2009, "Unsupervised change detection in satellite images using principal component analysis
and k-means clustering", IEEE Geoscience and Remote Sensing Letters 6(4). Differences from the
paper: any number of bands; the absolute difference is in robust standard deviations and limited to
ten of them, so that a few clouds or bright roofs do not form a cluster of their own; the
neighbourhood is odd, so that it has a centre; the principal axes come from a random sample of
neighbourhoods instead of all that do not overlap; k-means starts from Otsu's split of the mean
difference, not at random.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rscd.base.types import BoolArray, Float64Array, FloatArray, Provenance
from rscd.inference.detectors.cva import Normalisation, normalise
from rscd.inference.detectors.moments import weighted_moments
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.inference.detectors.pointwise import STRIP
from rscd.inference.detectors.sampling import BUDGET, sample_pixels, usable_pixels
from rscd.inference.predictor import Block, Tiling

Nested = tuple[tuple[float, ...], ...]

LIMIT = 10.0
"""Largest difference that counts, in robust standard deviations of the unchanged pixels."""

LEAST_CHANGE = 2.0
"""Least mean difference, in its strongest band, of the cluster of change. Two clusters can be found
in any noise; their mean differences are around 0.8."""

MAX_ITERATIONS = 100


@dataclass(frozen=True)
class PcaKmeansPredictor:
    """Position of a pixel's neighbourhood between the cluster centres of no change and change.

    The projection onto the line through both centres decides which is nearer: ``change_prob`` is 0
    at the centre of no change (and beyond), 1 at that of change, and one half where both are
    equally near. The projection is one linear filter of the absolute differences;
    as in ``pointwise``, only operations are used whose results IEEE 754 defines to the last bit.
    """

    centre: Nested
    """(2, C) see ``Normalisation``."""
    gain: Nested
    """(2, C)"""
    kernel: tuple[Nested, ...]
    """(C, h, h) filter of the absolute differences."""
    bias: float
    tiling: Tiling
    threshold: float = 0.5

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``. Invalid pixels get 0."""
        change_prob = np.zeros(valid.shape, np.float32)
        height, width = valid.shape[1:]
        halo = self.tiling.halo
        rows = max(1, STRIP // max(1, width + 2 * halo))
        for pair, usable, prob in zip(image, valid, change_prob, strict=True):
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                around = slice(max(0, top - halo), min(height, bottom + halo))
                outside = (around.start - (top - halo), (bottom + halo) - around.stop)
                prob[top:bottom] = self._strip(pair[:, :, around], usable[around], outside)
        return change_prob

    def _strip(self, image: FloatArray, valid: BoolArray, outside: tuple[int, int]) -> FloatArray:
        """Probabilities of a strip of rows.

        Args:
            image: (2, C, h, W) the strip with its surrounding rows, as far as available.
            valid: (h, W).
            outside: rows of context missing above and below.
        """
        halo = self.tiling.halo
        usable = usable_pixels(image, valid)
        frame = (outside, (halo, halo))
        difference = np.pad(self._difference(image, usable), ((0, 0), *frame))
        usable = np.pad(usable, frame)
        height, width = usable.shape[0] - 2 * halo, usable.shape[1] - 2 * halo
        core = (slice(halo, halo + height), slice(halo, halo + width))
        place = np.full((height, width), self.bias, np.float32)
        for band, weights in zip(difference, np.array(self.kernel, np.float32), strict=True):
            for (dy, dx), weight in np.ndenumerate(weights):
                there = (slice(dy, dy + height), slice(dx, dx + width))
                value = np.where(usable[there], band[there], band[core])
                place += value * weight
        change_prob: FloatArray = np.clip(place, 0, 1)
        change_prob[~usable[core]] = 0
        return change_prob

    def _difference(self, image: FloatArray, usable: BoolArray) -> FloatArray:
        """(2, C, h, w) raw values -> (C, h, w) absolute standardised differences, 0 if unusable."""
        found = Normalisation(np.array(self.centre), np.array(self.gain))
        return np.where(usable, absolute_difference(image, found), np.float32(0))


def absolute_difference(image: FloatArray, found: Normalisation) -> FloatArray:
    """(2, C, ...) raw values -> (C, ...) in robust standard deviations, at most ``LIMIT``."""
    shape = image.shape[:2] + (1,) * (image.ndim - 2)
    centre = found.centre.astype(np.float32).reshape(shape)
    gain = found.gain.astype(np.float32).reshape(shape)
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = (image - centre) * gain
        difference: FloatArray = np.minimum(np.abs(y - x), np.float32(LIMIT))
    return difference


def two_means(points: Float64Array, change: BoolArray) -> BoolArray:
    """Lloyd's k-means with two centres, from an initial guess of the members of the second.

    Args:
        points: (S, n).
        change: (n,) initial guess.

    Returns:
        (n,) membership of the second centre at convergence; all false if a cluster is empty.
    """
    for _ in range(MAX_ITERATIONS):
        if change.all() or not change.any():
            return np.zeros_like(change)
        centres = points[:, ~change].mean(axis=1), points[:, change].mean(axis=1)
        far, near = (((points - centre[:, None]) ** 2).sum(axis=0) for centre in centres)
        previous, change = change, near <= far
        if np.array_equal(previous, change):
            break
    return change


def separate(difference: FloatArray, components: int) -> tuple[Float64Array, float]:
    """Linear rule between the clusters of no change and change.

    Args:
        difference: (C, h*h, n) neighbourhoods of the absolute difference image.
        components: principal axes to keep.

    Returns:
        Kernel (C*h*h,) and bias: ``kernel . features + bias`` is 0 at the centre of no change and
        1 at that of change. All zero if there is no change.
    """
    features = difference.reshape(-1, difference.shape[-1])
    mean, covariance = weighted_moments(features, np.ones(features.shape[1]))
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :components].T
    points = axes @ (features - mean[:, None])
    strength = features.mean(axis=0, dtype=np.float64)
    change = two_means(points, strength > otsu_threshold(strength))
    if not change.any() or difference[:, :, change].mean(axis=(1, 2)).max() < LEAST_CHANGE:
        return np.zeros(len(features)), 0.0
    start, end = points[:, ~change].mean(axis=1), points[:, change].mean(axis=1)
    step = (end - start) / np.sum((end - start) ** 2)
    return axes.T @ step, float(-(axes @ mean + start) @ step)


@dataclass(frozen=True)
class PcaKmeans:
    """Two clusters of neighbourhoods of the absolute difference image, in its principal axes.

    A pixel belongs to the nearer cluster centre. If the mean difference of the cluster of change is
    no larger than noise (``LEAST_CHANGE``), nothing is change.
    """

    side: int = 5
    components: int = 3
    budget: int = BUDGET
    name: str = "pca-kmeans"
    summary: str = (
        "principal components of 5 x 5 neighbourhoods and k-means (Celik 2009); "
        "any bands, radar too, scenes of 10 m and coarser"
    )

    def __post_init__(self) -> None:
        if self.side % 2 == 0:
            raise ValueError(f"expected an odd side, which has a centre, found {self.side}")

    @property
    def tiling(self) -> Tiling:
        """The halo is half the neighbourhood; projecting the sample copies it."""
        return Tiling(halo=self.side // 2, fit_bytes=16 * BUDGET)

    def card(self) -> Provenance:
        """Name and parameters; see ``Model``."""
        return {name: getattr(self, name) for name in ("name", "side", "components", "budget")}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> PcaKmeansPredictor:
        """Find the axes and the clusters on a sample of neighbourhoods.

        Raises:
            SceneError: if no pixel is usable at both dates.
        """
        sample = sample_pixels(blocks, radius=self.tiling.halo, budget=self.budget)
        found = normalise(sample[:, :, self.side**2 // 2])
        difference = absolute_difference(sample, found)
        kernel, bias = separate(difference, self.components)
        shape = (sample.shape[1], self.side, self.side)
        return PcaKmeansPredictor(
            tuple(tuple(map(float, date)) for date in found.centre),
            tuple(tuple(map(float, date)) for date in found.gain),
            tuple(tuple(tuple(map(float, row)) for row in k) for k in kernel.reshape(shape)),
            bias,
            self.tiling,
        )
