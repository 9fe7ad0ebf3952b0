"""Change probability from linear combinations of bands, pixel by pixel.

Only additions, subtractions, multiplications, divisions and square roots of whole arrays are used:
IEEE 754 defines their results to the last bit, so a pixel's probability cannot depend on the tile
it is in. Matrix products and ``einsum`` do not have this property: they fuse multiplications and
additions differently at the edges of an array than in its middle.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rscd.base.types import BoolArray, FloatArray
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.inference.predictor import POINTWISE, Tiling

STRIP = 1 << 15
"""Pixels processed at once, so that the few arrays of this size fit into the CPU cache."""

FALSE_ALARMS = 1e-3
"""Largest fraction of unchanged pixels above an automatic threshold."""


@dataclass(frozen=True)
class PointwisePredictor:
    """Distance of a pixel pair from "no change" in standardised variates, against a threshold.

    ``change_prob = d / (d + tau)``: monotone in the distance d, 0 where nothing differs, one half
    exactly at the automatic threshold tau.
    """

    centre: tuple[tuple[float, ...], ...]
    """(2, C) values subtracted from the raw values first."""
    weights: tuple[tuple[tuple[float, ...], ...], ...]
    """(K, 2, C): each variate is a sum of weight x (value - centre) over dates and bands."""
    tau: float
    """The distance at which a pixel becomes change."""
    tiling: Tiling = POINTWISE
    threshold: float = 0.5

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``. Invalid pixels get 0."""
        change_prob = np.zeros(valid.shape, np.float32)
        rows = max(1, STRIP // max(1, valid.shape[2]))
        for pair, usable, prob in zip(image, valid, change_prob, strict=True):
            for top in range(0, valid.shape[1], rows):
                strip = slice(top, top + rows)
                distance = self.distance(pair[:, :, strip])
                # false for NaN, which invalid pixels may contain
                keep = usable[strip] & (distance >= 0)
                # this form gives 1, not NaN, if the distance overflows float32
                with np.errstate(invalid="ignore", over="ignore"):
                    np.subtract(1, self.tau / (distance + self.tau), out=prob[strip], where=keep)
        return change_prob

    def distance(self, image: FloatArray) -> FloatArray:
        """Root of the sum of squared variates: (2, C, ...) raw values -> (...) float32."""
        with np.errstate(invalid="ignore", over="ignore"):
            centred = image - np.reshape(
                np.array(self.centre, np.float32), image.shape[:2] + (1,) * (image.ndim - 2)
            )
            total = np.zeros(image.shape[2:], np.float32)
            product = np.empty_like(total)
            for weight in np.array(self.weights, np.float32):
                variate = np.zeros_like(total)
                for date, band in np.argwhere(weight != 0):
                    np.multiply(centred[date, band], weight[date, band], out=product)
                    variate += product
                variate *= variate
                total += variate
            return np.sqrt(total, out=total)


def fitted(
    centre: NDArray[np.float64], weights: NDArray[np.float64], sample: FloatArray
) -> PointwisePredictor:
    """A predictor whose threshold is chosen on a sample by ``automatic_threshold``.

    Args:
        centre: (2, C).
        weights: (K, 2, C) that give variates of variance 1 among unchanged pixels.
        sample: (2, C, n) raw values.
    """
    variates = tuple(tuple(tuple(map(float, date)) for date in w) for w in weights)
    predictor = PointwisePredictor(tuple(tuple(map(float, date)) for date in centre), variates, 1.0)
    tau = automatic_threshold(predictor.distance(sample), len(weights))
    return replace(predictor, tau=tau)


def automatic_threshold(distance: FloatArray, n_variates: int) -> float:
    """Otsu's threshold, but at least the value that one unchanged pixel in a thousand exceeds.

    The squared distance of an unchanged pixel is chi-square with ``n_variates`` degrees of freedom;
    without the lower bound Otsu's method would split the noise of an unchanged scene in two.
    """
    floor = float(np.sqrt(special.chdtri(max(1, n_variates), FALSE_ALARMS)))
    return max(floor, otsu_threshold(distance[np.isfinite(distance)]))
