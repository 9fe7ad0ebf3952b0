"""How much of a polygon goes away when one date is moved: the mark of a wrong registration.

Where the dates do not fit, or a roof leans, edges appear as change. Such a sliver is as wide as the
shift, and vanishes for one direction in which a date is moved; a building that came or went stays
whatever the direction.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import shapely

from rscd.base.types import DateName, Float64Array, Progress, silent
from rscd.geo.changemap import ChangeMap, RawRaster, binarise
from rscd.geo.polygons import Polygons, mean_under
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Tile, batches
from rscd.inference.predictor import Predictor
from rscd.inference.tiled import Mapper, run_block, scene_tiles

DIRECTIONS = tuple(
    (math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)) for turn in range(8)
)
"""Columns and rows of a move by one pixel."""
REACH_PX = (1.0, 4.0)
"""Least and greatest move where none is given; it is the least where no error can be estimated."""


def misreg_reach(asked: float | Literal["auto"], error: float | None) -> float:
    """By how many pixels a date is moved: the usual error, for longer moves take true change too.

    Args:
        asked: the number, or ``auto``.
        error: how far the dates lie apart, see `rscd.geo.register.usual_error`; None: not known.
    """
    if asked != "auto":
        return float(asked)
    return round(float(np.clip(error or 0.0, *REACH_PX)), 2)


def misregistration(
    pair: ScenePair,
    predictor: Predictor,
    change_map: ChangeMap,
    polygons: Polygons,
    *,
    date: DateName,
    reach_px: float,
    tile_size: int,
    batch_size: int = 1,
    mapper: Mapper = map,
    progress: Progress = silent,
) -> Float64Array:
    """The fraction of each polygon that is no change any more when one date is moved.

    Of the eight directions the one counts that takes most away. Only tiles with polygons are
    predicted again; the raster of what stays lies in the folder of the change map.

    Args:
        pair: the two dates on one grid.
        predictor: fitted, which made ``change_map``.
        change_map: whose threshold counts.
        polygons: (N,) in pixel coordinates.
        date: which is moved.
        reach_px: how far.
        tile_size: as of the change map.
        batch_size: tiles per call of the predictor.
        mapper: how blocks of tiles are carried out.
        progress: progress callback.

    Returns:
        (N,) from 0 to 1.
    """
    tiles = _with_polygons(scene_tiles(pair, tile_size, predictor.tiling), polygons)
    left = np.ones(len(polygons))
    still = RawRaster(change_map.folder / "misreg.img", change_map.prob.shape_hw, "uint8")
    done, total = 0, len(tiles) * len(DIRECTIONS)
    for cols, rows in DIRECTIONS if tiles else ():
        moved = pair.nudged(date, (reach_px * cols, reach_px * rows))
        still.create()
        for pieces in mapper(partial(run_block, moved, predictor), batches(tiles, batch_size)):
            for piece in pieces:
                mask = binarise(piece.prob, change_map.threshold)
                # where the moved date has no data nothing is known: what was change stays
                still.write(piece.tile.write, (mask != 0).view(np.uint8))
            done += len(pieces)
            progress("misreg", done, total)
        left = np.minimum(left, mean_under(polygons, still.path))
    return 1 - left


def _with_polygons(tiles: Sequence[Tile], polygons: Polygons) -> list[Tile]:
    if not len(polygons):
        return []
    tree = shapely.STRtree(polygons)

    def boxes() -> Iterator[shapely.Geometry]:
        for tile in tiles:
            row, col = tile.write.corner
            yield shapely.box(col, row, col + tile.write.width, row + tile.write.height)

    touched = set(tree.query(list(boxes()), predicate="intersects")[0].tolist())
    return [tile for number, tile in enumerate(tiles) if number in touched]
