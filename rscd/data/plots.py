"""Pictures of samples: t1, t2 and mask side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rscd.base.border import shown as printable
from rscd.base.types import CHANGE_RGB, IGNORE

MASK_COLOURS = {
    0: (0.0, 0.0, 0.0),
    1: tuple(value / 255 for value in CHANGE_RGB),
    IGNORE: (0.45, 0.45, 0.45),
}
"""No change black, change as in every other picture, ignore grey."""
UNKNOWN_COLOUR = (1.0, 0.6, 0.0)
"""Orange: a value that no mask has."""


def to_rgb(image: NDArray[Any], rgb: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Both dates as RGB images, stretched together so that equal values look equal.

    8-bit data are not stretched; anything else is stretched from its 2nd to 98th percentile.

    Args:
        image: (2,C,H,W) raw values.
        rgb: 0-based bands for red, green, blue; default the first three, or the first as grey.

    Returns:
        (2,H,W,3) float32 in [0,1].
    """
    bands = list(rgb) if rgb is not None else [0, 1, 2] if image.shape[1] >= 3 else [0, 0, 0]
    shown = np.moveaxis(image[:, bands], 1, -1).astype(np.float32)
    low, high = _range(shown)
    return np.asarray(np.clip((shown - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _range(shown: NDArray[np.float32]) -> tuple[float, float]:
    finite = shown[np.isfinite(shown)]
    if finite.size == 0:
        return 0.0, 1.0
    if finite.min() >= 0 and 1 < finite.max() <= 255:
        return 0.0, 255.0
    low, high = np.percentile(finite, (2, 98))
    return float(low), float(high)


def to_colours(mask: NDArray[Any]) -> NDArray[np.float32]:
    """A mask (H,W) as (H,W,3) float32 image; values other than 0, 1 and 255 are orange."""
    shown = np.zeros((*mask.shape, 3), np.float32)
    shown[...] = UNKNOWN_COLOUR
    for value, colour in MASK_COLOURS.items():
        shown[mask == value] = colour
    return shown


def plot_samples(samples: Sequence[Mapping[str, Any]], rgb: Sequence[int] | None = None) -> Figure:
    """One row per sample: t1, t2 and, if any sample has one, the mask.

    Args:
        samples: with ``image`` (2,C,H,W) and optionally ``mask`` (1,H,W), ``name``, ``label``.
        rgb: 0-based bands shown as red, green and blue.

    Returns:
        A figure that pyplot does not manage; save it with ``figure.savefig``.
    """
    columns = 2 + any("mask" in sample for sample in samples)
    figure = new_figure(2.6 * columns, 2.6 * len(samples) + 0.25)
    axes = figure.subplots(len(samples), columns, squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        _plot_row(row, sample, rgb)
    for axis, title in zip(axes[0], ("t1", "t2", "mask"), strict=False):
        axis.set_title(title)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches that pyplot does not manage."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def without_ticks(axes: Iterable[Any]) -> None:
    """Leave only a thin frame around pictures."""
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_color("0.6")


def _plot_row(row: Sequence[Any], sample: Mapping[str, Any], rgb: Sequence[int] | None) -> None:
    t1, t2 = to_rgb(np.asarray(sample["image"]), rgb)
    row[0].imshow(t1)
    row[1].imshow(t2)
    if "mask" in sample:
        row[2].imshow(to_colours(np.asarray(sample["mask"])[0]), interpolation="nearest")
    without_ticks(row)
    caption = str(sample.get("name", ""))
    if "label" in sample:
        caption += f"\nlabel {int(sample['label'])}"
    row[0].set_ylabel(printable(caption), fontsize=7)
