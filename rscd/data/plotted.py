"""Datasets that show their samples; matplotlib is imported when one is shown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plotted:
    """Base of datasets of pairs."""

    def plot(self, sample: Mapping[str, Any], rgb: Sequence[int] | None = None) -> "Figure":
        """t1, t2 and mask of one sample side by side; see :func:`rscd.data.plots.plot_samples`."""
        from rscd.data.plots import plot_samples

        return plot_samples([sample], rgb)
