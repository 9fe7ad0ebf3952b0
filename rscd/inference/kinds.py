"""Kind of change of each polygon, from a network that also predicts buildings.

A second pass looks at the tiles that hold change and keeps, for each date, how sure the network is
of a building. Under a polygon both are averaged: where the later date exceeds the earlier one by a
margin, a building appeared; where it falls short by as much, one vanished; else something stands at
both dates and changed. Where all that stands is asked for, it looks at every tile.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import ModelError
from rscd.base.types import IGNORE, BoolArray, ByteArray, DateName, FloatArray, Progress, silent
from rscd.geo.changemap import ChangeMap, RawRaster, check_numbers
from rscd.geo.polygons import Polygons, mean_under
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Tile
from rscd.inference.predictor import Tiling
from rscd.inference.tiled import Mapper, scene_tiles

MARGIN = "kind_margin"
"""Card key of networks whose buildings determine kinds: the margin, from 0 to 1."""

BYTES_PER_PIXEL = 2
"""Of scratch space: one for each date."""
MASK_BYTES_PER_PIXEL = 1
"""Of scratch space beside it where objects are outlined, one date after the other."""

FULL = 255
"""Stored value of probability 1."""

STANDING_FROM = 0.5
"""Probability from which a pixel is a building."""


@runtime_checkable
class BuildingModel(Protocol):
    """A model whose network also predicts buildings."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""

    @property
    def finds_buildings(self) -> bool:
        """Whether its network does; others have the method in vain."""

    def buildings(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """(B,2,C,H,W) raw values, (B,H,W) valid -> (B,2,H,W) in [0,1], t1 first."""


def check_finds_buildings(model: Any, option: str) -> None:
    """Find out before any work whether a model says where buildings stand.

    Args:
        model: of any kind.
        option: what asks for them, for the message.

    Raises:
        ModelError: it does not.
    """
    if not (isinstance(model, BuildingModel) and model.finds_buildings):
        raise ModelError(
            f"expected a model that finds the buildings of each date for {option}, such as "
            f"-m buildings without --msi and --tta, found {model.name}; choose one or drop {option}"
        )


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
    """How sure a network is of a building at each date, on disk."""

    t1: RawRaster
    t2: RawRaster
    margin: float

    def kinds(self, polygons: Polygons) -> NDArray[Any]:
        """(N,) kinds of polygons in pixel coordinates, see `kind_of`."""
        t1, t2 = (mean_under(polygons, raster.path) / FULL for raster in (self.t1, self.t2))
        return kind_of(t1, t2, self.margin)

    def of(self, date: DateName) -> RawRaster:
        """The probabilities of a date, 0 to `FULL`."""
        return self.t1 if date == "t1" else self.t2

    def mask(self, date: DateName, change_mask: RawRaster) -> RawRaster:
        """Write the buildings of a date as a mask, strip by strip; it replaces that of the other.

        Args:
            date: whose.
            change_mask: what has no data in it has none here.

        Returns:
            uint8: 0 none, 1 building, 255 no data.
        """
        probs = self.of(date)
        mask = RawRaster(probs.path.with_name("buildings_mask.img"), probs.shape_hw, "uint8")
        mask.create()
        for strip, prob in probs.strips():
            found = (prob >= STANDING_FROM * FULL).view(np.uint8)
            found[change_mask.read(strip) == IGNORE] = IGNORE
            mask.write(strip, found)
        return mask


def find_standing(
    pair: ScenePair,
    model: object,
    change_map: ChangeMap,
    margin: float | None,
    tile_size: int,
    mapper: Mapper = map,
    progress: Progress = silent,
    *,
    everywhere: bool = False,
) -> Standing | None:
    """Look where buildings stand, in all tiles that hold change.

    Args:
        pair: two dates on one grid.
        model: fitted, of any kind.
        change_map: with its mask; results are stored in its folder.
        margin: see `Standing`; None: the model does not determine kinds.
        tile_size: side of a tile.
        mapper: how tiles are carried out.
        progress: told after each tile.
        everywhere: look at all tiles that hold data instead.

    Returns:
        None for a model that knows no buildings.

    Raises:
        ModelError: when the model gives no number where both dates have data.
    """
    if margin is None or not isinstance(model, BuildingModel) or not model.finds_buildings:
        return None
    t1, t2 = (
        RawRaster(change_map.folder / f"buildings_{date}.img", change_map.mask.shape_hw, "uint8")
        for date in ("t1", "t2")
    )
    standing = Standing(t1, t2, margin)
    t1.create()
    t2.create()
    tiles = scene_tiles(pair, tile_size, model.tiling)
    wanted = [tile for tile in tiles if _holds(change_map.mask, tile, everywhere=everywhere)]
    looked: Iterable[tuple[Tile, ByteArray]] = mapper(partial(_look, pair, model), wanted)
    for done, (tile, stored) in enumerate(looked, 1):
        t1.write(tile.write, stored[0])
        t2.write(tile.write, stored[1])
        progress("buildings", done, len(wanted))
    return standing


def _look(pair: ScenePair, model: BuildingModel, tile: Tile) -> tuple[Tile, ByteArray]:
    """A tile with its (2,h,w) stored probabilities."""
    image, valid = pair.context(tile.read)
    found = model.buildings(image[None], valid[None])[0][:, *tile.inner]
    check_numbers(found, np.broadcast_to(valid[tile.inner], found.shape), "the model's buildings")
    return tile, np.rint(np.nan_to_num(found) * FULL).astype(np.uint8)


def _holds(mask: RawRaster, tile: Tile, *, everywhere: bool) -> bool:
    """Whether a tile holds change; or anything at all."""
    values = mask.read(tile.write)
    return bool((values != IGNORE if everywhere else values == 1).any())
