"""Contact sheets of the pairs of a folder."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from rscd.base.errors import DataError
from rscd.base.files import appearing, write_bytes, writing
from rscd.data.folder import PairFolder
from rscd.data.plots import plot_samples


def show(
    folder: Path | str,
    out_png: Path | str,
    *,
    n: int = 8,
    split: str | None = None,
) -> Path:
    """Write a PNG with one row per pair: t1, t2 and, if there is one, the mask.

    Args:
        folder: a folder of image pairs.
        out_png: file to write; it appears by rename.
        n: maximum number of pairs, spread evenly over the folder.
        split: only this split.

    Returns:
        The path of the PNG.

    Raises:
        DataError: if there are no pairs or one cannot be read.
        OutputError: if the PNG cannot be written.
    """
    if n < 1:
        raise DataError(f"n is {n}; a contact sheet shows at least one pair")
    data = PairFolder(folder, split)
    return write_sheet([data[i] for i in spread(len(data), n)], out_png)


def spread(count: int, n: int) -> list[int]:
    """At most ``n`` of ``count`` indices, evenly spread, including the first and the last."""
    if n >= count:
        return list(range(count))
    if n == 1:
        return [0]
    return [round(i * (count - 1) / (n - 1)) for i in range(n)]


def write_sheet(samples: Sequence[dict[str, Any]], out_png: Path | str) -> Path:
    """Write samples of any dataset as one image; see :func:`rscd.data.plots.plot_samples`.

    Raises:
        OutputError: if the PNG cannot be written.
    """
    out = Path(out_png)
    picture = BytesIO()
    plot_samples(samples).savefig(picture, format="png")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with appearing(out) as part:
            write_bytes(part, picture.getvalue())
    return out
