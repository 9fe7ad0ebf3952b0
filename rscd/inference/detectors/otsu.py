"""Otsu's threshold."""

import numpy as np
from numpy.typing import NDArray


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """Threshold that maximises the variance between two classes of numbers.

    Every distinct value is its own bin, so that there is no bin count to choose and the result
    scales exactly with the values. Among equal splits the lowest is taken.
    Otsu 1979, "A threshold selection method from gray-level histograms", eq. 14 and 18.

    Args:
        values: finite numbers, any shape, at least one.

    Returns:
        The midpoint between the largest value below the split and the smallest above it;
        the common value if all are equal.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    last = np.flatnonzero(np.diff(ordered) > 0)  # last member of the lower class, per split
    if last.size == 0:
        return float(ordered[0])
    # centred, so that a large common offset costs no precision
    sums = np.cumsum(ordered - ordered.mean())
    below = last + 1.0
    above = ordered.size - below
    between = (sums[last] * ordered.size - sums[-1] * below) ** 2 / (below * above)
    best = last[np.argmax(between)]
    return float((ordered[best] + ordered[best + 1]) / 2)
