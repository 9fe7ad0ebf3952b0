"""Locations of the tiles of a dataset, from georeferencing or from their names."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from rscd.base.types import Bounds
from rscd.data.images import RASTER_SUFFIXES, open_raster

WHU_COLUMNS = 126
"""Tiles per row of WHU-CD's 32507 x 15354 pixels with tiles of 256."""


@dataclass(frozen=True)
class Tile:
    """One tile and the area it covers."""

    name: str
    scene: str
    """Scene; tiles of different scenes never touch. For georeferenced tiles the CRS."""
    box: Bounds
    """(left, bottom, right, top) in CRS units, or in pixels with rows counted downwards."""


def parent_of(name: str) -> str:
    """The scene a tile was cut from, by the published naming schemes; else the name itself.

    ``train_12_3`` (LEVIR-CD) gives ``train_12``, ``test_2_0256_0512`` gives ``test_2``,
    ``whucd_00017`` gives ``whucd``, ``x_r003_c012`` and ``AOI1-tile_2-3`` give ``x`` and ``AOI1``.
    """
    tile = tile_from_name(name)
    return tile.scene if tile is not None else name


def tile_from_name(name: str, patch: int = 256) -> Tile | None:
    """The tile denoted by a published name, or None if the name does not tell.

    LEVIR-CD's ``SCENE_J`` (J = 1 to 16 of a 1024 pixel scene) and WHU-CD's running numbers are
    assumed to run row by row, which the papers do not state.

    Args:
        name: pair name without folder and suffix.
        patch: tile side in pixels, if the name does not imply it.

    Returns:
        The tile with its box in pixels of the scene.
    """
    name = name.rpartition("/")[2]
    for pattern, place in _PATTERNS:
        match = pattern.fullmatch(name)
        if match:
            scene, column, row = place(match, patch)
            return Tile(name, scene, (column, row, column + patch, row + patch))
    return None


def _numbered(match: re.Match[str], patch: int) -> tuple[str, int, int]:
    columns = WHU_COLUMNS if match["scene"] == "whucd" else 1024 // patch
    row, column = divmod(int(match["n"]) - 1, columns)
    return match["scene"], column * patch, row * patch


def _indices(match: re.Match[str], patch: int) -> tuple[str, int, int]:
    return match["scene"], int(match["c"]) * patch, int(match["r"]) * patch


def _offsets(match: re.Match[str], _patch: int) -> tuple[str, int, int]:
    return match["scene"], int(match["c"]), int(match["r"])


# the first matching pattern is used
_PATTERNS = (
    (re.compile(r"(?P<scene>whucd)_(?P<n>\d{5})"), _numbered),
    (re.compile(r"(?P<scene>.+)_r(?P<r>\d+)_c(?P<c>\d+)"), _indices),
    (re.compile(r"(?P<scene>.+)_(?P<r>\d{4})_(?P<c>\d{4})"), _offsets),
    (re.compile(r"(?P<scene>.+)-tile_(?P<r>\d+)-(?P<c>\d+)"), _indices),
    (re.compile(r"(?P<scene>(?:train|val|test)_\d+)_(?P<n>\d{1,2})"), _numbered),
)


def tile_from_file(name: str, path: Path) -> Tile | None:
    """The tile of a georeferenced file; None without georeferencing."""
    if path.suffix.lower() not in RASTER_SUFFIXES:
        return None
    with open_raster(path) as dataset:
        if dataset.transform.is_identity:
            return None
        left, bottom, right, top = dataset.bounds
        return Tile(name, str(dataset.crs), (left, bottom, right, top))


def find_tiles(files: Iterable[tuple[str, Path]], patch: int = 256) -> list[Tile]:
    """The tiles of those files that have a location, from georeferencing first, then by name.

    Args:
        files: (pair name, file of one date).
        patch: tile side in pixels for names that give only an index.
    """
    found = [tile_from_file(n, p) or _named(n, patch) for n, p in files]
    return [tile for tile in found if tile is not None]


def _named(name: str, patch: int) -> Tile | None:
    tile = tile_from_name(name, patch)
    return Tile(name, tile.scene, tile.box) if tile is not None else None


def touching_pairs(tiles: Sequence[Tile]) -> list[tuple[str, str]]:
    """Names of tiles of one scene that touch (also at a corner) or overlap, each pair once.

    Args:
        tiles: boxes of one scene in one coordinate system.
    """
    pairs: list[tuple[str, str]] = []
    for scene in sorted({tile.scene for tile in tiles}):
        here = [tile for tile in tiles if tile.scene == scene]
        boxes = shapely.box(*np.array([tile.box for tile in here], float).T)
        first, second = shapely.STRtree(boxes).query(boxes, predicate="dwithin", distance=0.0)
        keep = first < second
        pairs += [
            (here[i].name, here[j].name) for i, j in zip(first[keep], second[keep], strict=True)
        ]
    return pairs
