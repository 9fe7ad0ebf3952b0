"""IR-MAD: iteratively reweighted multivariate alteration detection.

Nielsen 2007, "The regularized iteratively reweighted MAD method for change detection in multi- and
hyperspectral data", IEEE Transactions on Image Processing 16(2). Canonical correlation analysis
pairs linear combinations of the bands of both dates; the differences of the pairs (MAD variates)
do not depend on any affine change of either date's bands, so gains and offsets of sensor and
atmosphere do not matter. Pixels are weighted by their probability of no change, iterated until the
correlations converge.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rscd.base.errors import SceneError
from rscd.base.types import Float64Array, Provenance
from rscd.inference.detectors.moments import CHUNK, weighted_moments
from rscd.inference.detectors.pointwise import PointwisePredictor, fitted
from rscd.inference.detectors.sampling import BUDGET, sample_pixels
from rscd.inference.predictor import POINTWISE, Block, Tiling

RANK_TOLERANCE = 1e-10
"""Directions with less than this fraction of the largest variance are ignored (singular bands)."""

SPREAD_FLOOR = 1e-2
"""Least standard deviation of a MAD variate, relative to its canonical variates."""

FEW_VARIATES = 5
"""Below this number the published iteration shrinks the variances to zero (one and two variates) or
to less than a third (three and four), and slowly: a scene of four bands took 71 iterations, but 24
with the shrinkage corrected in each."""

SAMPLED = replace(POINTWISE, fit_bytes=28 * BUDGET)
"""Memory of the sample in float32 and of float64 copies while it is centred and scaled."""


@dataclass(frozen=True)
class Mad:
    """Canonical differences of two dates: K pairs of C bands, in decreasing correlation.

    ``mad[k] = a[k] . (x - mean[0]) - b[k] . (y - mean[1])``.
    """

    a: Float64Array
    """(K, C)"""
    b: Float64Array
    """(K, C)"""
    mean: Float64Array
    """(2, C)"""
    rho: Float64Array
    """(K,) canonical correlations in [0, 1]"""
    variance: Float64Array
    """(K,) variances of the MAD variates over unchanged pixels"""

    def variates(self, pixels: Float64Array) -> Float64Array:
        """(2, C, n) values -> (K, n) MAD variates."""
        x, y = pixels - self.mean[:, :, None]
        mads: Float64Array = np.einsum("kc,cn->kn", self.a, x) - np.einsum("kc,cn->kn", self.b, y)
        return mads

    def chi_square(self, pixels: Float64Array) -> Float64Array:
        """(2, C, n) values -> (n,) sum of squared standardised variates."""
        total: Float64Array = np.sum(self.variates(pixels) ** 2 / self.variance[:, None], axis=0)
        return total


def no_change_p_value(chi_square: NDArray[Any], n_variates: int) -> NDArray[Any]:
    """Probability that an unchanged pixel has a statistic at least this large, in [0, 1]."""
    return np.asarray(special.chdtrc(n_variates, chi_square))


def canonical_differences(mean: Float64Array, covariance: Float64Array, scale: float = 1.0) -> Mad:
    """MAD variates from the moments of two dates.

    Each date is whitened in the directions in which it varies, so that constant or repeated bands
    need no special treatment; the singular values of the whitened cross-covariance are the
    canonical correlations (Nielsen 2007, section II; variance of a MAD variate is 2 (1 - rho)).

    Args:
        mean: (2C,) of the bands of t1 followed by those of t2.
        covariance: (2C, 2C).
        scale: factor on the variances, see ``weighted_variance``.
    """
    bands, mean = mean.size // 2, mean.reshape(2, -1)
    white_x = _whitening(covariance[:bands, :bands])
    white_y = _whitening(covariance[bands:, bands:])
    if 0 in (len(white_x), len(white_y)):  # a date without contrast gives nothing to compare
        nothing = np.zeros((0, bands))
        return Mad(nothing, nothing, mean, np.zeros(0), np.zeros(0))
    left, rho, right = np.linalg.svd(white_x @ covariance[:bands, bands:] @ white_y.T)
    rho = np.clip(rho, 0, 1)
    variance = np.maximum(2 * (1 - rho) * scale, SPREAD_FLOOR**2)
    pairs = rho.size
    return Mad(left.T[:pairs] @ white_x, right[:pairs] @ white_y, mean, rho, variance)


def _whitening(covariance: Float64Array) -> Float64Array:
    """(rank, C) matrix that transforms the bands of one date to uncorrelated ones of variance 1."""
    values, vectors = np.linalg.eigh(covariance)
    keep = values > max(values[-1], 0) * RANK_TOLERANCE
    whitening: Float64Array = (vectors[:, keep] / np.sqrt(values[keep])).T
    return whitening


def weighted_variance(variance: float, n_variates: int) -> float:
    """Variance of unchanged pixels of true variance 1 under the weights of an iteration.

    With Z chi-square with k degrees of freedom and weights P(Z' > Z / v) it is
    E[Z; Z < v Z'] / (k P(Z < v Z')), a ratio of incomplete beta functions of v / (1 + v), for
    Z / (Z + Z') has a beta distribution.

    Args:
        variance: v, the variance that the statistic of the iteration was divided by.
        n_variates: k.
    """
    half, share = n_variates / 2, variance / (1 + variance)
    return float(special.betainc(half + 1, half, share) / special.betainc(half, half, share))


def settled_variance(n_variates: int) -> float:
    """Variance at which the iteration converges on unchanged pixels of true variance 1.

    0.19 for three variates, 0.44 for six, 0.67 for sixteen. With one or two it would shrink to zero
    (a small variance v becomes 2k / (k + 2) v), and every pixel would end up as change.
    """
    variance = 1.0
    for _ in range(200):
        variance = weighted_variance(variance, n_variates)
    return variance


def irmad(pixels: Float64Array, max_iterations: int = 100, tolerance: float = 1e-2) -> Mad:
    """Iterate canonical correlation and reweighting until the correlations converge.

    Reweighting makes variances too small even where nothing changed. With many variates this
    converges and is corrected at the end, so that the statistic of unchanged pixels is chi-square
    again; with fewer than ``FEW_VARIATES`` it is corrected in each iteration, unlike in Nielsen's
    method.

    Args:
        pixels: (2, C, n) values of both dates, scaled so that bands are comparable.
        max_iterations: 1 for the unweighted MAD transform.
        tolerance: largest change of a canonical correlation at convergence, as a fraction of its
            distance from 1 (so that iteration does not stop too early on scenes that hardly
            differ).
    """
    stacked = pixels.reshape(-1, pixels.shape[-1])
    mad = canonical_differences(*weighted_moments(stacked, np.ones(stacked.shape[1])))
    iterative, final = _corrections(mad.rho.size)
    for _ in range(max_iterations - 1):
        if mad.rho.size == 0:
            break
        previous = mad
        chunks = [pixels[..., s : s + CHUNK] for s in range(0, pixels.shape[-1], CHUNK)]
        weights = [no_change_p_value(previous.chi_square(c), previous.rho.size) for c in chunks]
        moments = weighted_moments(stacked, np.concatenate(weights))
        mad = canonical_differences(*moments, iterative)
        if previous.rho.size != mad.rho.size:  # a band may be constant outside the change
            iterative, final = _corrections(mad.rho.size)
        elif np.all(np.abs(previous.variance - mad.variance) <= tolerance * mad.variance):
            break
    return mad if max_iterations == 1 else replace(mad, variance=mad.variance * final)


def _corrections(n_variates: int) -> tuple[float, float]:
    """Factors on the variances in each iteration, and once at the end."""
    if n_variates == 0:
        return 1.0, 1.0
    if n_variates < FEW_VARIATES:
        return 1 / weighted_variance(1.0, n_variates), 1.0
    return 1.0, 1 / settled_variance(n_variates)


@dataclass(frozen=True)
class Irmad:
    """IR-MAD with an automatic threshold: Otsu's on the root of the chi-square statistic.

    The threshold is never below the value that one unchanged pixel in a thousand exceeds, so that a
    scene without change is not reported as half changed.
    """

    max_iterations: int = 100
    tolerance: float = 1e-2
    budget: int = BUDGET
    name: str = "irmad"
    tiling: Tiling = SAMPLED
    summary: str = (
        "iteratively reweighted multivariate alteration detection (Nielsen 2007); "
        "multispectral scenes of 10 m and coarser, two bands or more"
    )

    def card(self) -> Provenance:
        """Name and parameters; see ``Model``."""
        names = ("name", "max_iterations", "tolerance", "budget")
        return {name: getattr(self, name) for name in names}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> PointwisePredictor:
        """Estimate the canonical differences and the threshold from a sample of the scene.

        Raises:
            SceneError: if there are fewer usable pixels than the 2C + 1 that 2C bands require.
        """
        sample = sample_pixels(blocks, budget=self.budget)[:, :, 0]
        bands, n = sample.shape[1:]
        if n <= 2 * bands:
            raise SceneError(
                f"irmad needs more than {2 * bands} pixels usable at both dates for {bands} "
                f"band(s), found {n}: take a larger area or the model cva"
            )
        centre, spread = sample.mean(2, np.float64), sample.std(2, dtype=np.float64)
        spread[np.ptp(sample, axis=2) == 0] = 1  # constant bands stay exactly zero
        scaled = (sample - centre[:, :, None]) / spread[:, :, None]
        mad = irmad(scaled, self.max_iterations, self.tolerance)
        sigma = np.sqrt(mad.variance)[:, None]
        weights = np.stack([mad.a / sigma, -mad.b / sigma], axis=1) / spread
        return fitted(centre + mad.mean * spread, weights, sample)
