"""Otsu's threshold."""

import numpy as np
from numpy.typing import NDArray


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """The split of a set of numbers with the greatest variance between its two classes.

    Every distinct value is a bin of its own, so there is no number of bins to choose and the
    result follows any scaling of the values exactly. Among equal splits the lowest wins.
    Otsu 1979, "A threshold selection method from gray-level histograms", eq. 14 and 18.

    Args:
        values: finite numbers, any shape, at least one.

    Returns:
        The midpoint between the largest value below the split and the smallest above it;
        the common value where all are equal.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    last = np.flatnonzero(np.diff(ordered) > 0)  # last member of the lower class, per split
    if last.size == 0:
        return float(ordered[0])
    # centred, so that the sums do not lose digits to a large common offset
    sums = np.cumsum(ordered - ordered.mean())
    below = last + 1.0
    above = ordered.size - below
    between = (sums[last] * ordered.size - sums[-1] * below) ** 2 / (below * above)
    best = last[np.argmax(between)]
    return float((ordered[best] + ordered[best + 1]) / 2)
