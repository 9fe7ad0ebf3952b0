"""Kind of change of each polygon, from a network that also predicts buildings.

A second pass over the tiles that contain change stores the building probability of each date. Both
are averaged under each polygon: if the later date exceeds the earlier one by a margin, a building
appeared; if it is lower by that margin, one vanished; otherwise there is something at both dates
that changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import BoolArray, FloatArray, Progress, silent
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.polygons import Polygons, mean_under
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Tile
from rscd.inference.predictor import Tiling
from rscd.inference.tiled import scene_tiles

MARGIN = "kind_margin"
"""Card key of networks whose buildings determine kinds: the margin, from 0 to 1."""

BYTES_PER_PIXEL = 2
"""Bytes of scratch space per pixel: one for each date."""

FULL = 255
"""Stored value of probability 1."""


@runtime_checkable
class BuildingModel(Protocol):
    """A model whose network also predicts buildings."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""
        ...

    def buildings(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """(B,2,C,H,W) raw values, (B,H,W) valid -> (B,2,H,W) in [0,1], t1 first."""
        ...


def kind_of(t1: NDArray[np.float64], t2: NDArray[np.float64], margin: float) -> NDArray[Any]:
    """Kinds of polygons.

    Args:
        t1: (N,) mean building probability under each polygon at the earlier date.
        t2: (N,) likewise at the later date.
        margin: least difference if something appeared or vanished.

    Returns:
        (N,) of ``appeared``, ``vanished`` and ``changed``. Swapping the dates swaps the first two
        and nothing else.
    """
    rise = t2 - t1
    names = np.array(["vanished", "changed", "appeared"], dtype=object)
    kinds: NDArray[Any] = names[1 + (rise >= margin).astype(int) - (-rise >= margin).astype(int)]
    return kinds


@dataclass(frozen=True)
class Standing:
    """Building probabilities of each date on disk, only in tiles that contain change."""

    t1: RawRaster
    t2: RawRaster
    margin: float

    def kinds(self, polygons: Polygons) -> NDArray[Any]:
        """(N,) kinds of polygons in pixel coordinates, see `kind_of`."""
        t1, t2 = (mean_under(polygons, raster.path) / FULL for raster in (self.t1, self.t2))
        return kind_of(t1, t2, self.margin)


def find_standing(
    pair: ScenePair,
    model: object,
    change_map: ChangeMap,
    margin: float | None,
    tile_size: int,
    progress: Progress = silent,
) -> Callable[[Polygons], NDArray[Any]] | None:
    """Predict buildings in all tiles that contain change.

    Args:
        pair: two dates on one grid.
        model: fitted, of any kind.
        change_map: with its mask; results are stored in its folder.
        margin: see `Standing`; None: the model does not determine kinds.
        tile_size: side of a tile.
        progress: progress callback, called after each tile.

    Returns:
        The source of polygon kinds; None for a model without kinds.
    """
    if margin is None or not isinstance(model, BuildingModel):
        return None
    standing = Standing(_raster(change_map, "t1"), _raster(change_map, "t2"), margin)
    for raster in (standing.t1, standing.t2):
        raster.create()
    tiles = scene_tiles(pair, tile_size, model.tiling)
    for done, tile in enumerate(tiles, 1):
        if _changed(change_map.mask, tile):
            image, valid = pair.context(tile.read)
            found = model.buildings(image[None], valid[None])[0]
            stored = np.rint(found[:, *tile.inner] * FULL).astype(np.uint8)
            standing.t1.write(tile.write, stored[0])
            standing.t2.write(tile.write, stored[1])
        progress("kinds", done, len(tiles))
    return standing.kinds


def _raster(change_map: ChangeMap, date: str) -> RawRaster:
    path: Path = change_map.folder / f"buildings_{date}.img"
    return RawRaster(path, change_map.mask.shape_hw, "uint8")


def _changed(mask: RawRaster, tile: Tile) -> bool:
    own = tile.write
    rows = mask.read_rows(own.row, own.row + own.height)
    return bool((rows[:, own.col : own.col + own.width] == 1).any())
