"""Synthetic towns as a folder of pairs, for programs that read folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rscd.base.errors import DataError
from rscd.base.files import write_whole
from rscd.data.images import write_picture
from rscd.data.labels import write_label_list
from rscd.synthetic.town_pairs import TownPairs

FOLDERS = ("A", "B", "label")
SEED_STEP = 1_000_003
"""Offset between indices of the towns of two splits, and of towns with and without change."""


def write_town_folder(
    root: Path | str,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    patch_size: int = 128,
    empty_share: float = 0.5,
    min_change_pixels: int = 1,
    town_args: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write ``A/ B/ label/`` and ``list/`` with image-level labels, replacing existing files.

    Every split has a fraction of pairs without construction, so that both image-level labels occur;
    the other pairs have change.

    Args:
        root: folder to fill.
        counts: pairs by split.
        seed: another seed gives entirely different towns.
        patch_size: side, pixels.
        empty_share: fraction of pairs without change in each split.
        min_change_pixels: least number of changed pixels of a pair with change.
        town_args: of `rscd.synthetic.town_pairs.TownPairs`: ``gsd_m``, ``change_share``, ...
        progress: progress callback, called after each pair.

    Returns:
        The folder.

    Raises:
        DataError: for invalid parameters, or towns that never change.
    """
    root = Path(root)
    total, done = sum(counts.values()), 0
    for number, (split, count) in enumerate(counts.items()):
        labels: dict[str, int] = {}
        n_empty = round(count * empty_share)
        for changed, wanted in ((1, count - n_empty), (0, n_empty)):
            args = dict(town_args or {}) | ({} if changed else {"change_share": 0.0})
            towns = TownPairs(
                seed=seed + SEED_STEP * (2 * number + changed), patch_size=patch_size, **args
            )
            index = 0
            for place in range(wanted):
                name = f"{split}_{changed}_{place:05d}"
                index = _write(root, name, towns, index, min_change_pixels if changed else 0)
                labels[name] = changed
                done += 1
                progress(done, total)
        names = "".join(f"{name}.png\n" for name in labels)
        write_whole(root / "list" / f"{split}.txt", names)
        write_label_list(root / "list" / f"{split}_label.txt", labels)
    return root


def _write(root: Path, name: str, towns: TownPairs, index: int, least: int) -> int:
    """Write the next town with at least `least` changed pixels; returns the index after it."""
    for number in range(index, index + 1000):
        town = towns[number]
        mask = town["mask"].numpy()
        if int(np.count_nonzero(mask == 1)) >= least:
            pictures = (*town["image"].numpy(), mask * 255)
            for folder, pixels in zip(FOLDERS, pictures, strict=True):
                (root / folder).mkdir(parents=True, exist_ok=True)
                write_picture(root / folder / f"{name}.png", pixels.astype(np.uint8))
            return number + 1
    raise DataError(
        f"expected a town with {least} changed pixels, found none in 1000; raise change_share"
    )
