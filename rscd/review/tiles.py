"""Pictures of a scene for the page: tiles at up to three zoom levels, and thumbnails.

Zoom 0 shows a display pixel as a screen pixel, zoom -1 half of that, as Leaflet counts them. A
tile ``z/x/y`` is the y-th row and x-th column of its zoom level.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np
import shapely

from rscd.base.types import CHANGE_RGB, ByteArray, Progress, ShapeHW, silent
from rscd.geo.tiles import Box
from rscd.review.view import View

TILE_PX = 256
MOST_LEVELS = 3
BLOCK = 4
"""Tiles per side of what is read at once: one tile of the coarsest of three levels."""
SAMPLES = 6
"""Blocks from which the size of a level is estimated."""
SPARE = 1.1
"""A level that is estimated to be larger by more than this is not tried."""
BLANK = (32, 32, 32)
"""Beyond the scene, as the background of the map."""

THUMB_SIDES = (128, 96, 64)
"""Sides of thumbnails in pixels: smaller ones where many have to fit."""
AROUND = 1.8
"""Sides of a thumbnail's scene, in sides of the polygon."""
LEAST_SCENE_PX = 48

_WEBP = [cv2.IMWRITE_WEBP_QUALITY, 75]
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80]


@dataclass(frozen=True)
class Levels:
    """Zoom levels that are stored, from coarse to fine."""

    coarsest: int
    finest: int


def encoded(picture: ByteArray, suffix: str = ".webp") -> bytes:
    """(h,w,3) uint8 RGB as the content of a file."""
    _, content = cv2.imencode(suffix, picture[:, :, ::-1], _WEBP if suffix == ".webp" else _JPEG)
    return bytes(content.tobytes())


def text_of(content: bytes) -> str:
    """Bytes as the page stores them."""
    return base64.b64encode(content).decode("ascii")


def levels_of(shape_hw: ShapeHW, finest: int = 0) -> Levels:
    """At most three levels, none coarser than a scene in one tile.

    Args:
        shape_hw: of the scene in display pixels.
        finest: zoom of the finest.
    """
    whole = -max(0, math.ceil(math.log2(max(shape_hw) / TILE_PX)))
    finest = max(finest, whole)
    return Levels(max(whole, finest - MOST_LEVELS + 1), finest)


def tile_picture(view: View, date: int, zoom: int, x: int, y: int) -> ByteArray | None:
    """One tile of one date (0 or 1), (256,256,3) uint8; None beyond the scene."""
    found = _level_block(view, zoom, y, x, 1)
    return None if found is None else np.asarray(found[date], np.uint8)


def _level_block(view: View, zoom: int, row: int, col: int, tiles: int) -> ByteArray | None:
    """Both dates of a square of tiles at a zoom level, (2,s,s,3), blank beyond the scene."""
    side, step = tiles * TILE_PX, 2**-zoom
    height, width = view.shape_hw
    top, left = row * TILE_PX * step, col * TILE_PX * step
    if row < 0 or col < 0 or top >= height or left >= width:
        return None
    box = Box(top, left, side * step, side * step).common(Box(0, 0, height, width))
    inner = (math.ceil(box.height / step), math.ceil(box.width / step))
    found = np.empty((2, side, side, 3), np.uint8)
    found[...] = BLANK
    found[:, : inner[0], : inner[1]] = _smooth(view, box, inner, step)
    return found


def _smooth(view: View, box: Box, size_hw: ShapeHW, step: int) -> ByteArray:
    """A box in fewer pixels: read at up to twice the size and averaged, so that lines stay."""
    if step == 1:
        return view.read(box, size_hw)
    finer = (min(2 * size_hw[0], box.height), min(2 * size_hw[1], box.width))
    read = view.read(box, finer)
    return np.stack([_shrunk(date, size_hw) for date in read])


def _shrunk(picture: ByteArray, size_hw: ShapeHW) -> ByteArray:
    shrunk = cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


def _block_tiles(view: View, levels: Levels, row: int, col: int) -> Iterator[tuple[str, bytes]]:
    """Tiles of a block at all levels; the block is read once, at the finest.

    Args:
        view: the scene.
        levels: the zoom levels.
        row: of the block.
        col: of the block.

    Yields:
        ``t1/z/x/y`` and the content of the file.
    """
    found = _level_block(view, levels.finest, row * BLOCK, col * BLOCK, BLOCK)
    if found is None:
        return
    for zoom in range(levels.finest, levels.coarsest - 1, -1):
        count = BLOCK >> (levels.finest - zoom)
        for date, y, x in product((0, 1), range(count), range(count)):
            tile = found[date, y * TILE_PX :, x * TILE_PX :][:TILE_PX, :TILE_PX]
            if (tile != BLANK).any():
                yield f"t{date + 1}/{zoom}/{col * count + x}/{row * count + y}", encoded(tile)
        if zoom > levels.coarsest:
            half = (found.shape[1] // 2, found.shape[2] // 2)
            found = np.stack([_shrunk(date, half) for date in found])


def _blocks(view: View, levels: Levels) -> list[tuple[int, int]]:
    step = BLOCK * TILE_PX * 2**-levels.finest
    rows, cols = (math.ceil(side / step) for side in view.shape_hw)
    return list(product(range(rows), range(cols)))


def embedded_tiles(
    view: View, budget: int, progress: Progress = silent
) -> tuple[Levels, Mapping[str, str]] | None:
    """The finest levels of tiles that fit into a number of characters.

    Args:
        view: the scene.
        budget: characters that all tiles may take in the page.
        progress: progress callback.

    Returns:
        Levels, and the tiles by ``t1/z/x/y``; None if not even one tile of the whole fits.
    """
    levels = levels_of(view.shape_hw)
    while True:
        found = _tiles_within(view, levels, budget, progress)
        if found is not None:
            return levels, found
        coarser = levels_of(view.shape_hw, levels.finest - 1)
        if coarser.finest == levels.finest:
            return None
        levels = coarser


def _tiles_within(
    view: View, levels: Levels, budget: int, progress: Progress
) -> dict[str, str] | None:
    blocks = _blocks(view, levels)
    if len(blocks) > 2 * SAMPLES:
        some = [blocks[(2 * i + 1) * len(blocks) // (2 * SAMPLES)] for i in range(SAMPLES)]
        sizes = [sum(len(text_of(c)) for _, c in _block_tiles(view, levels, *at)) for at in some]
        if float(np.mean(sizes)) * len(blocks) > SPARE * budget:
            return None
    found: dict[str, str] = {}
    left = budget
    for done, at in enumerate(blocks):
        progress("pictures", done, len(blocks))
        for key, content in _block_tiles(view, levels, *at):
            found[key] = text_of(content)
            left -= len(key) + len(found[key]) + 6
        if left < 0:
            return None
    progress("pictures", len(blocks), len(blocks))
    return found


def thumbnail(view: View, outline: Any, side: int) -> tuple[ByteArray, ByteArray]:
    """A polygon before and after, outlined.

    Args:
        view: the scene.
        outline: polygon in display pixels.
        side: of the pictures in pixels.

    Returns:
        Two (side,side,3) uint8.
    """
    box = _surroundings(outline, view.shape_hw)
    longest = max(box.shape_hw)
    size = (max(1, round(side * box.height / longest)), max(1, round(side * box.width / longest)))
    read = view.read(box, (min(size[0], box.height), min(size[1], box.width)))
    scale = np.array([size[1] / box.width, size[0] / box.height])
    rings = shapely.get_rings(shapely.get_parts(outline))
    corners = [(shapely.get_coordinates(r) - [box.col, box.row]) * scale for r in rings]
    contours = [np.round(points * 16).astype(np.int32)[:, None] for points in corners]
    pictures = []
    for date in read:
        canvas = np.full((side, side, 3), BLANK, np.uint8)
        inner = cv2.resize(date, size[::-1], interpolation=cv2.INTER_LINEAR)
        inner = np.ascontiguousarray(inner)
        cv2.polylines(inner, contours, True, CHANGE_RGB, 1, cv2.LINE_AA, shift=4)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        canvas[top : top + size[0], left : left + size[1]] = inner
        pictures.append(canvas)
    return pictures[0], pictures[1]


def both_dates(view: View, outline: Any) -> bytes:
    """A polygon before and after, side by side, as JPEG."""
    return encoded(np.hstack(thumbnail(view, outline, THUMB_SIDES[0])), ".jpg")


def _surroundings(outline: Any, shape_hw: ShapeHW) -> Box:
    """A square around a polygon, moved and cut to lie within the scene."""
    x0, y0, x1, y1 = outline.bounds
    side = max(LEAST_SCENE_PX, math.ceil(AROUND * max(x1 - x0, y1 - y0)))
    spans = []
    for low, high, size in ((y0, y1, shape_hw[0]), (x0, x1, shape_hw[1])):
        length = min(side, size)
        start = math.floor((low + high - length) / 2)
        spans.append((min(max(start, 0), size - length), length))
    (top, height), (left, width) = spans
    return Box(top, left, height, width)


def embedded_thumbs(
    view: View, outlines: Sequence[Any], budget: int, most: int, progress: Progress = silent
) -> list[tuple[str, str] | None]:
    """Thumbnails of all polygons, smaller where many have to fit.

    Args:
        view: the scene.
        outlines: (N,) in display pixels, the most important first.
        budget: characters that all should take in the page, which settles their size.
        most: characters that all may take, if the smallest need more.
        progress: progress callback.

    Returns:
        (N,) before and after; None for the last ones, where not even the smallest of all fit.
    """
    side = next(
        (s for s in THUMB_SIDES if _thumb_size(view, outlines, s) * len(outlines) < budget),
        THUMB_SIDES[-1],
    )
    found: list[tuple[str, str] | None] = []
    left = most
    for done, outline in enumerate(outlines):
        progress("thumbnails", done, len(outlines))
        before, after = (text_of(encoded(one)) for one in thumbnail(view, outline, side))
        left -= len(before) + len(after) + 8
        if left < 0:
            break
        found.append((before, after))
    progress("thumbnails", len(outlines), len(outlines))
    return found + [None] * (len(outlines) - len(found))


def _thumb_size(view: View, outlines: Sequence[Any], side: int) -> float:
    """Characters that a pair of thumbnails takes on average, with something to spare."""
    some = outlines[:: max(1, len(outlines) // 16)]
    sizes = [
        len(text_of(encoded(one))) for outline in some for one in thumbnail(view, outline, side)
    ]
    return 1.2 * 2 * float(np.mean(sizes)) if sizes else 0.0
