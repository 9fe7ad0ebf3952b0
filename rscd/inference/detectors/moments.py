"""Weighted moments of a sample."""

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import Float64Array

CHUNK = 1 << 15


def weighted_moments(
    values: NDArray[np.floating], weight: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Weighted mean (K,) and covariance (K, K) of (K, n) values.

    Summed in chunks of fixed size and order, without a matrix product, whose order of summation
    would depend on the number of threads. Values should be roughly centred to avoid cancellation.
    """
    size, n = values.shape
    first, second, total = np.zeros(size), np.zeros((size, size)), 0.0
    for start in range(0, n, CHUNK):
        part = values[:, start : start + CHUNK].astype(np.float64)
        w = weight[start : start + CHUNK]
        weighted = part * w
        first += weighted.sum(axis=1)
        second += np.einsum("in,jn->ij", weighted, part)
        total += w.sum()
    mean = first / total
    return mean, second / total - np.outer(mean, mean)
