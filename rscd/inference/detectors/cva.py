"""Change vector analysis with robust standardisation.

Malila 1980, "Change vector analysis: an approach for detecting forest changes with Landsat", with
a relative radiometric normalisation of the dates that excludes changed pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rscd.base.types import Float64Array, FloatArray, Provenance
from rscd.inference.detectors.pointwise import PointwisePredictor, fitted
from rscd.inference.detectors.sampling import BUDGET, sample_pixels
from rscd.inference.predictor import POINTWISE, Block, Tiling

SPREAD_FLOOR = 1e-2
"""Least spread of a difference, in standard deviations of its band: where most pixels are equal at
both dates, an invisible difference must not count as many deviations."""

MAD_TO_SIGMA = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""

SAMPLED = replace(POINTWISE, fit_bytes=4 * BUDGET)
"""The sample, and a sorted copy of it in float64."""


@dataclass(frozen=True)
class Normalisation:
    """``z[c] = gain[1,c] (y[c] - centre[1,c]) - gain[0,c] (x[c] - centre[0,c])``.

    Among unchanged pixels z has median 0 and spread 1. Gains are 0 where a band is constant at
    either date.
    """

    centre: Float64Array
    """(2, C)"""
    gain: Float64Array
    """(2, C)"""


def normalise(sample: FloatArray) -> Normalisation:
    """Relative radiometric normalisation, band by band: (2, C, n) raw values."""
    bands = [_normalise_band(sample[:, band].astype(np.float64)) for band in range(sample.shape[1])]
    return Normalisation(
        np.stack([centre for centre, _ in bands], axis=1),
        np.stack([gain for _, gain in bands], axis=1),
    )


def _normalise_band(
    dates: Float64Array, max_iterations: int = 30, tolerance: float = 1e-3
) -> tuple[Float64Array, Float64Array]:
    """Centre (2,) and gain (2,) of one band from (2, n) values.

    Mean and standard deviation of both dates are matched; pixels that differ more get less weight,
    iterated until convergence. (Medians alone fail where change and no change are equally common.)
    """
    whole = dates.std(axis=1)
    if np.any(np.ptp(dates, axis=1) == 0):
        return dates.mean(axis=1), np.zeros(2)
    weight, spread = np.ones(dates.shape[1]), np.zeros(2)
    for _ in range(max_iterations):
        previous = spread
        centre = np.average(dates, axis=1, weights=weight)
        variance = np.average((dates - centre[:, None]) ** 2, axis=1, weights=weight)
        # a date that is mostly one value must not collapse to that value
        spread = np.maximum(np.sqrt(variance), SPREAD_FLOOR * whole)
        x, y = (dates - centre[:, None]) / spread[:, None]
        offset = float(np.median(y - x))
        scale = max(SPREAD_FLOOR, MAD_TO_SIGMA * float(np.median(np.abs(y - x - offset))))
        weight = (1 + ((y - x - offset) / scale) ** 2) ** -2
        if np.all(np.abs(spread - previous) <= tolerance * spread):
            break
    centre[1] += offset * spread[1]
    return centre, 1 / (spread * scale)


@dataclass(frozen=True)
class Cva:
    """Length of the standardised difference over all bands, with an automatic threshold.

    Differences are in robust standard deviations of the unchanged pixels, band by band. The
    threshold is Otsu's on the length, but never below the value that one unchanged pixel in a
    thousand exceeds.
    """

    budget: int = BUDGET // 4
    name: str = "cva"
    tiling: Tiling = SAMPLED
    summary: str = (
        "change vector analysis after robust radiometric normalisation; "
        "any bands, scenes of 10 m and coarser"
    )

    def card(self) -> Provenance:
        """Name and parameters; see ``Model``."""
        return {"name": self.name, "budget": self.budget}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> PointwisePredictor:
        """Normalise the dates to each other and choose the threshold on a sample of the scene.

        Raises:
            SceneError: if no pixel is usable at both dates.
        """
        sample = sample_pixels(blocks, budget=self.budget)[:, :, 0]
        found = normalise(sample)
        own_band = np.eye(sample.shape[1])[:, None] * np.array([[-1], [1]])
        return fitted(found.centre, own_band * found.gain, sample)
