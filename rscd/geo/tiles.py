"""Tiles: integer arithmetic on pixel boxes, no I/O.

Write boxes partition the scene exactly; each read box is its write box plus the halo, and may
reach beyond the scene (`rscd.geo.scene.ScenePair.read` reflects there).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import BoolArray, ShapeHW


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

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of an array of the whole scene."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    @property
    def corner(self) -> tuple[int, int]:
        """(row, column) of the upper left pixel."""
        return self.row, self.col

    def moved(self, rows: int, cols: int) -> "Box":
        """The box shifted down by rows and right by columns."""
        return Box(self.row + rows, self.col + cols, self.height, self.width)

    def grown(self, by: int) -> "Box":
        """The box with so many more pixels on every side."""
        return Box(self.row - by, self.col - by, self.height + 2 * by, self.width + 2 * by)

    def within(self, shape_hw: ShapeHW) -> BoolArray:
        """(h,w) which of its pixels lie in an array of this size."""
        rows = np.arange(self.row, self.row + self.height)[:, None]
        cols = np.arange(self.col, self.col + self.width)
        return (rows >= 0) & (rows < shape_hw[0]) & (cols >= 0) & (cols < shape_hw[1])

    def common(self, other: "Box") -> "Box":
        """The intersection of two boxes; of zero height or width if they do not meet."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.col + self.width, other.col + other.width)
        return Box(row, col, max(0, bottom - row), max(0, right - col))


@dataclass(frozen=True)
class Tile:
    """A unit of tiled inference."""

    index: int
    """Position in row-major order."""
    read: Box
    """Box the model reads: the write box, the halo, and padding to its multiple."""
    write: Box
    """The part of the result that the tile owns."""

    @property
    def inner(self) -> tuple[slice, slice]:
        """The write box relative to the read box."""
        top, left = self.write.row - self.read.row, self.write.col - self.read.col
        return slice(top, top + self.write.height), slice(left, left + self.write.width)

    def moved(self, rows: int, cols: int) -> "Tile":
        """The tile with both boxes shifted down by rows and right by columns."""
        return Tile(self.index, self.read.moved(rows, cols), self.write.moved(rows, cols))


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def plan_tiles(
    shape_hw: ShapeHW,
    tile_size: int,
    halo: int = 0,
    multiple: int = 1,
    window: Box | None = None,
    *,
    trim: bool = True,
) -> list[Tile]:
    """Cut a scene, or a part of it, into tiles, row by row.

    A part is tiled along the lattice of the whole scene: a model sees each pixel at the same phase,
    and with the same surroundings, as when the whole scene is predicted.

    Args:
        shape_hw: size of the scene, at least 1 x 1.
        tile_size: side of a write box; rounded up to `multiple`, so that every read box starts at
            the same phase of a strided network and results do not depend on the tile size.
        halo: context per side; rounded up likewise.
        multiple: sizes the model accepts are multiples of this.
        window: the requested part, inside the scene; default all of it.
        trim: read only around the requested part of a tile; False reads what the tile of the whole
            scene reads, for models whose result depends on more than the halo.

    Returns:
        Tiles in pixels of the scene; their write boxes cover the window, each pixel once.
    """
    height, width = shape_hw
    step, halo = round_up(tile_size, multiple), round_up(halo, multiple)
    part = Box(0, 0, height, width) if window is None else window
    tiles: list[Tile] = []
    for row in range(part.row // step * step, part.row + part.height, step):
        for col in range(part.col // step * step, part.col + part.width, step):
            cell = Box(row, col, min(step, height - row), min(step, width - col))
            write = cell.common(part)
            seen = write if trim else cell
            top, left = (start // multiple * multiple for start in (seen.row, seen.col))
            read = Box(
                top - halo,
                left - halo,
                round_up(seen.row + seen.height - top, multiple) + 2 * halo,
                round_up(seen.col + seen.width - left, multiple) + 2 * halo,
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

    Any distance beyond the edge is allowed: reflection repeats back and forth.
    """
    if size == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    phase = np.arange(start, stop) % period
    return np.minimum(phase, period - phase).astype(np.intp)
