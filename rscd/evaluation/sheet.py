"""Pictures of an evaluation: samples with correct and wrong pixels coloured, and reliability."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray

from rscd.base.border import shown
from rscd.base.files import write_bytes
from rscd.base.types import IGNORE, ByteArray, FloatArray
from rscd.data.plots import new_figure, to_rgb, without_ticks
from rscd.evaluation.report import Probabilities
from rscd.export.atomic import atomic_folder
from rscd.export.style import ERROR_COLOURS


def _as_in_layer(kind: str) -> tuple[float, float, float]:
    red, green, blue = dict(ERROR_COLOURS)[kind]
    return red / 255, green / 255, blue / 255


COLOURS = {
    "true positive": _as_in_layer("true"),
    "false positive": _as_in_layer("false"),
    "false negative": _as_in_layer("missed"),
    "true negative": (0.0, 0.0, 0.0),
    "not counted": (0.42, 0.42, 0.42),
}
"""Red and blue are distinguishable with red-green colour blindness."""


@dataclass(frozen=True, eq=False)
class Row:
    """One sample of a sheet."""

    image: FloatArray | None
    """(2,C,h,w) raw values; None without images."""
    predicted: ByteArray
    """(h,w) 0, 1, 255 = not counted."""
    true: ByteArray
    """(h,w) likewise."""


def judged_colours(predicted: ByteArray, true: ByteArray) -> NDArray[np.float32]:
    """Correct and wrong pixels as a (h,w,3) image in [0,1]; see `COLOURS`."""
    picture = np.empty((*true.shape, 3), np.float32)
    picture[...] = COLOURS["true negative"]
    picture[(predicted == 1) & (true == 1)] = COLOURS["true positive"]
    picture[(predicted == 1) & (true == 0)] = COLOURS["false positive"]
    picture[(predicted == 0) & (true == 1)] = COLOURS["false negative"]
    picture[(predicted == IGNORE) | (true == IGNORE)] = COLOURS["not counted"]
    return picture


def write_sheet(rows: Sequence[Row], captions: Sequence[str], path: Path) -> None:
    """Write a PNG with a row per sample: t1, t2, and prediction against truth.

    Args:
        rows: at least one.
        captions: one per row.
        path: file to write; it appears by rename.

    Raises:
        OutputError: if it cannot be written.
    """
    with_images = rows[0].image is not None
    titles = [*(("t1", "t2") if with_images else ()), "prediction against truth"]
    # the last square of a map may be one pixel wide
    heights = [float(np.clip(np.divide(*row.true.shape), 0.3, 2)) for row in rows]
    figure = new_figure(3.2 * len(titles), 3.2 * sum(heights) + 0.8)
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for line, row, caption in zip(axes, rows, captions, strict=True):
        pictures = [] if row.image is None else list(_stretched(row.image))
        pictures.append(judged_colours(row.predicted, row.true))
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
        without_ticks(line)
        line[0].set_ylabel(shown(caption), fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    legend = [Patch(facecolor=c, edgecolor="0.6", label=name) for name, c in COLOURS.items()]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(titles), fontsize=8)
    _save(figure, path)


def _stretched(image: FloatArray) -> NDArray[np.float32]:
    """Both dates as (2,h,w,3) pictures, each band stretched over both dates together.

    8-bit values are stretched as well (after division by 255): satellites use few of the 256.
    """
    bands = image[:, :3] if image.shape[1] >= 3 else np.repeat(image[:, :1], 3, axis=1)
    scaled = bands / max(1.0, float(np.abs(bands).max()))
    return np.concatenate([to_rgb(scaled, [band]) for band in range(3)], axis=-1)


def write_reliability(probabilities: Probabilities, path: Path) -> None:
    """Write a reliability diagram: fraction of changed pixels against predicted probability.

    Args:
        probabilities: with bins, some of which may be empty.
        path: PNG to write; it appears by rename.

    Raises:
        OutputError: if it cannot be written.
    """
    mean, changed, share = np.array(probabilities.reliability)
    used = share > 0
    edges = np.linspace(0, 1, len(mean) + 1)
    figure = new_figure(4.5, 5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfectly calibrated")
    upper.plot(mean[used], changed[used], marker="o", color="#c03020", label="model")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of pixels that changed")
    upper.set_title(f"expected calibration error {probabilities.ece:.4f}", fontsize=10)
    upper.legend(fontsize=8, loc="upper left")
    lower.bar(edges[:-1], share, width=np.diff(edges), align="edge", color="0.55")
    lower.set(yscale="log", xlabel="predicted probability of change", ylabel="share of pixels")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    with atomic_folder(path) as folder:
        write_bytes(folder / path.name, picture.getvalue())
