"""Tiles and splits of the published tilings of WHU-CD, LEVIR-CD and DSIFN-CD.

Only plans: just the sizes of the sources are read. :mod:`rscd.data.prepare` cuts the tiles.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rscd.base.errors import DataError
from rscd.base.types import ShapeHW
from rscd.data.layout import find_layout
from rscd.data.sources import find_rasters, shape_of
from rscd.data.splits import Split, random_split

SPLITS = ("train", "val", "test")
DSIFN_MOVED, DSIFN_TRAIN = 1638, 14400
"""Tiles moved from train to test, and their total; stand-ins move the same fraction."""

TileOrder = Literal["rows", "columns"]
"""How the tiles of a LEVIR-CD scene are numbered. Its papers do not say; a list of tile names is a
list of the same pixels only if the order is the same."""

Triple = tuple[Path, Path, Path]
"""Files of t1, t2 and label."""


@dataclass(frozen=True)
class Published:
    """Published facts about a prepared set."""

    sources: Mapping[str, int] | ShapeHW
    """Pairs by split, or the (height, width) of the single pair."""
    counts: Mapping[str, int]
    """256 x 256 tiles by split."""
    test_share: float
    """Fraction of changed pixels in the test set (``methods/kdmsi.md`` section 6)."""
    tolerance: float
    """Tolerance of that fraction; wide if our split is a different random draw."""


PUBLISHED = {
    "whu": Published((15354, 32507), {"train": 5947, "val": 743, "test": 744}, 0.040, 0.015),
    "levir": Published(
        {"train": 445, "val": 64, "test": 128},
        {"train": 7120, "val": 1024, "test": 2048},
        0.051,
        0.001,
    ),
    "dsifn": Published(
        {"train": 3600, "val": 340, "test": 48},
        {"train": 12762, "val": 1360, "test": 1830},
        0.340,
        0.034,
    ),
}


@dataclass(frozen=True)
class Cut:
    """One tile to cut."""

    name: str
    parent: str
    files: Triple
    column: int
    """Column of the upper-left pixel in the source."""
    row: int


def plan(
    name: str,
    src: Path,
    *,
    patch: int = 256,
    seed: int = 0,
    files: Triple | None = None,
    whole_parents: bool = False,
    tile_order: TileOrder = "rows",
) -> tuple[list[Cut], Split, Mapping[str, int] | ShapeHW, list[str]]:
    """The tiles :func:`prepare` would cut; reads only the sizes of the sources.

    Returns:
        The tiles in the order they are cut, their split, the size of the source in the terms of
        :class:`Published`, and notes for the manifest.
    """
    if name not in PUBLISHED:
        raise DataError(f"no published tiling {name!r}; known are {', '.join(PUBLISHED)}")
    if tile_order != "rows" and name != "levir":
        raise DataError(
            f"expected tile order rows for {name}, found {tile_order}: only LEVIR-CD's is open"
        )
    if name == "whu":
        files = files or find_rasters(src)
        shape = _common_shape(files)
        origins = tile_origins(shape, patch)
        if not origins:
            size = f"{shape[1]} x {shape[0]}"
            raise DataError(f"{files[0]}: {size} pixels contain no tile of {patch}")
        cuts = [Cut(f"whucd_{n:05d}", "whucd", files, *at) for n, at in enumerate(origins, 1)]
        return cuts, whu_split([cut.name for cut in cuts], seed), shape, []
    parts, sources = _plan_parts(src, patch, tile_order)
    cuts = [cut for part in parts.values() for cut in part]
    notes: list[str] = []
    if name == "dsifn":
        parts, notes = move_tiles(parts, seed, whole_parents)
    members = {part: tuple(cut.name for cut in found) for part, found in parts.items()}
    rule = (
        "as distributed" if name == "levir" else f"as distributed, train to test with seed {seed}"
    )
    return cuts, Split(members, rule), sources, notes


def tile_origins(shape_hw: ShapeHW, patch: int) -> list[tuple[int, int]]:
    """(column, row) of the upper-left pixels of all full tiles, row by row.

    A source of 32507 x 15354 has 126 x 59 tiles of 256.
    """
    height, width = shape_hw
    rows, columns = range(height // patch), range(width // patch)
    return [(column * patch, row * patch) for row in rows for column in columns]


def whu_split(names: Sequence[str], seed: int) -> Split:
    """80 / 10 / 10 % at random, val and train rounded down: 5947 / 743 / 744 of 7434."""
    n = len(names)
    counts = {"train": n * 8 // 10, "val": n // 10}
    return random_split(names, counts | {"test": n - sum(counts.values())}, seed)


def move_tiles(
    parts: Mapping[str, list[Cut]], seed: int, whole_parents: bool = False
) -> tuple[dict[str, list[Cut]], list[str]]:
    """Move DSIFN-CD's fraction of training tiles to the test set, parent by parent.

    Returns:
        The new parts and a note that names a parent with tiles on both sides, if there is one.
    """
    train = parts["train"]
    wanted = len(train) * DSIFN_MOVED // DSIFN_TRAIN
    parents = sorted({cut.parent for cut in train})
    random.Random(seed).shuffle(parents)
    by_parent: dict[str, list[Cut]] = {parent: [] for parent in parents}
    for cut in train:
        by_parent[cut.parent].append(cut)
    moved: list[Cut] = []
    notes = []
    for parent in parents:
        missing = wanted - len(moved)
        if missing <= 0:
            break
        tiles = by_parent[parent]
        if missing < len(tiles) and not whole_parents:
            notes.append(f"parent {parent} has {missing} tiles in test and the others in train")
            tiles = tiles[:missing]
        moved += tiles
    gone = {cut.name for cut in moved}
    kept = [cut for cut in train if cut.name not in gone]
    return {"train": kept, "val": parts["val"], "test": [*parts["test"], *moved]}, notes


def _plan_parts(
    src: Path, patch: int, tile_order: TileOrder
) -> tuple[dict[str, list[Cut]], dict[str, int]]:
    layout = find_layout(src)
    parts: dict[str, list[Cut]] = {}
    sources = {}
    for split in SPLITS:
        chosen = layout.select(split)
        sources[split] = len(chosen)
        parts[split] = []
        for part, name in chosen:
            here = layout.parts[part]
            kinds = {"t1": here.t1, "t2": here.t2, "label": here.mask}
            for kind in [kind for kind, there in kinds.items() if name not in there]:
                raise DataError(f"{here.base}: {name} has no {kind} file; complete the set")
            files = (here.t1[name], here.t2[name], here.mask[name])
            parent = name if name.startswith(f"{split}_") else f"{split}_{name}"
            origins = tile_origins(_common_shape(files), patch)
            if tile_order == "columns":
                origins.sort()
            cuts = (Cut(f"{parent}_{n}", parent, files, *at) for n, at in enumerate(origins, 1))
            parts[split] += cuts
    return parts, sources


def _common_shape(files: Triple) -> ShapeHW:
    shapes = [shape_of(path) for path in files]
    if len(set(shapes)) != 1:
        sizes = ", ".join(
            f"{path.name} {w} x {h}" for path, (h, w) in zip(files, shapes, strict=True)
        )
        raise DataError(f"{files[0].parent}: the files differ in size ({sizes}); complete the set")
    return shapes[0]
