"""Tiles: integer arithmetic on pixel boxes, no I/O.

Write boxes partition the scene exactly; each read box is its write box plus the halo, and may
reach beyond the scene (`rscd.geo.scene.ScenePair.read` reflects there).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rscd.types import ShapeHW


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; may lie partly outside its scene."""

    row: int
    col: int
    height: int
    width: int

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width)."""
        return self.height, self.width


@dataclass(frozen=True)
class Tile:
    """A unit of planned inference."""

    index: int
    """Position in row-major order."""
    read: Box
    """What the model sees: the write box, the halo, and what rounding to its multiple adds."""
    write: Box
    """What the tile owns of the result."""

    @property
    def inner(self) -> tuple[slice, slice]:
        """Where the write box lies within the read box."""
        top, left = self.write.row - self.read.row, self.write.col - self.read.col
        return slice(top, top + self.write.height), slice(left, left + self.write.width)


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def plan_tiles(shape_hw: ShapeHW, tile_size: int, halo: int = 0, multiple: int = 1) -> list[Tile]:
    """Cut a scene into tiles, row by row.

    Args:
        shape_hw: size of the scene, at least 1 x 1.
        tile_size: side of a write box; rounded up to `multiple`, so that every read box starts at
            the same phase of a strided network and results do not depend on the tile size.
        halo: context per side; rounded up likewise.
        multiple: sizes the model accepts are multiples of this.
    """
    height, width = shape_hw
    step, halo = round_up(tile_size, multiple), round_up(halo, multiple)
    tiles: list[Tile] = []
    for row in range(0, height, step):
        for col in range(0, width, step):
            write = Box(row, col, min(step, height - row), min(step, width - col))
            read = Box(
                row - halo,
                col - halo,
                round_up(write.height, multiple) + 2 * halo,
                round_up(write.width, multiple) + 2 * halo,
            )
            tiles.append(Tile(len(tiles), read, write))
    return tiles


def batches(tiles: Sequence[Tile], size: int) -> Iterator[list[Tile]]:
    """Consecutive tiles of one read shape, at most `size` at a time, in their order."""
    for _, same_shape in groupby(tiles, key=lambda tile: tile.read.shape_hw):
        run = list(same_shape)
        for start in range(0, len(run), size):
            yield run[start : start + size]


def reflect(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Indices start..stop-1 of an axis continued by reflection without repeating the edge.

    Any distance beyond the edge is legal: reflection goes on back and forth.
    """
    if size == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    phase = np.arange(start, stop) % period
    return np.minimum(phase, period - phase).astype(np.intp)
